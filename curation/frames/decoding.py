"""Encoded bytes to RGB: the only image reader of the program. It uses neither files nor Ray.

The rules, for frames, segmentation images and masks alike:
- JPEG (MPO too), PNG, BMP, WebP and TIFF are read, recognised by content, not by name; else `not an image`.
- The picture is upright: EXIF orientation is applied, also to width and height. Masks are turned by their own tag.
- What is transparent is composited on black; a BMP whose alpha is 0 everywhere has none.
- Samples of more than 8 bits are scaled by their real range (curation/frames/samples.py), or rejected as `unsupported`.
- Of several pages or animation frames the first is read, and `inspect` counts the others.
- Color profiles are not applied.
- Limits are checked before anything of that size is read or made: pixels, the longer side, the bytes of a file, and the
  bytes of a TIFF's samples.

Legend: H, W height and width in pixels; C channels; S the side of the square a frame is scaled to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from curation.frames import pillow, png, tiff
from curation.frames.quality import measure
from curation.frames.samples import FrameError, Limits, Pixels, Raw, Samples, eight_bits

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "FrameError",
    "Pixels",
    "brightness",
    "check_bytes",
    "decode",
    "inspect",
    "measure",
]
__all__ += ["planes", "rgb", "stored"]

MAX_PIXELS = 100_000_000  # unless a caller says otherwise
MAX_SIDE = 1_000_000  # resampling takes 32 bytes for each pixel of a side
MAX_BYTES = 512 << 20  # of an encoded file, and of the samples of a TIFF
TAIL = 64 << 10  # bytes at the end of a file in which an end marker is looked for
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}


class Look(NamedTuple):
    """What `inspect` finds: the upright width and height, and how many further pages or animation frames there are."""

    width: int
    height: int
    further: int = 0


def inspect(data: bytes, max_pixels: int = MAX_PIXELS) -> Look:
    """Size and further frames of an encoded image that is whole as far as a look without decoding can tell.

    JPEG and PNG with their end marker are not decoded here (damage inside them is found on decoding, as far as a
    decoder notices it); all others are. Raises FrameError: empty file, not an image, too large, truncated, corrupt,
    unsupported.
    """
    with _reading(data, max_pixels) as limits:
        if data.startswith(tiff.MARKS):
            raw, further = tiff.read_tiff(data, limits)
            height, width = raw.picture().shape[:2]
            return Look(*_turned(width, height, raw.orientation), further)
        with _opened(data, limits) as image:
            width, height = image.size
            further = getattr(image, "n_frames", 1) - 1
            marker = END_MARKERS.get(image.format or "")
            if marker is None or marker not in data[-TAIL:] or png.has_late_exif(image, data):
                image.load()
            return Look(*_turned(width, height, pillow.orientation(image)), further)


def decode(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to uint8 [S, S, 3], the whole frame squeezed to a square of `size`; JPEG is scaled while decoding.

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 or 1/1 scale that is no smaller than the target
    (libjpeg's DCT scaling), then resampled bicubically. Raises FrameError as `inspect` does.
    """

    def squeeze(image: Image.Image, turn: int) -> Pixels:
        drafted = image.draft("RGB", (size, size))
        if not drafted:
            upright = pillow.upright(_flat(image), turn)
            return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))
        box = drafted[1]  # a side that is not a whole number of DCT blocks is padded
        return np.asarray(pillow.upright(_flat(image).resize((size, size), Image.Resampling.BICUBIC, box), turn))

    return _picture(data, max_pixels, squeeze)


