"""A timm Vision Transformer that turns images into unit vectors. It knows neither frames nor the engine.

Legend: N images, S their side in pixels, T tokens, D dimensions of an embedding.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors.torch import load as load_bytes
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from curation.config import EmbedConfig
from curation.filesystems import filesystem_of
from curation.options import require
from curation.store import RunDirectory
from curation.vectors import as_tensor

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNTRAINED = "random"
WEIGHTS, CARD = "encoder.safetensors", "card.json"  # of an encoder that was trained here
USUAL_SIZE = 224


def resolve_precision(wanted: str, gpu: bool) -> Literal["float32", "bfloat16", "float16"]:
    """The arithmetic that `auto` stands for: bfloat16 on a GPU or a CPU that has it, else float32."""
    if wanted == "auto":
        native = gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bfloat16" if native else "float32"
    return cast(Literal["float32", "bfloat16", "float16"], wanted)


def resolved(config: EmbedConfig) -> EmbedConfig:
    """Put names for what the config leaves open: a folder's architecture, weights and image size.

    ValueError: a folder that holds no finished training.
    """
    if not (Path(config.encoder).is_dir() or "://" in config.encoder):
        return dataclasses.replace(config, image_size=config.image_size or USUAL_SIZE)
    folder = RunDirectory(config.encoder)
    require(
        folder.exists(WEIGHTS) and folder.exists(CARD),
        f"encoder {config.encoder} is a folder without {WEIGHTS} and {CARD}; give the output of a finished "
        "`python -m training pretrain`, or a timm name",
    )
    recipe = folder.read_json(CARD)["recipe"]
    weights = config.weights or f"{folder.address}/{WEIGHTS}"
    size = config.image_size or recipe["image_size"]
    return dataclasses.replace(config, encoder=recipe["encoder"], weights=weights, image_size=size)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Tensors by name from a safetensors file or a PyTorch checkpoint. ValueError where there are none."""
    system, place = filesystem_of(path)
    require(system.get_file_info(place).is_file, f"weights file {path} does not exist")
    try:
        with system.open_input_file(place) as file:
            if path.endswith(".safetensors"):
                return load_bytes(file.read())
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    for key in ("model", "state_dict", "encoder"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    tensors = isinstance(checkpoint, dict) and all(torch.is_tensor(value) for value in checkpoint.values())
    require(bool(tensors), f"weights file {path} holds no tensors by name (nor under model or state_dict)")
    return cast(dict[str, torch.Tensor], checkpoint)


def build(config: EmbedConfig) -> VisionTransformer:
    """The encoder of `config` in float32 on the CPU, ready for inference.

    A position table of another size is resampled by timm. ValueError: unknown name, no Vision Transformer, an
    image size that the patches do not divide, weights that do not fit, are not finite or cannot be had.
    """
    config = resolved(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _create(config, pretrained=config.weights is None)
    require(
        config.pooling == "mean" or bool(model.has_class_token),
        f"encoder {config.encoder} has no class token; use --pooling mean",
    )
    if config.weights is not None and config.weights != UNTRAINED:
        _load(model, read_weights(config.weights), config)
    _check_finite(model, config)
    return model.eval().requires_grad_(False)


def _create(config: EmbedConfig, pretrained: bool) -> VisionTransformer:
    known = timm.list_models(module="vision_transformer")
    name = config.encoder.split(".")[0].removeprefix("hf-hub:")
    if name not in known and "/" not in name:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "vit_base_patch16_224"
        raise ValueError(f"encoder {config.encoder!r} is no Vision Transformer of timm; did you mean {near}?")
    try:
        model = timm.create_model(config.encoder, pretrained=pretrained, num_classes=0, img_size=config.image_size)
    except (AssertionError, RuntimeError, TypeError) as error:
        if pretrained and isinstance(error, RuntimeError):
            raise _no_weights(config, error) from error
        raise ValueError(
            f"encoder {config.encoder} cannot be made for images of {config.image_size} px: {error}"
        ) from error
    except (OSError, ValueError) as error:  # what the hub raises without network or without such weights
        raise _no_weights(config, error) from error
    patch = cast(Any, model.patch_embed).patch_size[0]
    require(
        config.image_size % patch == 0,
        f"image_size {config.image_size} is not a multiple of the encoder's patch, {patch}; "
        f"use {config.image_size // patch * patch or patch}",
    )
    return cast(VisionTransformer, model)


def _no_weights(config: EmbedConfig, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f"the weights of {config.encoder} could not be had from the hub ({reason}); connect to the network, or "
        "give --weights FILE (safetensors or a PyTorch checkpoint), or --weights random for an untrained encoder"
    )


def _load(model: VisionTransformer, tensors: dict[str, torch.Tensor], config: EmbedConfig) -> None:
    wanted = model.state_dict()
    try:
        fitted = checkpoint_filter_fn(tensors, model)
    except (RuntimeError, KeyError, AttributeError, AssertionError) as error:
        raise ValueError(f"weights {config.weights} do not fit {config.encoder}: {error}") from error
    missing = sorted(wanted.keys() - fitted.keys())
    shapes = [
        f"{name} is {tuple(fitted[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted.keys() & fitted.keys()
        if fitted[name].shape != wanted[name].shape
    ]
    require(
        not missing and not shapes,
        f"weights {config.weights} do not fit {config.encoder}: {len(missing)} tensors missing "
        f"({', '.join(missing[:3])}), {len(shapes)} of another shape ({'; '.join(sorted(shapes)[:3])}); "
        "name the encoder they were trained as with --encoder",
    )
    model.load_state_dict({name: fitted[name] for name in wanted})


def _check_finite(model: VisionTransformer, config: EmbedConfig) -> None:
    """ValueError, naming them, where weights are NaN or infinite: no frame would have a vector."""
    tensors = model.state_dict().items()
    bad = [name for name, tensor in tensors if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    require(
        not bad,
        f"weights {config.weights or 'from the hub'} of {config.encoder} hold values that are not finite, in "
        f"{len(bad)} tensors ({', '.join(bad[:3])}), as a training that diverged leaves them; use another checkpoint",
    )


class Encoder:
    """A model on a device, from uint8 images to unit vectors."""

    def __init__(self, config: EmbedConfig, precision: str, device: str) -> None:
        self.device = torch.device(device)
        self.dtype = PRECISIONS[precision]
        self.pooling = config.pooling
        self.batch_size = config.batch_size or (8 if self.device.type == "cpu" else config.chunk_rows)
        model = build(config)
        statistics = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
        shape = (1, 3, 1, 1)
        self.mean = (torch.tensor(statistics["mean"]) * 255).view(shape).to(self.device, self.dtype)
        self.std = (torch.tensor(statistics["std"]) * 255).view(shape).to(self.device, self.dtype)
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
