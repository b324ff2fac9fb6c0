"""The weights that pre-training starts with, and the encoder it exports, which plain timm loads. It knows no engine."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save as to_safetensors
from torch import Tensor

from curation.embeddings.checkpoints import read_weights
from curation.embeddings.encoder import CARD, WEIGHTS, build, load_into, normalise_by
from curation.options import require
from curation.store.directory import RunDirectory
from training.methods.config import ModelConfig
from training.methods.method import Method


def initialise_from(method: Method, init: str, config: ModelConfig) -> None:
    """Load a weights file, an output folder of ours, or timm's weights by name, into the method's encoder.

    A file may also hold the rest of the method's module, ours or a published MAE's. curation/embeddings/weights.py
    describes what fits; images are normalised by the statistics of the weights from then on. ValueError where the
    encoder does not fit.
    """
    encoder, expected = method.encoder, method.module.state_dict()
    if (Path(init) / WEIGHTS).is_file():
        init = str(Path(init) / WEIGHTS)
    if not Path(init).exists() and is_timm_name(init):
        built = build(init, config.image_size)
        theirs, ours = built.state_dict(), encoder.state_dict()
        wrong = [
            f"{name} is {tuple(theirs[name].shape) if name in theirs else 'missing'}, expected {tuple(each.shape)}"
            for name, each in ours.items()
            if name not in theirs or theirs[name].shape != each.shape
        ]
        require(
            not wrong and theirs.keys() == ours.keys(),
            f"weights {init} do not fit the encoder {config.encoder}: {'; '.join(wrong[:3])}; name the encoder "
            "they were trained as with --encoder",
        )
        encoder.load_state_dict(theirs)
        encoder.pretrained_cfg = built.pretrained_cfg
        return
    checkpoint = read_weights(init)
    found = load_into(encoder, checkpoint, f"the encoder {config.encoder}")
    normalise_by(encoder, checkpoint, "auto")
    rest = method.remaining_tensors(checkpoint.tensors, found.prefix)
    fitting = {name: value for name, value in rest.items() if name in expected and value.shape == expected[name].shape}
    method.module.load_state_dict(fitting, strict=False)


def init_identity(init: str) -> str:
    """The identity of initial weights, wherever they are: a file by the hash of its bytes, others by their name."""
    path = Path(init)
    return f"sha256:{file_hash(init, path.stat().st_mtime_ns)}" if path.is_file() else init


@functools.lru_cache
def file_hash(path: str, _modified: int) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def absolute_init(init: str) -> str:
    """The location of initial weights, for any process: an absolute path if there is such a file or folder."""
    return str(Path(init).absolute()) if Path(init).exists() else init


def is_timm_name(name: str) -> bool:
    """Whether timm has a model of this name, or can find it on the hub."""
    prefix, colon, _ = name.partition(":")
    return timm.is_model(name) or (colon == ":" and prefix in ("hf-hub", "hf_hub", "timm", "local-dir"))


def export_encoder(encoder: dict[str, Tensor], run: RunDirectory, card: dict[str, Any]) -> None:
    """Write encoder.safetensors (timm's layout) and card.json: what it was trained on, how, and at what cost."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.items()}
    run.write_bytes(WEIGHTS, to_safetensors(tensors, metadata={"card": json.dumps(card)}))
    run.write_json(CARD, card)
