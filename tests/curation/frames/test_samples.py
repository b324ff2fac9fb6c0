"""What samples mean: codes of masks are not scaled, and what white is of more than 8 bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.frames import decoding, samples

Array = npt.NDArray[Any]
LIMIT = 1_000_000


def test_codes_of_masks_are_not_scaled(
    encoded: Callable[..., bytes],
    tiff: Callable[..., bytes],
    png16: Callable[..., bytes],
    deep: Callable[..., Array],
    GRAY: Array,
) -> None:
    codes = (GRAY // 40).astype(np.uint8)  # 0 to 6
    plain = codes[:, :, None]
    for data in (
        encoded(codes, "PNG"),
        encoded(codes, "TIFF"),
        encoded(codes, "BMP"),
        png16(codes, 0),
        *(
            tiff(codes.astype(kind), photometric="minisblack")
            for kind in (np.uint16, np.int8, np.int16, np.int32, np.uint32)
        ),
        tiff(codes, photometric="minisblack", compression="zlib", tile=(16, 16)),
    ):
        assert np.array_equal(decoding.planes(data, LIMIT), plain)
    turned = tiff(
        np.asarray(Image.fromarray(codes).transpose(Image.Transpose.ROTATE_90)),
        photometric="minisblack",
        extratags=[(274, "H", 1, 6, True)],
    )
    assert np.array_equal(decoding.planes(turned, LIMIT), plain)
    clear = np.dstack([codes, codes, codes, codes * 0])
    assert np.array_equal(decoding.planes(encoded(clear, "PNG"), LIMIT), clear[:, :, :3])
    assert np.array_equal(decoding.planes(tiff(deep(GRAY), photometric="minisblack"), LIMIT), GRAY[:, :, None])
    with pytest.raises(decoding.FrameError, match="samples are float32; expected 8 or 16 bits"):
        decoding.planes(tiff(codes.astype(np.float32), photometric="minisblack"), LIMIT)


def test_the_range_of_samples_by_hand() -> None:
    for maximum, white in (
        (0, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4096, 16383),
        (16384, 65535),
    ):
        assert samples.white_level(np.array([0, maximum], np.uint16)) == white
    assert samples.white_level(np.array([700], np.uint16), 4095) == 4095
    assert samples.white_level(np.array([5000], np.uint16), 4095) == 16383
    assert samples.white_level(np.array([20_000], np.int16)) == 32767
    assert samples.white_level(np.array([1.0], np.float32)) == 1
    assert samples.white_level(np.array([1.5], np.float32)) == 255
    assert samples.white_level(np.array([300.5], np.float32)) == 1023
