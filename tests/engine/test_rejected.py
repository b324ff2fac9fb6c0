"""Bad files among good ones: each is rejected with its reason, and too many stop a step as soon as that is sure."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.__main__ import main
from curation.frames.ingest import ingest

Written = Callable[[Path], dict[str, tuple[int, int]]]


def damage_inside(jpeg: bytes) -> bytes:
    """Give a Huffman table more codes than there can be: headers and end stay whole, decoding fails."""
    place = jpeg.index(b"\xff\xc4")
    return jpeg[: place + 5] + b"\xff" * 16 + jpeg[place + 21 :]


BAD = {
    "truncated.jpg": ("ingest", "truncated"),
    "garbage.jpg": ("ingest", "not an image"),
    "zero.jpg": ("ingest", "empty file"),
    "text.jpg": ("ingest", "not an image"),
    "inside.jpg": ("embed", "corrupt"),
}


@pytest.fixture
def mixed(drawn: tuple[Path, pa.Table], tmp_path: Path) -> Path:
    """95 good frames without copies, and 5 bad files."""
    folder = tmp_path / "mixed"
    kinds = ("distinct", "near_duplicate")
    good = [row["path"] for row in drawn[1].to_pylist() if row["kind"] in kinds][:95]
    for path in good:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn[0] / path, folder / path)
    jpeg = (folder / good[0]).read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "garbage.jpg").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is a report, not a frame\n" * 50)
    (folder / "inside.jpg").write_bytes(damage_inside(jpeg))
    return folder


def test_bad_files_are_quarantined_and_the_run_ends_well(
    *,
    local_ray: None,
    mixed: Path,
    settings: Callable[..., pipeline.RunConfig],
    flags: Callable[..., list[str]],
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    config = settings(run_dir, (f"mixed={mixed}",))
    ingest(config.ingest)
    assert main(["embed", *flags(config.embed), "--max-rejected", "0.01"]) == 2
    message = capsys.readouterr().err
    assert "rejected 1 of 96 frames (1.0%)" in message
    assert "more than max_rejected 1.0%" in message
    committed = {path: stat for path, stat in written(run_dir).items() if path != "run.json"}
    assert sum(path.startswith("rejected/") for path in committed) == 2, "the part that decided it is kept"
    markers = {marker["step"]: marker for marker in pipeline.run(config)}
    after = written(run_dir)
    assert {path: after[path] for path in committed} == committed
    rejected = {
        row["path"]: row for file in (run_dir / "rejected").glob("*.parquet") for row in pq.read_table(file).to_pylist()
    }
    assert {path: (row["step"], row["reason"]) for path, row in rejected.items()} == BAD
    for row in rejected.values():
        assert row["message"]
        assert row["uri"] == str(mixed / row["path"])
    counts = {step: (m["rows_in"], m["rows_out"], m["rejected"]) for step, m in markers.items()}
    assert counts["ingest"] == (100, 96, 4)
    assert counts["embed"] == (96, 95, 1)
    assert counts["score"] == (95, 95, 0)
    assert counts["select"][0::2] == (100, 5)
    decisions = pq.read_table(run_dir / "subsets/curated/decisions.parquet").to_pylist()
    assert len({row["frame_id"] for row in decisions}) == len(decisions) == 100
    assert {row["frame_id"] for row in decisions if row["reason"] == "rejected"} == {
        row["frame_id"] for row in rejected.values()
    }


def test_more_than_max_rejected_stops_when_that_is_sure_and_resumes(
    *,
    local_ray: None,
    mixed: Path,
    settings: Callable[..., pipeline.RunConfig],
    flags: Callable[..., list[str]],
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(5):
        (mixed / "00").mkdir(exist_ok=True)
        (mixed / f"00/{number}.jpg").write_bytes(b"garbage")
    run_dir = tmp_path / "run"
    config = settings(run_dir, (f"mixed={mixed}",), ingest={"part_rows": 4}).ingest
    command = ["ingest", *flags(config), "--max-rejected"]
    assert main([*command, "0.03"]) == 2
    told = r"ingest stopped early: it rejected [45] of 105 frames \([34].8%\) so far, more than max_rejected 3.0%"
    assert re.search(told, capsys.readouterr().err)
    committed = {path: stat for path, stat in written(run_dir).items() if path != "run.json"}
    assert 1 <= sum(path.startswith("frames/part-") for path in committed) < 15
    assert main([*command, "0.1"]) == 0
    after = written(run_dir)
    assert {path: after[path] for path in committed} == committed
    reasons = [row for file in (run_dir / "rejected").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert len(reasons) == 9


def test_more_than_max_rejected_stops_at_the_end_of_the_step(
    *,
    local_ray: None,
    mixed: Path,
    settings: Callable[..., pipeline.RunConfig],
    flags: Callable[..., list[str]],
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    command = ["ingest", *flags(settings(run_dir, (f"mixed={mixed}",)).ingest), "--max-rejected"]
    assert main([*command, "0.03"]) == 2
    message = capsys.readouterr().err
    assert "error: ingest rejected 4 of 100 frames (4.0%), more than max_rejected 3.0%" in message
    assert "--max-rejected" in message
    committed = {path: stat for path, stat in written(run_dir).items() if path != "run.json"}
    assert sum(path.startswith("frames/part-") for path in committed) == 5, "the step goes to its end"
    assert not (run_dir / "frames/_SUCCESS.json").exists()
    assert set(pq.read_table(run_dir / "rejected")["path"].to_pylist()) == BAD.keys() - {"inside.jpg"}
    assert main([*command, "0.04"]) == 0
    after = written(run_dir)
    assert {path: after[path] for path in committed} == committed
