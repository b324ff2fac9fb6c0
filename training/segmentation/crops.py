"""Images and their masks cropped, scaled and flipped alike. It knows no model.

Legend: B images and masks of a batch, S side of the crops.
"""

import torch
from torch import Tensor

from training.methods.augment import random_boxes, random_crops
from training.methods.config import Augmentation


def paired_crops(
    images: Tensor, masks: Tensor, size: int, config: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crop, scale and flip images and masks alike: float32 [B, 3, S, S] in 0 to 1, and uint8 [B, S, S]."""
    same_state = torch.Generator().set_state(generator.get_state())
    return random_crops(images, size, config, generator), mask_crops(masks, size, config, same_state)


def mask_crops(masks: Tensor, size: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, scale and flip masks as `random_crops` does images, from a generator in the same state.

    A pixel gets the class at its centre: classes are never mixed.
    """
    batch, height, width = masks.shape
    boxes = random_boxes(batch, height, width, config, generator)
    vertical, horizontal = torch.rand(2, batch, generator=generator).unbind()
    top, left, tall, wide = boxes.unbind(dim=1)
    rows = _sampled(top, tall, size, vertical < config.vertical_flip).to(masks.device)
    columns = _sampled(left, wide, size, horizontal < config.horizontal_flip).to(masks.device)
    image = torch.arange(batch, device=masks.device)[:, None, None]
    return masks[image, rows[:, :, None], columns[:, None, :]]


def _sampled(start_B: Tensor, length_B: Tensor, size: int, flip_B: Tensor) -> Tensor:
    """Return the source rows at the centres of `size` rows, int64 [B, S]."""
    within = (2 * torch.arange(size) + 1) * length_B[:, None] // (2 * size)
    return start_B[:, None] + torch.where(flip_B[:, None], within.flip(1), within)
