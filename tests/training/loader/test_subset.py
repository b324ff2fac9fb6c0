"""Frames of a subset decoded again: their bytes are compared, exact copies stand in, passing failures stop."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation.frames import decoding, frame
from curation.frames.frame import ReadError
from curation.store import schema
from curation.store.directory import RunDirectory
from training.loader import subset as subsets

SIDE = 8


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> subsets.Subset:
    """Three frames 0.png to 2.png, and copies 1a.png and 1b.png of the second."""
    run = RunDirectory(str(tmp_path))
    for name, seed in {"0": 0, "1": 1, "2": 2, "1a": 1, "1b": 1}.items():
        (tmp_path / f"{name}.png").write_bytes(png(seed))
    rows = [
        {"frame_id": f"id{seed}", "uri": str(tmp_path / f"{seed}.png"), "byte_size": len(png(seed))}
        | {"content_hash": frame.content_hash(png(seed)), "source": "s", "path": f"{seed}.png"}
        for seed in range(3)
    ]
    run.write_table("kept.parquet", pa.Table.from_pylist(rows, schema.FRAMES))
    copies = [{"content_hash": rows[1]["content_hash"], "uri": str(tmp_path / f"1{name}.png")} for name in "ab"]
    run.write_table("copies.parquet", pa.Table.from_pylist(copies, schema.COPY_FILES))
    run.write_json("subset.json", {"name": "x"})
    return subsets.read_subset(str(tmp_path))


def decoded(made: subsets.Subset) -> tuple[list[int], list[str]]:
    """Which frames came, by their seeds, and what was wrong with the others."""
    pixels, failed = subsets.decode_rows(made, np.arange(3), SIDE)
    known = {decoding.decode(png(seed), SIDE).tobytes(): seed for seed in range(3)}
    return [known[one.tobytes()] for one in pixels], failed


def test_a_copy_stands_in_for_a_file_that_has_gone_or_changed(made: subsets.Subset, tmp_path: Path) -> None:
    assert decoded(made) == ([0, 1, 2], [])
    (tmp_path / "1.png").write_bytes(png(0))
    assert decoded(made) == ([0, 1, 2], [])
    (tmp_path / "1.png").unlink()
    (tmp_path / "1a.png").write_bytes(png(2))
    assert decoded(made) == ([0, 1, 2], [])
    (tmp_path / "1b.png").unlink()
    found, [failed] = decoded(made)
    assert found == [0, 2]
    assert failed.startswith(f"frame id1, {tmp_path / '1.png'}: missing")


def test_a_changed_file_without_a_copy_is_named(made: subsets.Subset, tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(png(3))
    (tmp_path / "copies.parquet").unlink()
    found, [failed] = decoded(made)
    assert found == [0, 1]
    assert f"frame id2, {tmp_path / '2.png'}: changed since ingest" in failed
    assert frame.content_hash(png(2)) in failed
    assert frame.content_hash(png(3)) in failed


@pytest.mark.parametrize("image", [png(1), png(0), b""])
def test_bytes_in_the_table_are_compared(made: subsets.Subset, image: bytes) -> None:
    column = pa.array([png(0), image, png(2)], pa.large_binary())
    found, failed = decoded(subsets.Subset(made.path, made.table.append_column("image", column), made.about))
    assert found == ([0, 1, 2] if image == png(1) else [0, 2])
    assert ["changed since ingest" in text for text in failed] == ([] if image == png(1) else [True])


def test_a_failure_that_may_pass_is_no_fault_of_the_frame(
    made: subsets.Subset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ReadError("input/output error")

    monkeypatch.setattr(subsets, "read_first", failing)
    with pytest.raises(ReadError):
        decoded(made)
