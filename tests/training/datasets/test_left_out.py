"""Missing masks, damaged files and masks with nothing told: a few are left out and named, many are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from training.datasets import folders
from training.datasets.prepared import PreparedSet

Pixels = npt.NDArray[Any]
Truth = Callable[..., npt.NDArray[np.bool_]]
Write = Callable[[Path, int], None]
Made = Callable[..., tuple[PreparedSet, Pixels]]
SIDE, NUMBER = 32, 12
CLASS = {number: 1 + number % 6 for number in range(NUMBER)}


def test_one_missing_mask_is_told_and_many_are_refused(
    disc: Truth, drawn: Callable[..., Path], gray: Callable[..., Write], tmp_path: Path
) -> None:
    folder = drawn(tmp_path / "set", gray())
    (folder / "masks/03.png").unlink()
    Image.fromarray(disc()).save(folder / "masks/extra.png")
    found = folders.find_dataset("generic", str(folder))
    assert len(found.examples) == NUMBER - 1
    assert found.notes() == [
        "generic: images without a mask are skipped: 1 (images/03.png)",
        "generic: masks without an image are skipped: 1 (masks/extra.png)",
    ]
    (folder / "masks/04.png").unlink()
    with pytest.raises(ValueError, match=r"images without a mask: 2 \(images/03.png, images/04.png\)"):
        folders.find_dataset("generic", str(folder))


@pytest.mark.parametrize("what", ["images", "masks"])
def test_one_bad_file_is_left_out_and_many_are_refused(
    drawn: Callable[..., Path], made: Made, gray: Callable[..., Write], what: str, tmp_path: Path
) -> None:
    folder = drawn(tmp_path / "set", gray())
    (folder / what / "03.png").write_bytes(b"not a picture")
    one, masks = made(folder, tmp_path / "run")
    assert len(one.names) == len(masks) == NUMBER - 1
    assert "03" not in one.names
    assert any(line.startswith("set: left out of 12 images: 1 (03: ") for line in one.notes())
    assert made(folder, tmp_path / "run")[0] == one  # what was decoded before tells the same
    (folder / what / "04.png").write_bytes(b"nor this")
    with pytest.raises(ValueError, match="2 of 12 images cannot be used, more than 10%"):
        made(folder, tmp_path / "run")


def test_an_image_that_is_all_open_is_left_out(
    drawn: Callable[..., Path], made: Made, gray: Callable[..., Write], tmp_path: Path
) -> None:
    folder = drawn(tmp_path / "set", gray(inside=CLASS, around=255))
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(folder / "masks/05.png")
    one, masks = made(folder, tmp_path / "run")
    assert one.faults == ("05: all of its mask is ignored",)
    assert len(masks) == NUMBER - 1
