"""How far a run is, from files alone."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation import status
from curation.__main__ import main
from curation.store.claims import Claim, owner_here
from curation.store.config import StatusConfig
from curation.store.directory import RunDirectory
from curation.store.parts import part_path, rejected_path

ROWS = pa.table({"frame_id": ["a", "b", "c"]})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with frames done (4 parts), and 3 parts of embeddings, 10 seconds apart, with 3 rejected frames."""
    run = RunDirectory(str(tmp_path / "run"))
    for number in range(4):
        run.write_table(part_path("frames", number), ROWS)
    marker = {"step": "ingest", "rows_in": 12, "rows_out": 12, "rejected": 0, "seconds": 4.0, "files": []}
    run.write_json("frames/_SUCCESS.json", marker)
    for number in range(3):
        path = part_path("embeddings", number)
        run.write_table(path, ROWS)
        os.utime(f"{run.root}/{path}", (0, 1_000_000 + 10 * number))
    run.write_table(rejected_path(1, "embed"), ROWS)
    run.write_table(rejected_path(1, "ingest"), ROWS)
    steps: dict[str, Any] = {folder: {"config": {}} for folder in ("frames", "embeddings")}
    run.write_json("run.json", {"versions": {}, "steps": steps})
    return run


def test_done_and_begun_steps(run: RunDirectory) -> None:
    done, begun = status.progress_of(run)
    assert (done.step, done.state, done.done, done.rate, done.left_s) == ("ingest", "done", 12, 3.0, None)
    assert (begun.step, begun.state, begun.done, begun.total, begun.unit) == ("embed", "begun", 3, 4, "parts")
    assert (begun.rejected, begun.rate, begun.left_s, begun.written) == (3, 0.1, 10.0, 1_000_020)


def test_iterations_of_clustering(run: RunDirectory) -> None:
    record = run.read_json("run.json")
    record["steps"]["clusters"] = {"config": {"iterations": 20}}
    run.write_json("run.json", record)
    for number in range(6):
        run.write_table(part_path(status.ITERATIONS, number), ROWS)
    [*_, found] = status.progress_of(run)
    assert (found.step, found.done, found.total, found.unit) == ("cluster", 6, 21, "iterations")


def test_the_table_says_who_holds_the_run(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--run-dir", run.uri]) == 0
    assert "held by nobody" in capsys.readouterr().out
    with run.lock():
        before = sorted(Path(run.root).rglob("*"))
        assert f"process {os.getpid()} on" in status.status(StatusConfig(run_dir=run.uri))
        assert sorted(Path(run.root).rglob("*")) == before  # it leaves nothing behind


def test_a_claim_is_shown_with_its_heartbeat(run: RunDirectory) -> None:
    claim = Claim(run, owner_here())
    run.write_json(claim.path, vars(claim.owner))
    [fresh] = status.holders(run, Path(run.root, claim.path).stat().st_mtime + 5)
    assert fresh.endswith("heartbeat 5s ago")
    [stale] = status.holders(run, Path(run.root, claim.path).stat().st_mtime + 600)
    assert stale.endswith("heartbeat 10m ago (stale: it is free)")


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--run-dir", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")])
def test_durations(seconds: float, text: str) -> None:
    assert status.spell(seconds) == text
