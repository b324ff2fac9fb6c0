"""A timm Vision Transformer that turns images into unit vectors. It is independent of frames and of Ray.

Legend: N images, S their side in pixels, T tokens, D dimensions of an embedding.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from curation.embeddings.checkpoints import ChannelValues, Checkpoint, Normalisation, normalisation, read_weights
from curation.embeddings.config import EmbedConfig
from curation.embeddings.vectors import as_tensor
from curation.embeddings.weights import FAMILIES, Fit, fit_weights
from curation.options import require
from curation.store.directory import RunDirectory
from curation.store.filesystems import absolute, below

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNTRAINED = "random"
WEIGHTS, CARD = "encoder.safetensors", "card.json"  # of an encoder that was trained here
USUAL_SIZE = 224
CPU_BATCH = 8  # images of one forward pass: what stays in a core's cache


def resolved(config: EmbedConfig) -> EmbedConfig:
    """The config with what it leaves open: a folder's architecture, weights (absolute) and image size.

    ValueError: a folder without a finished training.
    """
    name, image_size, weights = resolve(config.encoder, config.image_size, config.weights)
    return dataclasses.replace(config, encoder=name, image_size=image_size, weights=weights)


def resolve(name: str, image_size: int = 0, weights: str | None = None) -> tuple[str, int, str | None]:
    """The timm name, image size and weights (an absolute address) that an encoder's name or folder stands for.

    ValueError: a folder without a finished training.
    """
    if weights not in (None, UNTRAINED):
        weights = absolute(str(weights))
    if not (Path(name).expanduser().is_dir() or "://" in name):
        return name, image_size or USUAL_SIZE, weights
    folder = RunDirectory(name)
    require(
        folder.exists(WEIGHTS) and folder.exists(CARD),
        f"encoder {name} is a folder without {WEIGHTS} and {CARD}; give the output of a finished "
        "`python -m training pretrain`, or a timm name",
    )
    recipe = folder.read_json(CARD)["recipe"]
    return recipe["encoder"], image_size or recipe["image_size"], weights or below(folder.address, WEIGHTS)


def configured(config: EmbedConfig) -> VisionTransformer:
    """The encoder of a config: `build`, and ValueError where it lacks the class token that is to be pooled."""
    model = build(config.encoder, config.image_size, config.weights, config.seed, config.statistics)
    require(
        config.pooling == "mean" or model.cls_token is not None,
        f"encoder {config.encoder} has no class token; use --pooling mean",
    )
    return model


def build(
    name: str, image_size: int = 0, weights: str | None = None, seed: int = 0, statistics: str = "auto"
) -> VisionTransformer:
    """An encoder in float32 on the CPU, ready for inference; `statistics` as in EmbedConfig.

    `name` is timm's or a folder of a finished training; `weights` a file, `random` (drawn from the seed), or None for
    the folder's or the hub's. They are fitted by the rules of curation/embeddings/weights.py, and the statistics that
    come with them are in `pretrained_cfg`, where timm's data config looks; `about` describes both. ValueError: unknown
    name, not a Vision Transformer, an image size that the patches do not divide, weights that do not fit, are not
    finite or cannot be downloaded.
    """
    name, image_size, weights = resolve(name, image_size, weights)
    checkpoint = read_weights(weights) if weights not in (None, UNTRAINED) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(name, image_size, pretrained=weights is None)
    if checkpoint is not None:
        load_into(model, checkpoint, name)
    _check_finite(model, f"{weights or 'from the hub'} of {name}")
    normalise_by(model, checkpoint, statistics)
    return model.eval().requires_grad_(False)


def load_into(model: VisionTransformer, checkpoint: Checkpoint, encoder: str) -> Fit:
    """Load a checkpoint into timm's `encoder`; note and return what was dropped. ValueError where it does not fit."""
    fitted = fit_weights(checkpoint, model, encoder)
    model.load_state_dict(fitted.tensors)
    described = cast(Any, model)
    described.pretrained_cfg = {**described.pretrained_cfg, "found": fitted.note()}
    return fitted


