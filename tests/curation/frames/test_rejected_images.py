"""What is no picture is rejected, each with its reason, and a kind that is known is named."""

import io
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tifffile

from curation.frames import decoding

WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


def header(files: Any, side: int) -> bytes:
    """A TIFF of 100 bytes that says it is side x side."""
    data = bytearray(files.tiff(files.GRAY[:2, :2], photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            found = file.pages[0].tags[tag]
            size = {3: 2, 4: 4}[int(found.dtype)]
            data[found.valueoffset : found.valueoffset + size] = min(side, 256**size - 1).to_bytes(size, "little")
    return bytes(data)


def text_bomb(files: Any) -> bytes:
    body = b"a\0\0" + zlib.compress(bytes(70 << 20), 9)
    return files.png([bytes(WIDTH * 3)] * HEIGHT, 8, 2, (b"zTXt", body))


MADE: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "not a number": (
        lambda files: files.tiff(
            np.where(files.GRAY > 250, np.nan, files.GRAY).astype(np.float32), photometric="minisblack"
        ),
        "unsupported",
    ),
    "infinite": (
        lambda files: files.tiff(np.where(files.GRAY > 250, np.inf, files.GRAY), photometric="minisblack"),
        "unsupported",
    ),
    "negative": (lambda files: files.tiff(files.GRAY.astype(np.int16) - 100, photometric="minisblack"), "unsupported"),
    "negative floats": (lambda files: files.tiff(files.GRAY / 255 - 0.5, photometric="minisblack"), "unsupported"),
    "complex": (lambda files: files.tiff(files.GRAY.astype(np.complex64), photometric="minisblack"), "unsupported"),
    "beyond 32 bits": (
        lambda files: files.tiff(files.GRAY.astype(np.float64) * 1e12, photometric="minisblack"),
        "unsupported",
    ),
    "seven channels": (
        lambda files: files.tiff(
            np.dstack([files.RGB, files.RGB, files.GRAY]), photometric="minisblack", planarconfig="contig"
        ),
        "unsupported",
    ),
    "cielab": (lambda files: files.tiff(files.RGB, photometric="cielab"), "unsupported"),
    "volume": (
        lambda files: files.tiff(
            np.stack([files.GRAY] * 16), photometric="minisblack", volumetric=True, tile=(16, 16, 16)
        ),
        "unsupported",
    ),
    "gif": (lambda files: files.encoded(files.GRAY, "GIF"), "not an image"),
    "eps": (lambda files: files.encoded(files.RGB, "EPS"), "not an image"),
    "ppm": (lambda files: files.encoded(files.RGB, "PPM"), "not an image"),
    "tga": (lambda files: files.encoded(files.RGB, "TGA"), "not an image"),
    "ico": (lambda files: files.encoded(files.RGB, "ICO"), "not an image"),
    "pdf": (lambda files: files.encoded(files.RGB, "PDF"), "not an image"),
    "jpeg 2000": (lambda files: files.encoded(files.RGB, "JPEG2000"), "not an image"),
    "pointer of git lfs": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not an image",
    ),
    "apple double": (lambda _: b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(138), "not an image"),
    "too many pixels": (lambda files: header(files, 60_000), "too large"),
    "too many pixels, webp": (lambda files: files.encoded(np.zeros((1100, 1100, 3), np.uint8), "WEBP"), "too large"),
    "text bomb": (text_bomb, "too large"),
    "no pixel": (lambda files: files.png([], 8, 2, size=(0, 5)), "not an image"),
    "no width": (lambda files: header(files, 0), "corrupt"),
    "end of tiff missing": (lambda files: files.tiff(files.RGB, photometric="rgb")[:-500], "truncated"),
    "end of deflated tiff missing": (
        lambda files: files.tiff(files.RGB, photometric="rgb", compression="zlib")[:-500],
        "truncated",
    ),
    "end of lzw tiff missing": (
        lambda files: files.encoded(files.RGB, "TIFF", compression="tiff_lzw")[:2000],
        "corrupt",
    ),
}


@pytest.fixture(scope="module", name="REJECTED")
def made_rejected(files: Any) -> dict[str, tuple[Callable[[], bytes], str]]:
    return {name: (partial(make, files), reason) for name, (make, reason) in MADE.items()}


@pytest.mark.parametrize("name", MADE)
def test_what_is_no_picture_is_rejected_with_its_reason(
    REJECTED: dict[str, tuple[Callable[[], bytes], str]], rejected: Callable[..., str], name: str
) -> None:
    make, reason = REJECTED[name]
    assert rejected(make()) == reason


@pytest.mark.parametrize(
    ("name", "word"), [("gif", "GIF"), ("eps", "PostScript"), ("pointer of git lfs", "git lfs pull")]
)
def test_a_known_kind_is_named(REJECTED: dict[str, tuple[Callable[[], bytes], str]], name: str, word: str) -> None:
    with pytest.raises(decoding.FrameError) as caught:
        decoding.inspect(REJECTED[name][0](), LIMIT)
    assert word in caught.value.message
