"""Image and mask files to arrays, through the one reader (curation/images.py): masks of any colour. No set is known.

A mask's pixel is foreground where its brightest channel (or plane) is above 127, so the seams of anti-aliased and
JPEG masks go and colours are joined. A lossless file may number classes instead, and then all but 0, or black, is
foreground: where no value is above 9, or where it has a palette and uses ten colours at most, black and one that is not
gray among them. Masks are resized by area: a pixel is foreground where half or more of what it covers is.

Legend: N examples; H, W height and width in pixels; C channels; S side of the square that both are squeezed to.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from curation import images
from curation.images import Pixels
from curation.options import require
from training.datasets import Example

THRESHOLD = 127
READING = 3  # raised whenever the same files would give other arrays
CODES = 10  # classes that a mask can number: 0 to 9
MAX_STRETCH = 0.05  # share by which the shapes (width over height) of an image and its mask may differ
T = TypeVar("T")
LOSSY = (".jpg", ".jpeg", ".webp")


def arrays(examples: Sequence[Example], size: int) -> tuple[Pixels, Pixels]:
    """Images, uint8 [N, S, S, 3], bicubic, and masks, uint8 [N, S, S] of 0 and 1, by area, in the given order.

    ValueError, naming the file, for one that cannot be read or a mask of another shape than its image.
    """
    images_NSSC = np.empty((len(examples), size, size, 3), np.uint8)
    masks_NSS = np.empty((len(examples), size, size), np.uint8)
    for row, example in enumerate(examples):
        images_NSSC[row] = square_image(example.image, size)
        masks_NSS[row] = read_mask(example, size)
    return images_NSSC, masks_NSS


def read_image(path: str) -> Pixels:
    """One image, uint8 [H, W, 3], upright. ValueError, naming the file, where it cannot be read."""
    return read_with(images.rgb, path)


def square_image(path: str, size: int) -> Pixels:
    """One image squeezed to uint8 [S, S, 3], decoded as frames for pre-training are. ValueError as `read_image`."""
    return read_with(partial(images.decode, size=size), path)


def read_mask(example: Example, size: int | None = None) -> Pixels:
    """The masks of an example joined, uint8 of 0 and 1, [S, S] or by default [H, W] of the image.

    ValueError, naming the file: no mask, one that cannot be read, or one of another shape than the image.
    """
    require(len(example.masks) > 0, f"{example.image} has no mask; leave it out or draw one")
    width, height = image_size(example.image)
    target = (width, height) if size is None else (size, size)
    joined_HW = np.zeros(target[::-1], np.uint8)
    for path in example.masks:
        mask_HW = foreground(path)
        rows, columns = mask_HW.shape
        stretch = columns * height / (rows * width)
        require(
            max(stretch, 1 / stretch) <= 1 + MAX_STRETCH,
            f"mask {path} is {columns} x {rows}, of another shape than its image {example.image}, {width} x {height}; "
            "a mask may have another size, not another shape: is it turned, cropped, or another image's?",
        )
        joined_HW |= resize_mask(mask_HW, target)
    return joined_HW


def foreground(path: str) -> Pixels:
    """The mask that a file holds, uint8 [H, W] of 0 and 1. ValueError as `read_planes`."""
    planes_HWC = read_planes(path)
    brightest_HW: Pixels = planes_HWC.max(axis=2)
    lossless = not path.lower().endswith(LOSSY)
    coded = lossless and (brightest_HW.max(initial=0) < CODES or has_coloured_codes(path, planes_HWC))
    least = 1 if coded else THRESHOLD + 1
    return (brightest_HW >= least).astype(np.uint8)


def has_coloured_codes(path: str, planes_HWC: Pixels) -> bool:
    """Whether a file has a palette and uses at most CODES colours of it, black and one that is not gray among them.

    `planes_HWC` are its colours. They may be dark, as those of many palettes are.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "P" or image.getcolors(CODES) is None:
                return False
    except UnidentifiedImageError:
        return False
    black = not planes_HWC.any(axis=2).all()
    return black and bool((planes_HWC != planes_HWC[:, :, :1]).any())


def resize_mask(mask_HW: Pixels, target: tuple[int, int]) -> Pixels:
    """A mask of 0 and 1 at the size `target`, width and height, by area."""
    if mask_HW.shape == target[::-1]:
        return mask_HW
    scaled = Image.fromarray(mask_HW * np.uint8(255)).resize(target, Image.Resampling.BOX)
    return (np.asarray(scaled) > THRESHOLD).astype(np.uint8)


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image, upright, from its header where that is enough. ValueError as `read_image`."""
    width, height, _ = read_with(images.inspect, path)
    return width, height


def read_planes(path: str) -> Pixels:
    """What a file holds, uint8 [H, W, C], as `images.planes`. ValueError, naming it, where it cannot be read."""
    return read_with(images.planes, path)


def read_with(reader: Callable[[bytes], T], path: str) -> T:
    """What a reader of curation.images makes of a file. ValueError, naming it, where it cannot be read."""
    try:
        images.check_bytes(Path(path).stat().st_size)
        return reader(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except images.FrameError as error:
        raise ValueError(
            f"{path} cannot be read as an image: {error.reason}, {error.message}; fetch it again, or leave it out"
        ) from error
