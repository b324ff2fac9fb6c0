"""Pages and animation frames that are not read: they are counted, and what is said of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from curation.frames import decoding
from curation.frames.further import FURTHER, Further, further_of

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


def rows(*counts: int) -> list[dict[str, object]]:
    return [{"source": "s", "path": f"{place}.tif", FURTHER: count} for place, count in enumerate(counts)]


def test_parts_add_up_and_the_first_three_are_named() -> None:
    one, other = further_of(rows(0, 4, 0, 1)), further_of(rows(2, 2, 2, 2))
    assert one == Further(5, 2, ("s/1.tif", "s/3.tif"))
    both = one + other
    assert both == Further(13, 6, ("s/1.tif", "s/3.tif", "s/0.tif"))
    assert both.describe() == (
        "13 further pages or animation frames in 6 files were not read (s/1.tif, s/3.tif, s/0.tif, ...)"
    )
    assert one.describe().endswith("in 2 files were not read (s/1.tif, s/3.tif)")
    assert Further.from_bytes(both.to_bytes()) == both


def test_nothing_is_said_of_nothing() -> None:
    assert further_of(rows(0, 0)) == Further()
    assert Further().describe() == ""


@pytest.mark.parametrize(
    ("kind", "options"), [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("MPO", {"quality": 95})]
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_frame_is_read_and_the_others_are_counted(
    pages: Callable[..., bytes], RGB: Array, kind: str, options: dict[str, Any], count: int
) -> None:
    count = min(count, 2) if kind == "MPO" else count  # Pillow 11.0 writes no more than two of them right
    data = pages(kind, count, **options)
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, count - 1)
    assert np.abs(decoding.rgb(data, LIMIT).astype(float) - RGB).mean() <= (3 if kind == "MPO" else 0)
