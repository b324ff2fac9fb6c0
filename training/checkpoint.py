"""What is kept of training: checkpoints to go on from, and an encoder that plain timm loads. It knows no engine.

A checkpoint is OUTPUT/checkpoints/update-00000500/checkpoint.pt, which appears whole or not at all.
"""

import functools
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as to_safetensors
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from curation.config import EmbedConfig
from curation.encoder import CARD, WEIGHTS, build, read_weights
from curation.store import RunDirectory
from training.loop import State
from training.mae import MaeConfig, load_published
from training.methods import Method
from training.simclr import SimclrConfig

FOLDER, CHECKPOINT = "checkpoints", "checkpoint.pt"


def name_of(update: int) -> str:
    """The folder of the checkpoint after `update` updates, below checkpoints/."""
    return f"update-{update:08d}"


def save(state: State, folder: str) -> None:
    """Write a checkpoint into a local folder, whole or not at all. OSError where the disk is full."""
    target = Path(folder) / CHECKPOINT
    temporary = target.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def upload(folder: str, run: RunDirectory, name: str) -> str:
    """Put the checkpoint of a local folder at its place in `run`, whole or not at all; return its path there."""
    with (Path(folder) / CHECKPOINT).open("rb") as local, run.create(f"{FOLDER}/{name}/{CHECKPOINT}") as stream:
        shutil.copyfileobj(local, stream, 16 << 20)
    return f"{run.root}/{FOLDER}/{name}"


def kept(run: RunDirectory) -> list[int]:
    """Updates whose checkpoints are whole, ascending."""
    found = (re.fullmatch(r"update-(\d+)", name) for name in run.folders(FOLDER))
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if run.exists(f"{FOLDER}/{name_of(number)}/{CHECKPOINT}")]


def last(run: RunDirectory) -> int:
    """The update of the newest whole checkpoint; 0 where there is none."""
    return (kept(run) or [0])[-1]


def load(run: RunDirectory, update: int) -> State:
    """Read the checkpoint after `update` updates."""
    with run.open(f"{FOLDER}/{name_of(update)}/{CHECKPOINT}") as file:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
        return state


def prune(run: RunDirectory, keep: int) -> None:
    """Delete all checkpoints but the last `keep`, and what half-written ones left behind."""
    run.clear_temporary(FOLDER)
    last = {name_of(update) for update in kept(run)[-keep:]}
    for name in run.folders(FOLDER):
        if re.fullmatch(r"update-\d+", name) and name not in last:
            run.delete_folder(f"{FOLDER}/{name}")


def initialise_from(method: Method, init: str, config: MaeConfig | SimclrConfig) -> None:
    """Load a weights file, or timm's weights by name, into the method's encoder.

    A file may also hold the rest of the method's module. Takes our checkpoints, timm's encoders and published MAE
    checkpoints; a position table of another size is resampled. ValueError where the encoder does not fit.
    """
    wanted = method.module.state_dict()
    if Path(init).exists() or not known(init):
        found = load_published(read_weights(init))
    else:
        found = {f"encoder.{name}": value for name, value in build(named(init, config)).state_dict().items()}
    found = resampled(found, method.encoder, init)
    encoder = {name for name in wanted if name.startswith("encoder.")}
    missing = sorted(encoder - found.keys())
    shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(encoder & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    if missing or shapes:
        raise ValueError(
            f"weights {init} do not fit the encoder {config.encoder}: missing {missing[:3]}, other shapes "
            f"{shapes[:3]}; name the encoder they were trained as with --encoder"
        )
    fitting = {name: value for name, value in found.items() if name in wanted and value.shape == wanted[name].shape}
    method.module.load_state_dict(fitting, strict=False)


def identity(init: str) -> str:
    """What weights to begin with are, wherever they lie: a file's by the hash of its bytes, others by their name."""
    path = Path(init)
    return f"sha256:{file_hash(init, path.stat().st_mtime_ns)}" if path.is_file() else init


@functools.lru_cache
def file_hash(path: str, _modified: int) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def located(init: str) -> str:
    """Where weights to begin with are, for any process: an absolute path where there is such a file or folder."""
    return str(Path(init).absolute()) if Path(init).exists() else init


def known(name: str) -> bool:
    """Whether timm has a model of this name, or may find it on the hub."""
    prefix, colon, _ = name.partition(":")
    return timm.is_model(name) or (colon == ":" and prefix in ("hf-hub", "hf_hub", "timm", "local-dir"))


def named(init: str, config: MaeConfig | SimclrConfig) -> EmbedConfig:
    """The config that builds timm's own weights."""
    return EmbedConfig(run_dir="", encoder=init, image_size=config.image_size, pooling="mean")


def resampled(found: dict[str, Tensor], encoder: VisionTransformer, init: str) -> dict[str, Tensor]:
    """Bring the position table in `found` to the encoder's size, as timm does for its own weights."""
    inner = {name.removeprefix("encoder."): value for name, value in found.items() if name.startswith("encoder.")}
    try:
        fitted = checkpoint_filter_fn(inner, encoder)
    except (RuntimeError, KeyError, AttributeError, AssertionError) as error:
        raise ValueError(f"weights {init} do not fit the encoder: {error}") from error
    return found | {f"encoder.{name}": value for name, value in fitted.items()}


def export_encoder(encoder: dict[str, Tensor], run: RunDirectory, card: dict[str, Any]) -> None:
    """Write encoder.safetensors (timm's layout) and card.json: what it was trained on, how, and at what cost."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.items()}
    run.write_bytes(WEIGHTS, to_safetensors(tensors, metadata={"card": json.dumps(card)}))
    run.write_json(CARD, card)
