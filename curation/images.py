"""Encoded bytes to RGB of the wanted size, and what can be measured on it. It knows no files and no engine.

Legend: H, W height and width in pixels; S the side of the square a frame is scaled to.
"""

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

TAIL = 64 << 10  # bytes at the end of a file in which an end marker is looked for
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class FrameError(ValueError):
    """A frame that cannot be used: a short reason from a fixed list, and what went wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


def inspect(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height of an encoded image that is whole as far as a look without decoding can tell.

    JPEG and PNG with their end marker are not decoded here (damage inside them is found on decoding, as far as a
    decoder notices it); all others are. Raises FrameError: empty file, not an image, too large, truncated, corrupt.
    """

    def look(image: Image.Image) -> tuple[int, int]:
        marker = END_MARKERS.get(image.format or "")
        if marker is None or marker not in data[-TAIL:]:
            image.load()
        return image.size

    return _with_image(data, max_pixels, look)


def decode(data: bytes, size: int, max_pixels: int | None = None) -> Pixels:
    """Decode to uint8 [S, S, 3], the whole frame squeezed to a square of `size`; JPEG is scaled while decoding.

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 or 1/1 scale that is no smaller than the target
    (libjpeg's DCT scaling), then resampled bicubically. Raises FrameError as `inspect` does.
    """

    def scale(image: Image.Image) -> Pixels:
        drafted = image.draft("RGB", (size, size))
        box = drafted[1] if drafted else None  # a side that is no whole number of DCT blocks is padded
        return np.asarray(_to_rgb(image).resize((size, size), Image.Resampling.BICUBIC, box))

    return _with_image(data, max_pixels, scale)


def _with_image(data: bytes, max_pixels: int | None, work: Callable[[Image.Image], T]) -> T:
    if not data:
        raise FrameError("empty file", "the file has no bytes")
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns; ours, below, rejects
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise FrameError("too large", f"{width} x {height} pixels, more than {max_pixels}")
            return work(image)
    except FrameError:
        raise
    except UnidentifiedImageError:
        raise FrameError("not an image", f"no image format is known for bytes {data[:8]!r}") from None
    except Exception as error:  # whatever a decoder raises on a bad file rejects that one frame
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise FrameError(reason, f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray: Pillow would clip it at 255
        return Image.fromarray((np.asarray(image, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def measure(image_SS3: Pixels) -> tuple[float, float, float, float, float, float]:
    """Brightness, contrast, saturation, sharpness, dark share and bright share, as in schema.MEASURES.

    On luma in [0, 1]: mean; standard deviation; mean HSV saturation; variance of the 4-neighbour Laplacian
    (0 for a frame below 3 pixels); share of pixels below 0.06; share above 0.94.
    """
    rgb = image_SS3.astype(np.float32) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    saturation = (high - low) / np.maximum(high, 1e-6)
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return (
        float(luma.mean()),
        float(luma.std()),
        float(saturation.mean()),
        float(laplacian.var()) if laplacian.size else 0.0,
        float((luma < 0.06).mean()),
        float((luma > 0.94).mean()),
    )
