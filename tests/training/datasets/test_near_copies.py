"""Test images that are trained ones at another size are found, and no others."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.store.directory import RunDirectory
from training.datasets import folders
from training.datasets.near_copies import near_pairs, small_copies
from training.datasets.prepared import copy_notes, pairs, prepare_set, with_near_copies

Truth = Callable[..., npt.NDArray[np.bool_]]
Write = Callable[[Path, int], None]
SIDE, NUMBER = 32, 12
DATA = os.environ.get("ENDOSIEVE_DATA")


def test_test_images_that_are_trained_ones_at_another_size_are_left_out(
    disc: Truth,
    picture: Callable[..., Image.Image],
    drawn: Callable[..., Path],
    gray: Callable[..., Write],
    tmp_path: Path,
) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    first, other = (drawn(tmp_path / name, gray()) for name in ("first", "other"))
    for number in range(NUMBER):
        image = picture(number if number < 4 else 100 + number, 3 * SIDE)
        image.resize((2 * SIDE, 2 * SIDE)).save(other / f"images/{number:02d}.jpg", quality=85)
        (other / f"images/{number:02d}.png").unlink()
        Image.fromarray(disc(0, 18, 2 * SIDE)).save(other / f"masks/{number:02d}.png")
    trained = prepare_set(run, "first", folders.find_dataset("generic", str(first)), SIDE, 0)
    tested = prepare_set(run, "other", folders.find_dataset("generic", str(other)), SIDE, None)
    sets = with_near_copies(run, [trained, tested])
    known = {int(trained.names[row]) for part in ("train", "validation") for row in trained.parts[part]}
    copies = {number for number in range(4) if number in known}
    assert len(copies) >= 2
    left = {int(sets[1].names[row]) for row in sets[1].test_rows(sets[0])}
    assert left == set(range(NUMBER)) - copies
    assert len(tested.test_rows(trained)) == NUMBER  # bytes alone do not tell
    [line] = copy_notes(sets)
    assert line.startswith(f"other: {len(copies)} (")
    assert "of training or validation images of first" in line
    assert len(pairs(run, sets[1], sets[1].test_rows(sets[0])).images) == len(left)


def test_originals_in_full_size_are_found_and_no_other_pair(
    picture: Callable[..., Image.Image], tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    images = np.stack([np.asarray(picture(int(seed), 96)) for seed in rng.integers(0, 9999, 20)])
    smaller = np.stack([np.asarray(Image.fromarray(image).resize((48, 48)).resize((96, 96))) for image in images])
    found = list(near_pairs(small_copies(smaller), small_copies(images)))
    assert found == [(row, row) for row in range(20)]
    darker = (images * 0.7 + 20).astype(np.uint8)
    assert len(list(near_pairs(small_copies(darker), small_copies(images)))) == 20
    flat = np.full((2, 48, 48, 3), 9, np.uint8)
    assert list(near_pairs(small_copies(flat), small_copies(flat))) == []
    assert small_copies(images[:0]).shape == (0, 1024)


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/")
def test_real_originals_are_found_in_a_set_of_smaller_frames(tmp_path: Path) -> None:
    def small(folder: str) -> npt.NDArray[np.float32]:
        found = sorted(Path(f"{DATA}/data/{folder}/images").rglob("*.jpg"))
        squares = [np.asarray(Image.open(path).convert("RGB").resize((128, 128))) for path in found]
        return small_copies(np.stack(squares))

    frames, originals = small("kvasir_seg_352"), small("kvasir_seg_orig30")
    assert (len(frames), len(originals)) == (1000, 30)
    pairs_found = list(near_pairs(originals, frames))
    assert sorted({row for row, _ in pairs_found}) == list(range(30))
    assert len({other for _, other in pairs_found}) == len(pairs_found) <= 31
    own = [(row, other) for row, other in near_pairs(frames, frames) if row < other]
    assert len(own) == 3  # published twice
    assert list(near_pairs(small("endotect2020_512"), frames)) == []
