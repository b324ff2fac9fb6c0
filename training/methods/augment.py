"""Random crops, flips, colour and blur for whole batches on the device. It knows no model and keeps no state.

All random numbers come from the caller's generator, equally many for every batch of a size: the same generator state
gives the same views. A generator on the CPU gives the same crops on every device.

A crop is two matrix products per image, for rows and for columns: exact antialiased resampling, flips included, without
a loop over images. At 224 px it costs 0.15 GFLOP, half a percent of a ViT-B/16 step.

Legend: B images of C channels, H x W pixels; S side of the views; L rows or columns of the image.
"""

import math

import torch
from torch import Tensor

from training.methods.config import Augmentation, SimclrAugmentation

BOX_ATTEMPTS = 10  # boxes drawn per image; the first that lies within it counts
GREY = (0.299, 0.587, 0.114)  # Rec. 601 luma

Statistics = tuple[float, float, float]


def random_crops(images: Tensor, size: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, scale and flip: uint8 [B, H, W, 3] or [B, 3, H, W] to float32 [B, 3, S, S] in 0 to 1."""
    images_BHWC = images.permute(0, 2, 3, 1) if images.shape[1] == 3 else images
    assert images_BHWC.shape[3] == 3
    assert images.dtype == torch.uint8
    batch, height, width, _ = images_BHWC.shape
    boxes = random_boxes(batch, height, width, config, generator).to(images.device)
    flips = _uniform(generator, 2, batch, device=images.device)
    top, left, tall, wide = boxes.unbind(dim=1)
    rows_BSH = resampling(top, tall, height, size, config.interpolation)
    columns_BSW = resampling(left, wide, width, size, config.interpolation)
    rows_BSH = torch.where((flips[0] < config.vertical_flip)[:, None, None], rows_BSH.flip(1), rows_BSH)
    columns_BSW = torch.where((flips[1] < config.horizontal_flip)[:, None, None], columns_BSW.flip(1), columns_BSW)
    with torch.autocast(images.device.type, enabled=False):
        scaled = torch.einsum("byh,bhwc->bywc", rows_BSH, images_BHWC.float())
        pixels_BCSS = torch.einsum("bxw,bywc->bcyx", columns_BSW, scaled)
    return pixels_BCSS.clamp(0, 255) / 255


def random_boxes(batch: int, height: int, width: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw crops: top, left, height, width in whole pixels, int64 [B, 4], on the generator's device.

    Area uniform, ratio log-uniform, position uniform. If no attempt fits: the largest centred box with an allowed
    ratio.
    """
    draws = _uniform(generator, 2, batch, BOX_ATTEMPTS)
    area = height * width * (config.scale[0] + draws[0] * (config.scale[1] - config.scale[0]))
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    ratio = (low + draws[1] * (high - low)).exp()
    wide, tall = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    some, wide, tall = (each.gather(1, first)[:, 0] for each in (fits, wide, tall))
    wide = wide.where(some, min(width, round(height * config.ratio[1])))
    tall = tall.where(some, min(height, round(width / config.ratio[0])))
    places = _uniform(generator, 2, batch)
    top = torch.where(some, places[0] * (height - tall + 1), (height - tall) / 2).floor()
    left = torch.where(some, places[1] * (width - wide + 1), (width - wide) / 2).floor()
    return torch.stack([top, left, tall, wide], dim=1).long()


def resampling(start_B: Tensor, length_B: Tensor, length: int, size: int, interpolation: str) -> Tensor:
    """Matrices [B, S, L] that scale rows start to start + length_B of an image of L rows to S rows.

    Antialiased as Pillow and PyTorch do it: shrinking widens the filter, and weights outside the box are left out.
    Bicubic is Keys' filter, a = -0.5.
    """
    taps_BL = torch.arange(length, device=start_B.device) + 0.5 - start_B[:, None]
    scale_B = length_B / size
    centres_BS = (torch.arange(size, device=start_B.device) + 0.5) * scale_B[:, None]
    distance = (taps_BL[:, None, :] - centres_BS[:, :, None]).abs() / scale_B.clamp(min=1)[:, None, None]
    if interpolation == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance.square() + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, far * (distance < 2))
    weights = weights * ((taps_BL > 0) & (taps_BL < length_B[:, None]))[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def simclr_views(images: Tensor, size: int, config: SimclrAugmentation, generator: torch.Generator) -> Tensor:
    """Crop, flip, change colours and blur: uint8 images to float32 [B, 3, S, S] in 0 to 1."""
    pixels = random_crops(images, size, config, generator)
    pixels = colour_jitter(pixels, config, generator)
    chance = _uniform(generator, 3, len(pixels), device=pixels.device)
    pixels = torch.where((chance[0] < config.grey)[:, None, None, None], luma(pixels), pixels)
    return blur(pixels, torch.where(chance[1] < config.blur, 0.1 + 1.9 * chance[2], 0.0))


def colour_jitter(pixels: Tensor, config: SimclrAugmentation, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, each image by its own amounts, in one order per batch."""
    draws = 2 * _uniform(generator, 4, len(pixels), device=pixels.device) - 1
    chosen = _uniform(generator, len(pixels), device=pixels.device) < config.jitter
    strengths = torch.tensor([0.8, 0.8, 0.8, 0.2], device=pixels.device)[:, None] * config.strength
    amounts = (draws * strengths * chosen)[:, :, None, None, None]
    factors = (1 + amounts[:3]).clamp(min=0)
    for change in torch.randperm(4, generator=generator, device=generator.device).tolist():
        if change == 0:
            pixels = (pixels * factors[0]).clamp(0, 1)
        elif change == 1:
            pixels = _blend(pixels, luma(pixels).mean(dim=(1, 2, 3), keepdim=True), factors[1])
        elif change == 2:
            pixels = _blend(pixels, luma(pixels), factors[2])
        else:
            pixels = turn_hue(pixels, amounts[3])
    return pixels


def luma(pixels: Tensor) -> Tensor:
    """Return grey values, [B, 1, S, S]."""
    weights = torch.tensor(GREY, device=pixels.device, dtype=pixels.dtype)
    return (pixels * weights[:, None, None]).sum(dim=1, keepdim=True)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue (HSV) by a share of the whole circle, [B, 1, 1, 1]; value and saturation are kept."""
    red, green, blue = pixels.chunk(3, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    apart = torch.where(value == red, green - blue, torch.where(value == green, blue - red, red - green))
    pole = torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0))
    sixths = pole + apart / chroma.clamp(min=1e-8) + 6 * turns
    # A channel's distance from its own pole on the circle says how much of the chroma it lacks.
    starts = torch.tensor([5.0, 3.0, 1.0], device=pixels.device, dtype=pixels.dtype)[:, None, None]
    place = sixths + starts
    place = place - 6 * (place / 6).floor()
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def blur(pixels: Tensor, sigma_B: Tensor) -> Tensor:
    """Blur each image by its own Gaussian, sigma in pixels (0: none), kernel a tenth of the side as in the paper."""
    size = pixels.shape[3]
    places = torch.arange(size, device=pixels.device)
    distance = (places[:, None] - places).abs()
    weights = (-0.5 * (distance / sigma_B.clamp(min=1e-3)[:, None, None]).square()).exp()
    weights = weights * (distance <= max(1, size // 20))
    matrix_BSS = weights / weights.sum(dim=2, keepdim=True)
    with torch.autocast(pixels.device.type, enabled=False):
        return torch.einsum("bxw,bcyw->bcyx", matrix_BSS, torch.einsum("byh,bchw->bcyw", matrix_BSS, pixels))


def normalise(pixels: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """Subtract the mean and divide by the deviation, channel by channel."""
    middle, width = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (mean, std))
    return (pixels - middle) / width


def to_bytes(pixels: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """Return pictures: the inverse of `normalise`, rounded to uint8."""
    middle, width = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (mean, std))
    return ((pixels * width + middle) * 255).round().clamp(0, 255).to(torch.uint8)


def _blend(pixels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + factor * (pixels - other)).clamp(0, 1)


def _uniform(generator: torch.Generator, *shape: int, device: torch.device | None = None) -> Tensor:
    """Draw float32 numbers in [0, 1) where the generator is, and move them to `device`."""
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return drawn if device is None else drawn.to(device)
