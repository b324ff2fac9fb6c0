"""What is kept of training: checkpoints to go on from, and an encoder that plain timm loads. It knows no engine."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from curation.encoder import read_weights
from training.loop import State
from training.mae import load_published
from training.methods import Method

CHECKPOINT = "checkpoint.pt"


def save(state: State, folder: str) -> None:
    """Write a checkpoint into a folder, whole or not at all. OSError where the disk is full."""
    target = Path(folder) / CHECKPOINT
    temporary = target.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(folder: str) -> State:
    """Read a checkpoint."""
    state: State = torch.load(Path(folder) / CHECKPOINT, map_location="cpu", weights_only=True)
    return state


def initialise_from(method: Method, path: str) -> None:
    """Load a weights file into the method's encoder (and the rest of its module where the file has it).

    Takes our checkpoints, timm's encoders and published MAE checkpoints. ValueError where the encoder does not fit.
    """
    wanted = method.module.state_dict()
    found = load_published(read_weights(path))
    encoder = {name for name in wanted if name.startswith("encoder.")}
    missing = sorted(encoder - found.keys())
    shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(encoder & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    if missing or shapes:
        raise ValueError(f"weights {path} do not fit the encoder: missing {missing[:3]}, other shapes {shapes[:3]}")
    fitting = {name: value for name, value in found.items() if name in wanted and value.shape == wanted[name].shape}
    method.module.load_state_dict(fitting, strict=False)


def export_encoder(encoder: VisionTransformer, folder: str, card: dict[str, Any]) -> None:
    """Write encoder.safetensors (timm's layout) and card.json: what it was trained on, how, and at what cost."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    path = Path(folder) / "encoder.safetensors"
    save_file(tensors, path.with_suffix(".tmp"), metadata={"card": json.dumps(card)})
    os.replace(path.with_suffix(".tmp"), path)
    (Path(folder) / "card.json").write_text(json.dumps(card, indent=2) + "\n")
