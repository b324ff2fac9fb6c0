"""Steps' markers: begin, finish and find again, what other settings are refused, and what is cleared."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from curation.console import StepSummary
from curation.options import digest, hashed_fields
from curation.sources.config import IngestConfig
from curation.store import directory
from curation.store.directory import RunDirectory
from curation.store.markers import SUCCESS, Step, check_rejected, marker_of

TABLE = pa.table({"number": list(range(1000)), "name": [f"frame {number % 7}" for number in range(1000)]})
Paths = Callable[[RunDirectory], list[str]]


def ingest(**values: Any) -> IngestConfig:
    return IngestConfig(**{"run_dir": "unused", "source": ("s",)} | values)


def step(run: RunDirectory, config: IngestConfig | None = None, **inputs: str) -> Step:
    return Step(run, "ingest", "frames", config or ingest(), inputs)


def test_find_begin_finish_and_find_again(run: RunDirectory, every_file: Paths) -> None:
    first = step(run, sources="abc")
    assert first.find() is None
    assert every_file(run) == []  # finding leaves no trace
    first.begin()
    assert first.find() is None  # unfinished: go on
    with pytest.raises(ValueError, match="frames is missing or unfinished; run `python -m curation ingest` first"):
        marker_of(run, "frames", "ingest")
    files = [run.write_table(f"frames/part-00000{number}.parquet", TABLE[number:]) for number in (1, 0)]
    assert first.find() is None
    marker = first.finish(StepSummary(rows_in=1000, rows_out=1000, seconds=0.0), files)
    assert marker["files"] == [vars(file) for file in reversed(files)]
    assert marker["output_hash"] == digest([[file.path, file.sha256] for file in reversed(files)])
    assert marker["config_hash"] == digest(hashed_fields(ingest()))
    assert (marker["step"], marker["rows_in"], marker["inputs"]) == ("ingest", 1000, {"sources": "abc"})
    assert first.find() == marker == marker_of(run, "frames", "ingest")
    assert run.read_json(f"frames/{SUCCESS}") == marker


def test_begin_records_config_inputs_and_versions(run: RunDirectory) -> None:
    step(run, sources="abc").begin()
    Step(run, "embed", "embeddings", ingest(part_rows=7), {}).begin()
    record = run.read_json("run.json")
    assert list(record["steps"]) == ["frames", "embeddings"]
    assert record["steps"]["frames"] == {
        "config": hashed_fields(ingest()),
        "inputs": {"sources": "abc"},
        "config_hash": digest(hashed_fields(ingest())),
    }
    assert record["steps"]["embeddings"]["config"]["part_rows"] == 7
    assert record["versions"]["pyarrow"] == pa.__version__
    assert set(record["versions"]) >= {"endosieve", "torch", "timm", "ray"}


def test_other_settings_are_refused_and_damage_nothing(run: RunDirectory, every_file: Paths) -> None:
    step(run, ingest(part_rows=100), sources="abc").begin()
    run.write_table("frames/part-000000.parquet", TABLE)
    run.write_bytes(f"frames/{directory.TEMPORARY}x", b"of a writer that may still be at work")
    before = {path: run.read_bytes(path) for path in every_file(run)}
    with pytest.raises(ValueError, match="ingest was run in") as caught:
        step(run, ingest(part_rows=200, include=("*.jpg",)), sources="abd").find()
    for change in (
        "part_rows was 100, now 200",
        "include was [], now ['*.jpg']",
        "sources was 'abc', now 'abd'",
        "another --run-dir",
        "delete frames/",
    ):
        assert change in str(caught.value)
    assert "max_pixels" not in str(caught.value)
    with pytest.raises(ValueError, match=r"more was None, now 'x'"):
        step(run, ingest(part_rows=100), sources="abc", more="x").find()
    assert {path: run.read_bytes(path) for path in every_file(run)} == before
    assert step(run, ingest(part_rows=100), sources="abc").find() is None


def test_other_settings_of_a_finished_step_are_refused(run: RunDirectory) -> None:
    step(run).begin()
    marker = step(run).finish(StepSummary(rows_in=0, rows_out=0, seconds=0.0), [])
    with pytest.raises(ValueError, match="part_rows was 2000, now 7"):
        step(run, ingest(part_rows=7)).find()
    assert step(run).find() == marker


def test_other_settings_are_welcome_where_nothing_was_done_yet(run: RunDirectory) -> None:
    step(run, ingest(part_rows=100)).begin()
    other = step(run, ingest(part_rows=200))
    assert other.find() is None
    other.begin()
    assert run.read_json("run.json")["steps"]["frames"]["config"]["part_rows"] == 200


def test_what_does_not_shape_the_result_may_change(run: RunDirectory) -> None:
    step(run, ingest(max_rejected=0.5)).begin()
    marker = step(run, ingest(max_rejected=0.5)).finish(StepSummary(rows_in=0, rows_out=0, seconds=0.0), [])
    assert step(run, ingest(max_rejected=0.1, run_dir="elsewhere")).find() == marker


def test_begin_clears_what_killed_writers_left(run: RunDirectory) -> None:
    run.write_bytes(f"frames/{directory.TEMPORARY}x", b"half")
    run.write_bytes("frames/part-000000.parquet", b"whole")
    step(run).begin()
    assert run.names("frames") == ["part-000000.parquet"]


def test_holds_files_looks_below(run: RunDirectory) -> None:
    assert not run.holds_files("clusters")
    run.write_bytes("clusters/iterations/part-000000.parquet", b"")
    assert run.holds_files("clusters")
    assert not run.holds_files("cluster")


def test_check_rejected_at_its_limit() -> None:
    check_rejected("embed", 5, 100, 0.05)
    check_rejected("embed", 0, 0, 0.0)
    with pytest.raises(ValueError, match=r"embed rejected 6 of 100 frames \(6.0%\), more than max_rejected 5.0%"):
        check_rejected("embed", 6, 100, 0.05)
