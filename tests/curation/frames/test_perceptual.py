"""The perceptual hash against scipy's DCT, by hand, and what of a picture does not change it."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from curation.frames import decoding
from curation.frames.perceptual import BITS, SIDE, perceptual_hash


def reference(picture: np.ndarray) -> str:
    """As imagededup's PHash from the picture of 32 x 32 on."""
    low = dctn(picture.astype(np.float64), type=2)[:8, :8].ravel()
    bits = low >= np.median(low[1:])
    return f"{int(''.join('01'[int(bit)] for bit in bits), 2):016x}"


def differ(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def scene(seed: int, width: int = 320, height: int = 256) -> Image.Image:
    """Soft random shapes."""
    coarse = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def hash_of(data: bytes) -> str:
    return perceptual_hash(decoding.brightness(data, SIDE))


@pytest.mark.parametrize("seed", range(20))
def test_the_hash_is_the_published_one(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(256, size=(SIDE, SIDE), dtype=np.uint8)
    assert perceptual_hash(picture) == reference(picture)


def test_a_hash_by_hand() -> None:
    """Darker to the right: the waves along x are 0 or positive, all others are 0, and so is the median."""
    ramp = np.tile(255 - np.arange(SIDE, dtype=np.uint8) * 8, (SIDE, 1))
    assert perceptual_hash(ramp) == perceptual_hash(np.zeros((SIDE, SIDE), np.uint8)) == "f" * 16
    stripe = np.zeros((SIDE, SIDE), np.uint8)
    stripe[0] = 255  # a line at the top: waves along y are all positive and fall, along x there are none
    assert perceptual_hash(stripe) == "f" * 16
    assert perceptual_hash(stripe[::-1].copy()) == "ff7f" * 4  # at the bottom: the odd waves along y are negative


def test_shades_and_contrast_do_not_count() -> None:
    picture = np.random.default_rng(1).integers(100, 150, size=(SIDE, SIDE), dtype=np.uint8)
    assert perceptual_hash(picture) == perceptual_hash(picture + np.uint8(60))
    flat = [perceptual_hash(np.full((SIDE, SIDE), shade, np.uint8)) for shade in (0, 9, 255)]
    assert len(set(flat)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_scaling_and_recompressing_change_few_bits(seed: int) -> None:
    image = scene(seed)
    first = hash_of(encoded(image, quality=92))
    others = [encoded(image, "PNG"), encoded(image, quality=40), encoded(image.convert("L"))]
    others += [encoded(image.resize((1280, 1024), Image.Resampling.BICUBIC)), encoded(image.resize((200, 160)))]
    assert max(differ(first, hash_of(data)) for data in others) <= 6
    assert min(differ(first, hash_of(encoded(scene(other)))) for other in range(100, 120)) > 12
    assert len(first) * 4 == BITS


def test_the_upright_picture_counts() -> None:
    image = scene(3)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees, clockwise
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95)
    assert differ(hash_of(turned), hash_of(encoded(image, quality=95))) <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_has_its_brightness(mode: str) -> None:
    gray = scene(4).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        image = gray.convert("RGB").convert(mode) if mode == "CMYK" else gray.convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    found = decoding.brightness(data, SIDE)
    assert (found.shape, found.dtype) == ((SIDE, SIDE), np.uint8)
    expected = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(found - expected).mean() < (40 if mode in "1P" else 6)


def test_what_cannot_be_decoded_is_said() -> None:
    whole = encoded(scene(5))
    for data, reason in ((b"", "empty file"), (whole[:700], "truncated"), (b"text", "not an image")):
        with pytest.raises(decoding.FrameError) as error:
            decoding.brightness(data, SIDE)
        assert error.value.reason == reason
