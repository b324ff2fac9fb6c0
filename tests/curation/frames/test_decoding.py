import io
import struct
import zlib
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from curation.frames import decoding

LIMIT = 100_000_000


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture, another in each channel, that no transposition or swap of channels leaves as it is."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    waves = (np.sin(5 * x) * np.cos(4 * y), x - 0.5 + 0.4 * np.sin(8 * y), y - 0.5)
    return Image.fromarray((128 + 120 * np.stack(waves, axis=2)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def mean_difference(one: npt.NDArray[Any], other: Any) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that says it has side x side pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


def reason_of(data: bytes, decode: bool = False, limit: int = LIMIT) -> str:
    read = partial(decoding.decode, data, 32) if decode else partial(decoding.inspect, data)
    with pytest.raises(decoding.FrameError) as caught:
        read(limit)
    assert caught.value.message
    return caught.value.reason


LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "settings"), LOSSLESS)
def test_lossless_formats_decode_to_the_resized_picture(kind: str, settings: dict[str, Any]) -> None:
    picture = scene(96, 64)
    data = encoded(picture, kind, **settings)
    assert decoding.inspect(data, LIMIT) == (96, 64, 0)
    pixels = decoding.decode(data, 48)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (48, 48, 3))
    assert np.array_equal(pixels, np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(("kind", "settings"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_formats_decode_close_to_the_picture(kind: str, settings: dict[str, Any]) -> None:
    picture = scene(96, 64)
    data = encoded(picture, kind, **settings)
    assert decoding.inspect(data, LIMIT) == (96, 64, 0)
    pixels = decoding.decode(data, 48)
    assert pixels.shape == (48, 48, 3)
    assert mean_difference(pixels, picture.resize((48, 48), Image.Resampling.BICUBIC)) < 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    pixels = decoding.decode(encoded(Image.fromarray(ramp), kind), 64)
    assert mean_difference(pixels, (ramp / 257)[..., None]) < 0.6
    assert len(np.unique(pixels)) > 60


@pytest.mark.parametrize(
    ("mode", "kind", "bound"),
    [
        ("RGBA", "PNG", 1),
        ("RGBA", "WEBP", 1),
        ("L", "PNG", 0),
        ("L", "JPEG", 2),
        ("LA", "PNG", 0),
        ("1", "PNG", 0),
        ("P", "PNG", 0),
        ("CMYK", "JPEG", 2),
        ("CMYK", "TIFF", 1),
    ],
)
def test_modes_become_rgb(mode: str, kind: str, bound: float) -> None:
    picture = scene(48, 48)
    settings = {"lossless": True} if kind == "WEBP" else {"quality": 97} if kind == "JPEG" else {}
    pixels = decoding.decode(encoded(picture.convert(mode), kind, **settings), 48)
    expected = picture.convert(mode).convert("RGB") if mode in ("L", "LA", "1", "P") else picture
    assert pixels.shape == (48, 48, 3)
    assert mean_difference(pixels, expected) <= bound


def difference_from_full_decode(width: int, height: int, size: int, quality: int) -> float:
    data = encoded(scene(width, height), "JPEG", quality=quality)
    with Image.open(io.BytesIO(data)) as full:
        expected = full.resize((size, size), Image.Resampling.BICUBIC)
    return mean_difference(decoding.decode(data, size), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(16, 80), st.integers(16, 80), st.integers(8, 64), st.integers(80, 98))
def test_scaled_decode_is_close_to_full_decode_and_resize(width: int, height: int, size: int, quality: int) -> None:
    """Sides that are whole blocks of 8 pixels; a shift by a pixel of the result would be a difference of 2 or more."""
    assert difference_from_full_decode(8 * width, 8 * height, size, quality) < 0.7


@pytest.mark.parametrize(("width", "height", "size"), [(257, 297, 16), (498, 329, 35), (1793, 1793, 224)])
def test_scaled_decode_of_sides_that_are_no_whole_blocks(width: int, height: int, size: int) -> None:
    assert difference_from_full_decode(width, height, size, 90) < 0.5


@pytest.mark.parametrize(
    ("size", "drafted"),
    [(224, (320, 256)), (100, (160, 128)), (20, (160, 128)), (512, (640, 512)), (513, (1280, 1024))],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_large_enough(
    size: int, drafted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(scene(1280, 1024), "JPEG")
    seen = []
    resize = Image.Image.resize

    def spy(image: Image.Image, *arguments: Any) -> Image.Image:
        seen.append(image.size)
        return resize(image, *arguments)

    monkeypatch.setattr(Image.Image, "resize", spy)
    assert decoding.decode(data, size).shape == (size, size, 3)
    assert seen == [drafted]


def test_reasons_of_what_is_no_whole_image() -> None:
    picture = scene(320, 256)
    jpeg, png = encoded(picture, "JPEG"), encoded(picture, "PNG")
    cut_rows = [jpeg[: len(jpeg) // 2], png[: len(png) // 2], encoded(picture, "BMP")[:-1000], png[:-200], jpeg[:-2]]
    for decode in (False, True):
        assert reason_of(b"", decode) == "empty file"
        assert reason_of(b"patient,age\n1,50\n", decode) == "not an image"
        assert reason_of(b"\0" * 5000, decode) == "not an image"
        assert reason_of(b"xx" + jpeg[2:], decode) == "not an image"
        assert {reason_of(data, decode) for data in cut_rows} == {"truncated"}
        assert reason_of(encoded(picture, "WEBP")[:500], decode) in ("truncated", "corrupt")
        assert reason_of(encoded(picture, "TIFF")[:1000], decode) in ("truncated", "corrupt")


def test_a_small_jpeg_cut_behind_an_end_marker_inside_it_is_told_on_decoding() -> None:
    jpeg = encoded(scene(64, 64), "JPEG", comment=b"\xff\xd9")
    assert jpeg[:100].count(b"\xff\xd9") == 1
    assert reason_of(jpeg[: len(jpeg) // 2], decode=True) == "truncated"


@pytest.mark.parametrize("at", [0.1, 0.3, 0.6])
def test_a_png_damaged_inside_is_corrupt_on_decoding(at: float) -> None:
    data = bytearray(encoded(scene(320, 256), "PNG"))
    start = int(at * len(data))
    data[start : start + 200] = bytes(200)
    assert decoding.inspect(bytes(data), LIMIT) == (320, 256, 0)  # whole, as far as a look without decoding can tell
    assert reason_of(bytes(data), decode=True) in ("corrupt", "truncated")


def test_a_damaged_header_is_corrupt() -> None:
    data = bytearray(encoded(scene(64, 64), "JPEG"))
    start = data.index(b"\xff\xc0") + 4
    data[start] = 77  # bits a sample
    assert reason_of(bytes(data), decode=True) in ("corrupt", "not an image")


def test_a_decompression_bomb_is_rejected_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loads.append(image.size))
    data = bomb(60_000)
    assert len(data) < 300
    for decode in (False, True):
        assert reason_of(data, decode) == "too large"
    assert loads == []
    with pytest.raises(decoding.FrameError, match="60000 x 60000 pixels, more than 100000000"):
        decoding.inspect(data, LIMIT)


def test_the_limit_of_pixels_is_inclusive() -> None:
    data = encoded(scene(40, 30), "PNG")
    assert decoding.inspect(data, 1200) == (40, 30, 0)
    assert decoding.decode(data, 8, 1200).shape == (8, 8, 3)
    assert reason_of(data, limit=1199) == "too large"
    assert reason_of(data, decode=True, limit=1199) == "too large"


def flat(*color: int) -> decoding.Pixels:
    return np.full((16, 16, 3), color, np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat(128, 128, 128), (128 / 255, 0, 0, 0, 0, 0)),
        (flat(0, 0, 0), (0, 0, 0, 0, 1, 0)),
        (flat(255, 255, 255), (1, 0, 0, 0, 0, 1)),
        (flat(255, 0, 0), (0.299, 0, 1, 0, 0, 0)),
        (flat(0, 255, 0), (0.587, 0, 1, 0, 0, 0)),
        (flat(0, 0, 255), (0.114, 0, 1, 0, 0, 0)),
        (flat(200, 100, 100), ((0.299 * 200 + 0.701 * 100) / 255, 0, 0.5, 0, 0, 0)),
        # each pixel differs from its four neighbours by 1: the Laplacian is 4 and -4 by turns
        (np.repeat((np.indices((16, 16)).sum(0) % 2 * 255)[..., None], 3, 2), (0.5, 0.5, 0, 16, 0.5, 0.5)),
        # columns 0 0 1 1 0 0 1 1: differs from one of four, by 1: 1 and -1 by turns
        (np.broadcast_to((np.arange(16) // 2 % 2 * 255)[None, :, None], (16, 16, 3)), (0.5, 0.5, 0, 1, 0.5, 0.5)),
        # a quarter white on black; the Laplacian is left to the others
        (
            np.where(np.indices((2, 2)).sum(0)[..., None] == 0, 255, 0) * np.ones(3),
            (0.25, 0.75**0.5 / 2, 0, 0, 0.75, 0.25),
        ),
    ],
)
def test_measures_by_hand(image: npt.NDArray[Any], expected: tuple[float, ...]) -> None:
    assert decoding.measure(image.astype(np.uint8)) == pytest.approx(expected, abs=1e-6)


def test_blur_lowers_sharpness_and_leaves_brightness() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    blurred = np.asarray(Image.fromarray(noise).resize((16, 16)).resize((64, 64)))
    sharp, soft = decoding.measure(noise), decoding.measure(blurred)
    assert soft[3] < 0.05 * sharp[3]
    assert soft[0] == pytest.approx(sharp[0], abs=0.02)
