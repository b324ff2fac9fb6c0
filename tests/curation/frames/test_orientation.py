"""Pictures and masks are upright by their tag, whatever the file, and a wrong tag spoils nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.frames import decoding

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "late PNG", "PNG16", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_and_masks_are_upright(oriented: Callable[..., bytes], RGB: Array, kind: str, turn: int) -> None:
    data = oriented(kind, turn)
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    allowed = 2 if kind == "JPEG" else 0
    for found in (decoding.rgb(data, LIMIT), decoding.planes(data, LIMIT)):
        assert found.shape == RGB.shape
        assert np.abs(found.astype(float) - RGB).mean() <= allowed
    squeezed = Image.fromarray(RGB).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(decoding.decode(data, 16, LIMIT).astype(float) - squeezed).mean() <= allowed


@pytest.mark.parametrize("turn", [0, 9, 77])
def test_orientations_that_are_none_are_ignored(
    RGB: Array, encoded: Callable[..., bytes], exif: Callable[[int], Image.Exif], turn: int
) -> None:
    assert np.array_equal(decoding.rgb(encoded(RGB, "PNG", exif=exif(turn))), RGB)


def test_damaged_exif_leaves_the_picture(RGB: Array, encoded: Callable[..., bytes]) -> None:
    for content in (b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM"):
        data = encoded(RGB, "JPEG", exif=content, quality=95)
        assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
        assert decoding.decode(data, 16, LIMIT).any()


def test_a_turned_jpeg_is_still_scaled_while_decoding(
    RGB: Array, encoded: Callable[..., bytes], exif: Callable[[int], Image.Exif], monkeypatch: pytest.MonkeyPatch
) -> None:
    big = Image.fromarray(RGB).resize((1280, 1003), Image.Resampling.BICUBIC)
    data = encoded(big.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif(6))
    seen: list[Any] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, *rest: seen.append(image.size) or resize(image, *rest))
    found = decoding.decode(data, 100)
    assert seen == [(126, 160)]
    monkeypatch.undo()
    assert np.abs(found.astype(float) - big.resize((100, 100), Image.Resampling.BICUBIC)).mean() < 2
