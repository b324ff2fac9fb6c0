"""Image and mask files to arrays, decoded by curation/frames/decoding.py: masks of any coding. It knows no set.

A mask of a set that is known by name is read file by file: foreground is where its brightest channel (or plane) is
above 127, so gray edges of anti-aliased and JPEG masks vanish and colours are joined; a lossless file may number
classes instead, and then all but 0, or black, is foreground: where no value is above 9, or where it has a palette and
uses ten colours at most, black and one that is not gray among them. Masks of any other folder are read by the values of
all of them together (training/datasets/codings.py); a value that marks unlabelled pixels is IGNORED.

Masks are resized by area: a pixel is IGNORED where half or more of what it covers is, else foreground where half or
more of the rest is.

Legend: N examples; H, W height and width in pixels; C channels; S side of the square that both are squeezed to.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from curation.frames import decoding
from curation.frames.decoding import Pixels
from curation.options import require
from training.datasets.codings import IGNORED, KNOWN, THRESHOLD, Coding, Kind, Samples, Survey, decide, decode_mask
from training.datasets.folders import Example

READING_VERSION = 3  # increase whenever the same files would give other arrays
CODES = 10  # classes that a mask can number: 0 to 9
MAX_STRETCH = 0.05  # share by which the shapes (width over height) of an image and its mask may differ
T = TypeVar("T")
LOSSY = (".jpg", ".jpeg", ".webp")


def arrays(examples: Sequence[Example], size: int, coding: Coding | None = None) -> tuple[Pixels, Pixels]:
    """Images, uint8 [N, S, S, 3], bicubic, and masks, uint8 [N, S, S] of 0, 1 and IGNORED, by area, in order.

    Without a coding it is decided from these examples. ValueError, naming the file, for one that cannot be read or a
    mask of another shape than its image.
    """
    coding = coding or coding_of(examples, "auto", None, "these images")
    images_NSSC = np.empty((len(examples), size, size, 3), np.uint8)
    masks_NSS = np.empty((len(examples), size, size), np.uint8)
    for row, example in enumerate(examples):
        images_NSSC[row] = square_image(example.image, size)
        masks_NSS[row] = read_mask(example, size, coding)
    return images_NSSC, masks_NSS


def read_image(path: str) -> Pixels:
    """One image, uint8 [H, W, 3], upright. ValueError, naming the file, where it cannot be read."""
    return read_with(decoding.rgb, path)


def square_image(path: str, size: int) -> Pixels:
    """One image squeezed to uint8 [S, S, 3], decoded as frames for pre-training are. ValueError as `read_image`."""
    return read_with(partial(decoding.decode, size=size), path)


def read_mask(example: Example, size: int | None = None, coding: Coding | None = None) -> Pixels:
    """The masks of an example joined, uint8 of 0, 1 and IGNORED, [S, S] or by default [H, W] of the image.

    Foreground of one mask wins over ignored pixels of another. Without a coding it is decided from this example.
    ValueError, naming the file: no mask, one that cannot be read, or one of another shape than the image.
    """
    require(len(example.masks) > 0, f"{example.image} has no mask; leave it out or annotate it")
    coding = coding or coding_of([example], "auto", None, example.image)
    width, height = image_size(example.image)
    target = (width, height) if size is None else (size, size)
    inside, ignored = (np.zeros(target[::-1], np.bool_) for _ in range(2))
    for path in example.masks:
        mask_HW = foreground(path) if coding.kind == "known" else decode_mask(samples(path), coding)
        rows, columns = mask_HW.shape
        stretch = columns * height / (rows * width)
        require(
            max(stretch, 1 / stretch) <= 1 + MAX_STRETCH,
            f"mask {path} is {columns} x {rows}, of another shape than its image {example.image}, {width} x {height}; "
            "a mask may have another size, not another shape: is it rotated, cropped, or of another image?",
        )
        mask_HW = resize_mask(mask_HW, target)
        inside |= mask_HW == 1
        ignored |= mask_HW == IGNORED
    return np.where(inside, np.uint8(1), np.where(ignored, np.uint8(IGNORED), np.uint8(0)))


def coding_of(examples: Sequence[Example], kind: Kind, ignore: int | None, name: str) -> Coding:
    """How the masks of a set are read, by the values of all readable ones. ValueError where they are ambiguous."""
    if kind == "known":
        return KNOWN
    survey = Survey()
    for path in (path for example in examples for path in example.masks):
        try:
            found = samples(path)
        except ValueError:  # reported when it is decoded
            continue
        survey.add(found)
    return decide(survey, kind, ignore, name)


def samples(path: str) -> Samples:
    """The values of a mask file, as stored, upright. ValueError, naming it, where it cannot be read."""
    values_HWC, alpha_HW = read_with(decoding.stored, path)
    require(bool(np.isfinite(values_HWC).all()), f"{path} holds values that are not finite numbers; annotate it again")
    return Samples(values_HWC, alpha_HW, path.lower().endswith(LOSSY) or is_jpeg(path))


def is_jpeg(path: str) -> bool:
    """Whether a file is a JPEG, whatever its name."""
    with Path(path).open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def foreground(path: str) -> Pixels:
    """The mask in a file of a known set, uint8 [H, W] of 0 and 1. ValueError as `read_planes`."""
    planes_HWC = read_planes(path)
    brightest_HW: Pixels = planes_HWC.max(axis=2)
    lossless = not path.lower().endswith(LOSSY)
    coded = lossless and (brightest_HW.max(initial=0) < CODES or has_coloured_codes(path, planes_HWC))
    least = 1 if coded else THRESHOLD + 1
    return (brightest_HW >= least).astype(np.uint8)


def has_coloured_codes(path: str, planes_HWC: Pixels) -> bool:
    """Whether a file has a palette and uses at most CODES colours of it, black and one that is not gray among them.

    `planes_HWC` are its colours. They may be dark, as in many palettes.
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
    """A mask of 0, 1 and IGNORED at the size `target`, width and height, by area."""
    if mask_HW.shape == target[::-1]:
        return mask_HW
    if not (mask_HW == IGNORED).any():
        scaled = Image.fromarray(mask_HW * np.uint8(255)).resize(target, Image.Resampling.BOX)
        return (np.asarray(scaled) > THRESHOLD).astype(np.uint8)
    inside, ignored = (
        np.asarray(Image.fromarray((mask_HW == value).astype(np.float32)).resize(target, Image.Resampling.BOX))
        for value in (1, IGNORED)
    )
    half = 0.5 - 1e-6  # with room for rounding of float32 sums
    return np.where(ignored >= half, np.uint8(IGNORED), (inside >= half * (1 - ignored)).astype(np.uint8))


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image, upright, from its header where that is enough. ValueError as `read_image`."""
    width, height, _ = read_with(decoding.inspect, path)
    return width, height


def read_planes(path: str) -> Pixels:
    """The planes of a file, uint8 [H, W, C], as `decoding.planes`. ValueError, naming it, where it cannot be read."""
    return read_with(decoding.planes, path)


def read_with(reader: Callable[[bytes], T], path: str) -> T:
    """Apply a reader of curation/frames/decoding.py to a file. ValueError, naming it, where it cannot be read."""
    try:
        decoding.check_bytes(Path(path).stat().st_size)
        return reader(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except decoding.FrameError as error:
        raise ValueError(
            f"{path} cannot be read as an image: {error.reason}, {error.message}; download it again, or leave it out"
        ) from error
