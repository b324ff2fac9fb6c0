"""Limits on bytes and pixels hold before anything is made, and decoding leaves nothing behind in its process."""

import io
import logging
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageFile

from curation.frames import decoding, pillow

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def deflate_bomb(tiff: Callable[..., bytes], GRAY: Array) -> Callable[[], bytes]:
    """deflate_bomb(): a TIFF of 2 x 2 pixels whose one strip would be 60 MB."""

    def make() -> bytes:
        bomb = zlib.compress(bytes(60 << 20), 9)
        data = tiff(GRAY[:2, :2], photometric="minisblack", compression="zlib")
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tags = file.pages[0].tags
            offset, count = tags["StripOffsets"].valueoffset, tags["StripByteCounts"].valueoffset
        changed = bytearray(data + bomb)
        changed[offset : offset + 4] = struct.pack("<I", len(data))
        changed[count : count + 4] = struct.pack("<I", len(bomb))
        return bytes(changed)

    return make


def test_limits_hold_before_anything_is_made(
    deflate_bomb: Callable[[], bytes],
    rejected: Callable[..., str],
    encoded: Callable[..., bytes],
    tiff: Callable[..., bytes],
    RGB: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = deflate_bomb()
    tracemalloc.start()
    assert decoding.rgb(data, LIMIT).shape == (2, 2, 3)  # what the bomb holds beyond its 4 pixels is never made
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    assert rejected(encoded(RGB, "PNG")) == "too large"
    with pytest.raises(decoding.FrameError, match="1001 bytes, more than 1000"):
        decoding.check_bytes(1001)
    small = tiff(np.zeros((40, 40, 3), np.uint8), photometric="rgb", compression="zlib")
    assert len(small) < 1000
    assert rejected(small) == "too large"
    monkeypatch.setattr(decoding, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(decoding, "MAX_SIDE", 1000)
    assert rejected(encoded(np.zeros((1, 1001), np.uint8), "PNG")) == "too large"
    assert decoding.decode(encoded(np.full((1, 999), 9, np.uint8), "PNG"), 8).tolist() == [[[9] * 3] * 8] * 8


def test_a_limit_is_that_of_every_decode(encoded: Callable[..., bytes], RGB: Array) -> None:
    """As many pixels as were found at first, and no more."""
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP"):
        data = encoded(RGB, kind)
        for read in (lambda limit: decoding.decode(data, 8, limit), lambda limit: decoding.rgb(data, limit)):  # noqa: B023
            assert read(WIDTH * HEIGHT).ndim == 3
            with pytest.raises(decoding.FrameError, match="67 x 50 pixels, more than 3349"):
                read(WIDTH * HEIGHT - 1)


def test_nothing_global_is_left_and_threads_do_not_disturb_each_other(
    encoded: Callable[..., bytes], tiff: Callable[..., bytes], RGB: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    state = (list(warnings.filters), [list(logging.getLogger(name).filters) for name in pillow.NOISY_LOGGERS])
    wanted = [(data, decoding.rgb(data)) for data in (encoded(RGB, "JPEG"), encoded(RGB, "PNG"), tiff(RGB))]
    cut = encoded(RGB, "JPEG")[:-400]
    wrong: list[Any] = []

    def read() -> None:
        for _ in range(30):
            wrong.extend(data[:4] for data, pixels in wanted if not np.array_equal(decoding.rgb(data), pixels))
            try:
                wrong.append(decoding.decode(cut, 8))
            except decoding.FrameError as error:
                wrong.extend([] if error.reason == "truncated" else [error])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (10, True)
    assert (list(warnings.filters), [list(logging.getLogger(name).filters) for name in pillow.NOISY_LOGGERS]) == state