def normalise_by(model: VisionTransformer, checkpoint: Checkpoint | None, requested: str) -> Normalisation:
    """Put the statistics for these weights where timm's data config finds them, and return them."""
    chosen, described = normalisation(checkpoint, requested, statistics_of(model)), cast(Any, model)
    known = {"mean": chosen.mean, "std": chosen.std, "statistics": chosen.note()}
    described.pretrained_cfg = {**described.pretrained_cfg, **known}
    return chosen


def statistics_of(model: VisionTransformer) -> tuple[ChannelValues, ChannelValues]:
    """Mean and standard deviation of the colours, in 0 to 1, that this model's images are normalised by."""
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return tuple(data["mean"]), tuple(data["std"])


def about(model: VisionTransformer) -> str:
    """Which statistics a built encoder expects, under which prefix its weights were found, and what was dropped."""
    cfg = cast(dict[str, Any], model.pretrained_cfg)
    return "; ".join(filter(None, (cfg.get("statistics", ""), cfg.get("found", ""))))


def _create(encoder: str, image_size: int, pretrained: bool) -> VisionTransformer:
    known = [model for family in FAMILIES for model in timm.list_models(module=family)]
    name = encoder.partition(".")[0].removeprefix("hf-hub:")
    if name not in known and "/" not in name:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "vit_base_patch16_224"
        raise ValueError(f"encoder {encoder!r} is not a Vision Transformer of timm; did you mean {near}?")
    try:
        model = timm.create_model(encoder, pretrained=pretrained, num_classes=0, img_size=image_size)
    except (AssertionError, RuntimeError, TypeError) as error:
        if pretrained and isinstance(error, RuntimeError):
            raise _no_weights(encoder, error) from error
        raise ValueError(f"encoder {encoder} cannot be made for images of {image_size} px: {error}") from error
    except (OSError, ValueError) as error:  # raised by the hub without network or without such weights
        raise _no_weights(encoder, error) from error
    patch = cast(Any, model.patch_embed).patch_size[0]
    require(
        image_size % patch == 0,
        f"image_size {image_size} is not a multiple of the encoder's patch, {patch}; "
        f"use {image_size // patch * patch or patch}",
    )
    return cast(VisionTransformer, model)


def _no_weights(encoder: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f"the weights of {encoder} could not be downloaded from the hub ({reason}); connect to the network, or "
        "give --weights FILE (safetensors or a PyTorch checkpoint), or --weights random for an untrained encoder"
    )


def _check_finite(model: VisionTransformer, weights: str) -> None:
    """ValueError, naming them, where weights are NaN or infinite: no frame would have a vector."""
    tensors = model.state_dict().items()
    bad = [name for name, tensor in tensors if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    require(
        not bad,
        f"weights {weights} hold values that are not finite, in "
        f"{len(bad)} tensors ({', '.join(bad[:3])}), as a training that diverged leaves them; use another checkpoint",
    )


class Encoder:
    """A model on a device, from uint8 images to unit vectors."""

    def __init__(self, config: EmbedConfig, precision: str, device: str) -> None:
        self.device = torch.device(device)
        self.dtype = PRECISIONS[precision]
        self.pooling = config.pooling
        self.batch_size = min(config.chunk_rows, CPU_BATCH) if self.device.type == "cpu" else config.chunk_rows
        model = configured(config)
        mean, std = statistics_of(model)
        shape = (1, 3, 1, 1)
        self.mean = (torch.tensor(mean) * 255).view(shape).to(self.device, self.dtype)
        self.std = (torch.tensor(std) * 255).view(shape).to(self.device, self.dtype)
        self.model = model.to(self.device, self.dtype)

    @torch.inference_mode()
    def __call__(self, images_NSS3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 [N, D], of uint8 images [N, S, S, 3]."""
        pieces = [
            self._forward(as_tensor(images_NSS3[start : start + self.batch_size]))
            for start in range(0, len(images_NSS3), self.batch_size)
        ]
        return torch.cat(pieces).cpu().numpy()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).to(self.dtype)
        tokens_NTD = self.model.forward_features((pixels - self.mean) / self.std).float()
        prefix = self.model.num_prefix_tokens
        pooled = tokens_NTD[:, 0] if self.pooling == "cls" else tokens_NTD[:, prefix:].mean(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1)