def brightness(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to uint8 [S, S], the whole frame's brightness (ITU-R 601) squeezed to a square of `size`, upright.

    Of a JPEG only the brightness is decoded, at a scale as for `decode`. Raises FrameError as `inspect` does.
    """

    def squeeze(image: Image.Image, turn: int) -> Pixels:
        drafted = image.draft("L", (size, size))
        box = drafted[1] if drafted else None
        image.load()
        gray = image if image.mode == "L" and not image.has_transparency_data else _flat(image).convert("L")
        return np.asarray(pillow.upright(gray.resize((size, size), Image.Resampling.LANCZOS, box), turn))

    return _picture(data, max_pixels, squeeze)


def rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to uint8 [H, W, 3] at the file's own size, upright. Raises FrameError as `inspect` does."""
    return _picture(data, max_pixels, lambda image, turn: np.asarray(pillow.upright(_flat(image), turn)))


def planes(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a mask to uint8 [H, W, C], upright, with its values as they are: integers of up to 255 are not scaled.

    C is 1 or 3, and as many for each further page of a TIFF that is as large as the first. Palettes are resolved and
    transparency is left out. Raises FrameError as `inspect` does.
    """
    with _reading(data, max_pixels) as limits:
        if data.startswith(tiff.MARKS):
            pages = tiff.read_pages(data, limits)
            return np.concatenate([_turn(raw.planes(), raw.orientation) for raw in pages], axis=2)
        with _opened(data, limits) as image:
            shallow = not png.is_deep(image, data)
            planes_HWC = _planes(image) if shallow else png.read_png(image, data).planes()
            turned: Pixels = _turn(planes_HWC, pillow.orientation(image))
            return turned


def stored(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Samples, Pixels | None]:
    """Decode a mask to its values as they are stored, and its transparency.

    Returns samples [H, W, C] of the file's own type (8 bits as `planes`), and uint8 [H, W], 255 opaque, or None where
    nothing says what is transparent; both upright. Raises FrameError as `inspect` does.
    """
    with _reading(data, max_pixels) as limits:
        if data.startswith(tiff.MARKS):
            pages = tiff.read_pages(data, limits)
            values = np.concatenate([_turn(_values(raw), raw.orientation) for raw in pages], axis=2)
            return values, _alpha(pages[0], pages[0].orientation)
        with _opened(data, limits) as image:
            turn = pillow.orientation(image)
            if png.is_deep(image, data):
                raw = png.read_png(image, data)
                return _turn(_values(raw), turn), _alpha(raw, turn)
            image.load()
            clear = image.has_transparency_data or image.mode in ("RGBA", "LA", "PA")
            alpha = np.asarray(image.convert("RGBA").getchannel("A")) if clear else None
            return _turn(_planes(image), turn), None if alpha is None else _turn(alpha, turn)


def _planes(image: Image.Image) -> Pixels:
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[:, :, None]
    clear = image.mode == "P" and "transparency" in image.info
    return np.asarray((image.convert("RGBA") if clear else image).convert("RGB"))


def _values(raw: Raw) -> Samples:
    deep = raw.colour_HWC.dtype.itemsize > 1 and raw.colour_HWC.dtype.kind in "uif" and not raw.inverted
    return raw.colour_HWC if deep else raw.planes()


def _alpha(raw: Raw, turn: int) -> Pixels | None:
    return None if raw.alpha_HW is None else _turn(eight_bits(raw.alpha_HW), turn)


def check_bytes(count: int) -> None:
    """Raise FrameError `too large` for a file of more bytes than are read; call it before reading one."""
    if count > MAX_BYTES:
        raise FrameError("too large", f"{count} bytes, more than {MAX_BYTES}")


def _picture(data: bytes, max_pixels: int, work: Callable[[Image.Image, int], Pixels]) -> Pixels:
    """What `work` makes of the picture, given with its orientation, which is not applied yet."""
    with _reading(data, max_pixels) as limits:
        if data.startswith(tiff.MARKS):
            raw, _ = tiff.read_tiff(data, limits)
            return work(Image.fromarray(raw.picture()), raw.orientation)
        with _opened(data, limits) as image:
            if png.is_deep(image, data):
                deep = Image.fromarray(png.read_png(image, data).picture())
                return work(deep, pillow.orientation(image))
            if png.has_late_exif(image, data):
                image.load()
            return work(image, pillow.orientation(image))


@contextmanager
def _reading(data: bytes, max_pixels: int) -> Iterator[Limits]:
    """The limits to read under; whatever a decoder raises inside becomes a FrameError."""
    if not data:
        raise FrameError("empty file", "the file has no bytes")
    check_bytes(len(data))
    try:
        with pillow.QUIET:
            yield Limits(max_pixels, MAX_SIDE, MAX_BYTES)
    except FrameError:
        raise
    except Exception as error:  # whatever a decoder raises on a bad file rejects that one frame
        text = str(error).lower()
        reason = "truncated" if "truncated" in text else "too large" if "too large" in text else "corrupt"
        raise FrameError(reason, f"{type(error).__name__}: {error}") from error


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[Image.Image]:
    with pillow.opened(data) as image:
        limits.check(*image.size)
        if image.format == "PNG":
            png.scale_key(image, data)
        yield image


def _flat(image: Image.Image) -> Image.Image:
    """RGB on black."""
    image.load()
    if not (image.has_transparency_data or image.mode in ("RGBA", "LA", "PA")):
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if image.format == "BMP" and alpha.getextrema() == (0, 0):
        return rgba.convert("RGB")
    flat = Image.new("RGB", rgba.size)
    flat.paste(rgba.convert("RGB"), mask=alpha)
    return flat


def _turned(width: int, height: int, turn: int) -> tuple[int, int]:
    return (height, width) if turn >= 5 else (width, height)


def _turn(array: Any, turn: int) -> Any:
    """An array [H, W, ...] of any type turned by an EXIF orientation."""
    mirrored = array[:, ::-1] if turn in (2, 4, 5, 7) else array
    return np.ascontiguousarray(np.rot90(mirrored, {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(turn, 0)))
