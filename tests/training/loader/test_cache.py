"""Whether decoded frames are kept: decided once, by the room there is with what they take already."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from curation.store.directory import RunDirectory
from training.loader import cache


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """An output on a disk with 1,000 bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    return RunDirectory(str(tmp_path))


def test_half_of_the_free_disk_and_of_what_is_there_is_room(run: RunDirectory) -> None:
    assert cache.fits(run, 500, True, None)
    assert not cache.fits(run, 501, True, None)
    run.write_bytes("cache/part-000000.npy", b"x" * 600)
    assert cache.fits(run, 800, True, None)
    assert not cache.fits(run, 801, True, None)


def test_what_was_decided_stands_until_the_user_says_otherwise(run: RunDirectory) -> None:
    run.write_json(cache.DECISION, {"decoded_bytes": 5000})
    assert cache.fits(run, 5000, True, None)
    assert not cache.fits(run, 5000, True, 4e-6)
    run.write_json(cache.DECISION, {"decoded_bytes": 0})
    assert not cache.fits(run, 5, True, None)
    assert cache.fits(run, 5000, True, 5e-6)
