"""Encoders loaded for segmentation, and the tokens they compute of images. It knows neither masks nor data sets."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from curation.embeddings.encoder import PRECISIONS, UNTRAINED, build
from curation.embeddings.vectors import as_tensor
from curation.engine.chips import Precision
from training.datasets.codings import UInt8
from training.methods.augment import normalise, random_crops
from training.methods.config import Augmentation
from training.methods.mae import build_encoder, pixel_statistics


def whole_images(*, horizontal: bool = False, vertical: bool = False) -> Augmentation:
    """Return the view that takes each image whole, flipped or not."""
    return Augmentation(
        scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=float(horizontal), vertical_flip=float(vertical)
    )


def load_encoder(
    source: str, image_size: int, name: str | None = None, seed: int = 0, statistics: Any = "auto"
) -> VisionTransformer:
    """Load an encoder for images of `image_size` pixels: float32, on the CPU, its position table resampled.

    `source` is a folder that pre-training wrote (encoder.safetensors, card.json), a weights file of the timm model
    `name`, or `random`: `name` with weights drawn from the seed as pre-training from scratch draws them. `statistics`
    is EmbedConfig's. ValueError: no such file, no name, weights that do not fit, an image size that is not a multiple
    of the patch.
    """
    if source == UNTRAINED and name is not None:
        return build_encoder(name, image_size, torch.Generator().manual_seed(seed)).eval().requires_grad_(False)
    if name is None and (Path(source).is_dir() or "://" in source):
        name, source = source, ""
    if name is None:
        raise ValueError(f"the encoder of {source} is not named; add its name in timm, such as vit_base_patch16_224")
    return build(name, image_size, source or None, statistics=statistics)


def input_size(encoder: VisionTransformer) -> int:
    """Side in pixels of the images that the encoder was made for."""
    return int(cast(Any, encoder.patch_embed).img_size[0])


def patch_tokens(encoder: VisionTransformer, pixels_BCSS: Tensor) -> Tensor:
    """Return the patches' tokens [B, T, D] after the last norm, of pixels in 0 to 1; the encoder's own statistics."""
    features = encoder.forward_features(normalise(pixels_BCSS, *pixel_statistics(encoder)))
    return cast(Tensor, encoder.fc_norm(features))[:, encoder.num_prefix_tokens :]


def encode(
    encoder: VisionTransformer, images: UInt8, precision: Precision, view: Augmentation | None = None, batch: int = 64
) -> Iterator[Tensor]:
    """Yield the tokens [B, T, D] of uint8 images [N, S0, S0, 3], without gradients, on the encoder's device.

    They are in `precision`, as is the arithmetic. `view` is one of `whole_images`.
    """
    device = next(encoder.parameters()).device
    unused = torch.Generator()  # views of whole images are not random
    for start in range(0, len(images), batch):
        piece = as_tensor(np.ascontiguousarray(images[start : start + batch])).to(device)
        pixels = random_crops(piece, input_size(encoder), view or whole_images(), unused)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            tokens_BTD = patch_tokens(encoder, pixels).to(PRECISIONS[precision])
        yield tokens_BTD


def grid_side(tokens_NTD: Tensor) -> int:
    """How many patches lie along a side."""
    grid = math.isqrt(tokens_NTD.shape[1])
    assert grid * grid == tokens_NTD.shape[1]
    return grid
