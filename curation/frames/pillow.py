"""Pillow by our rules: which formats are opened, no limit of its own, no console output, no lasting global settings.

Pillow and tifffile warn and log about odd files, and Pillow keeps settings in globals. Both are set while a file is
read and restored afterwards, also where several threads read at once.
"""

import io
import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from curation.frames.samples import FrameError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # MPO is opened as JPEG; TIFF has a file of its own
NOISY_LOGGERS = ("tifffile", "PIL.Image", "PIL.TiffImagePlugin", "PIL.PngImagePlugin")
ORIENTATION = 274
TURNS = {  # EXIF orientation to what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGED = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError)
OTHERS = (  # offset, bytes there, what such a file is and what to do
    (0, b"GIF8", "a GIF, which is not read; convert it to PNG"),
    (0, b"%!PS", "PostScript, which is not read; convert it to PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript, which is not read; convert it to PNG"),
    (0, b"%PDF", "a PDF, which is not read; extract its pictures"),
    (0, b"8BPS", "a Photoshop file, which is not read; convert it to PNG"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000, which is not read; convert it to PNG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000, which is not read; convert it to PNG"),
    (4, b"ftypavif", "an AVIF, which is not read; convert it to PNG"),
    (4, b"ftyphei", "a HEIC, which is not read; convert it to JPEG"),
    (4, b"ftyp", "a video, which is not read; extract its frames"),
    (128, b"DICM", "a DICOM file, which is not read; convert it to PNG"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file; fetch it with `git lfs pull`"),
    (0, b"\0\x05\x16\x07", "an AppleDouble file of macOS, which holds no picture; delete it"),
)


class _Quiet:
    """Settings of Pillow and the filters of warnings and logs while at least one thread reads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0
        self.kept: tuple[int | None, bool, warnings.catch_warnings[None]]

    def __enter__(self) -> None:
        with self.lock:
            self.readers += 1
            if self.readers > 1:
                return
            catch = warnings.catch_warnings()
            self.kept = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, catch)
            catch.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|tifffile)\b")
            Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns; ours rejects
            ImageFile.LOAD_TRUNCATED_IMAGES = False  # else missing parts become gray silently
            for name in NOISY_LOGGERS:
                logging.getLogger(name).addFilter(_drop)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers:
                return
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, catch = self.kept
            catch.__exit__(None, None, None)
            for name in NOISY_LOGGERS:
                logging.getLogger(name).removeFilter(_drop)


def _drop(_: logging.LogRecord) -> bool:
    return False


QUIET = _Quiet()


@contextmanager
def opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a file in memory by its content. FrameError `not an image`, which says what it is where that is known."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise FrameError("not an image", described(data)) from None
    with image:
        yield image


def described(data: bytes) -> str:
    """What kind of file it is that cannot be read here, as a clause."""
    for place, mark, what in OTHERS:
        if data[place : place + len(mark)] == mark:
            return f"this is {what}"
    return f"no image format is known for bytes {data[:8]!r}"


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read. It does not load the image."""
    try:
        found: Any = Image.Image.getexif(image).get(ORIENTATION)  # a PNG's own getexif would load it
    except (*DAMAGED, struct.error):
        return 1  # the picture may be whole all the same
    return found if found in TURNS else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The image turned by an EXIF orientation."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image
