"""Weights files read safely: tensors by name, and the statistics that a file records. It is independent of models.

No code in a file is run: besides what PyTorch allows, the only Python class accepted is argparse.Namespace, which
MAE's and DINO's files hold.
"""

import argparse
import json
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import Tensor

from curation.options import require
from curation.store.filesystems import filesystem_of

ChannelValues = tuple[float, float, float]

LOAD_ERRORS = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(struct.error, zipfile.BadZipFile, SafetensorError),
)
DESCRIBING = ("pretrained_cfg", "default_cfg", "statistics")  # what files call the record of their statistics
KNOWN_STATISTICS: dict[str, tuple[ChannelValues, ChannelValues]] = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
ORIGINS = (  # names that show the origin of weights, and the statistics that all published ones of the kind have
    (re.compile(r"(?:^|\.)logit_bias$"), "half", "SigLIP"),
    (re.compile(r"(?:^|\.)(?:visual\.|vision_model\.)"), "clip", "CLIP"),
    (re.compile(r"(?:^|\.)decoder_(?:embed|pred|blocks)\."), "imagenet", "MAE"),
    (re.compile(r"(?:^|\.)(?:storage_tokens|register_tokens)$"), "imagenet", "DINOv2 or DINOv3"),
    (re.compile(r"(?:^|\.)(?:teacher|student)[._]"), "imagenet", "DINO"),
    (re.compile(r"(?:^|\.)(?:base|momentum)_encoder\."), "imagenet", "MoCo"),
    (re.compile(r"^mask_token$"), "imagenet", "DINOv2"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by name, dictionaries in it joined by dots, and its record of statistics."""

    path: str
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of colours in 0 to 1 that an encoder expects, and how they are known."""

    mean: ChannelValues
    std: ChannelValues
    source: str

    def note(self) -> str:
        """Return them in words."""
        name = next((name for name, known in KNOWN_STATISTICS.items() if known == (self.mean, self.std)), None)
        shown = name or f"mean {shortly(self.mean)}, deviation {shortly(self.std)}"
        return f"colours normalised by {shown} ({self.source})"


def shortly(values: ChannelValues) -> str:
    """Return three numbers as text."""
    return "/".join(f"{value:.4g}" for value in values)


def read_weights(path: str) -> Checkpoint:
    """Read a safetensors file or a PyTorch checkpoint, local or in object storage.

    ValueError: no such file, one that cannot be read, one that holds classes or no tensors.
    """
    system, place = filesystem_of(path)
    require(system.get_file_info(place).is_file, f"weights file {path} does not exist")
    about: dict[str, Any] = {}
    try:
        with system.open_input_file(place) as file:
            if path.endswith(".safetensors"):
                data = file.read()
                content: Any = load_bytes(data)
                about = recorded_statistics(
                    json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
                )
            else:
                with torch.serialization.safe_globals([argparse.Namespace]):
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise ValueError(f"weights file {path} cannot be read: {reason(error)}") from error
    tensors: dict[str, Tensor] = {}
    collect(content, "", tensors, about)
    require(bool(tensors), f"weights file {path} holds no tensors by name (nor under model, state_dict or another key)")
    return Checkpoint(path, tensors, about)


def reason(error: Exception) -> str:
    """Return why a file cannot be read; for a class in it, its name and what to do."""
    text = str(error)
    if found := re.search(r"(?:GLOBAL|class|global:?) ([\w.]+\.\w+)", text):
        return (
            f"it holds an object of the class {found[1]}, and loading that would run code of the file. Where you trust "
            "it, write its tensors alone: torch.save(torch.load(FILE, weights_only=False)['model'], NEW), or "
            "model.state_dict() where a whole model was saved"
        )
    return text.splitlines()[0] if text else type(error).__name__


def collect(value: Any, name: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Add the tensors of nested dictionaries under joined names, and records of statistics to `about`."""
    if torch.is_tensor(value):
        if name:
            tensors[name] = value
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in DESCRIBING and isinstance(inner, dict) and {"mean", "std"} <= inner.keys():
                about["statistics"] = inner
            else:
                collect(inner, f"{name}.{key}" if name else str(key), tensors, about)


def recorded_statistics(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the record of statistics in the metadata of a safetensors file: its own, or in our card."""
    result: dict[str, Any] = {}
    for key in ("card", *DESCRIBING):
        try:
            value = json.loads(metadata.get(key, "null"))
        except ValueError:
            continue
        collect(value if key == "card" else {key: value}, "", {}, result)
    return result


def statistics_beside(path: str) -> dict[str, Any]:
    """Return the record of statistics in the config.json that timm puts next to its weights, if there is one."""
    system, place = filesystem_of(path)
    sibling = f"{place.rpartition('/')[0]}/config.json" if "/" in place else "config.json"
    result: dict[str, Any] = {}
    if system.get_file_info(sibling).is_file:
        try:
            with system.open_input_file(sibling) as file:
                collect(json.loads(file.read()), "", {}, result)
        except ValueError:
            return {}
    return result


def normalisation(
    checkpoint: Checkpoint | None, requested: str, default: tuple[ChannelValues, ChannelValues]
) -> Normalisation:
    """Return the statistics for weights: `requested` by name, or with auto those that come with them.

    With auto: the file's own record, timm's config.json next to it, those of the kind that its names show (MAE, DINO,
    MoCo, CLIP, SigLIP), else `default`, timm's for the encoder's name, as with requested = timm and without a file.
    """
    if requested in KNOWN_STATISTICS:
        return Normalisation(*KNOWN_STATISTICS[requested], "as requested")
    if checkpoint is None or requested == "timm":
        return Normalisation(*default, "timm's for this encoder")
    for found, source in (
        (checkpoint.about, "recorded in the weights"),
        (statistics_beside(checkpoint.path), "config.json"),
    ):
        if "statistics" in found:
            mean, std = (three(found["statistics"][key], checkpoint.path) for key in ("mean", "std"))
            return Normalisation(mean, std, source)
    for pattern, name, kind in ORIGINS:
        if any(pattern.search(key) for key in checkpoint.tensors):
            return Normalisation(*KNOWN_STATISTICS[name], f"as all weights in the layout of {kind}")
    return Normalisation(*default, "timm's for this encoder; the weights do not say")


def three(values: Any, path: str) -> ChannelValues:
    """Return three numbers in 0 to 1. ValueError for others."""
    fits = isinstance(values, list | tuple) and len(values) == 3 and all(0 <= float(value) <= 1 for value in values)
    require(fits, f"weights {path} record colours normalised by {values}; expected three numbers from 0 to 1")
    first, second, third = (float(value) for value in values)
    return first, second, third
