"""Cached frames: taken from the part that holds them, from arrays, files and in processes that read ahead."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from training.loader.decoded import DecodedFrames
from training.loader.order import Batches, Rank

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), dtype=np.uint8)
IDS = [f"frame-{number}" for number in range(13)]
ROWS = np.array([12, 0, 5, 4])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, part in (("a", PIXELS[:5]), ("b", PIXELS[5:])):
        np.save(tmp_path / f"{name}.npy", part)
    return [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]


def test_frames_come_from_the_part_that_holds_them(files: list[str]) -> None:
    for frames in (DecodedFrames([PIXELS[:5], PIXELS[5:]], IDS), DecodedFrames(files, IDS)):
        assert len(frames) == 13
        assert np.array_equal(frames.take(ROWS).numpy(), PIXELS[ROWS])
        assert frames.names(ROWS) == ["frame-12", "frame-0", "frame-5", "frame-4"]


def test_mapped_frames_travel_as_paths(files: list[str]) -> None:
    sent = pickle.dumps(DecodedFrames(files, IDS))
    assert len(sent) < PIXELS.nbytes / 2
    assert np.array_equal(pickle.loads(sent).take(ROWS).numpy(), PIXELS[ROWS])


def test_processes_that_read_ahead_keep_the_order(files: list[str]) -> None:
    order = Batches(13, 6, 3, 0)
    taken = [list(DecodedFrames(files, IDS, n).images(order, order.places(Rank(), 2, 5))) for n in (0, 2)]
    assert len(taken[0]) == 6
    assert all(torch.equal(plain, ahead) for plain, ahead in zip(*taken, strict=True))
    assert np.array_equal(taken[0][0].numpy(), PIXELS[order.rows(2, 0)])


def test_ids_and_pixels_must_agree() -> None:
    with pytest.raises(ValueError, match="12 ids for 13 frames"):
        DecodedFrames([PIXELS], IDS[:12])
    with pytest.raises(ValueError, match="0 ids for 0 frames"):
        DecodedFrames([], [])
