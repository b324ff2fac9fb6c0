"""kill -9 in the middle of a step and the same command again; bad files among good ones.

A killed command and all that it started share a session of their own, so that the tests find and end those
processes and no others.
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.__main__ import main
from curation.cluster import cluster
from curation.config import ClusterConfig, ScoreConfig
from curation.ingest import ingest
from curation.score import score

Tables = Callable[[Path], dict[str, str]]
Written = Callable[[Path], dict[str, tuple[int, int]]]
Reference = tuple[Path, list[dict[str, Any]]]

ROWS, DIMENSIONS, PARTS, CLUSTERS = 20_000, 64, 20, 40
CLUSTER = {"clusters": CLUSTERS, "iterations": 60, "shard_rows": 5000}
SCORE = {"group_rows": 1}  # a part for each cluster
HELPERS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # of Ray's own, no workers


def processes(session: int) -> dict[int, str]:
    """Command lines of the living processes of a session, by process id."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def end(session: int) -> None:
    """End what is left of a session."""
    while left := processes(session):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


@contextlib.contextmanager
def started(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m curation ...` in a session of its own; all of it has ended when the block is left."""
    command = [sys.executable, "-m", "curation", *arguments]
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True) as driver,
    ):
        try:
            yield driver
        finally:
            end(driver.pid)


def wait_for(parts: Path, count: int, driver: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `count` parts are there."""
    limit = time.monotonic() + 150
    while len(list(parts.glob("part-*.parquet"))) < count:
        assert driver.poll() is None, f"it ended before {count} parts were in {parts}: {log.read_text()[-3000:]}"
        assert time.monotonic() < limit, f"no {count} parts in {parts}: {log.read_text()[-3000:]}"
        time.sleep(0.002)


def victim_of(driver: int, kind: str) -> int:
    """The process to kill; of workers, one that is busy with the step."""
    if kind == "driver":
        return driver
    if kind == "raylet":
        [found] = [number for number, command in processes(driver).items() if "/raylet/raylet " in command]
        return found
    names = ("MapWorker", "shard_sums", "score_group", "merge", "IDLE")
    workers = {
        number: command
        for number, command in processes(driver).items()
        if command.startswith("ray::") and not command.startswith(HELPERS)
    }
    ranked = [number for name in names for number, command in workers.items() if name in command]
    assert ranked, f"no worker among {workers}"
    return ranked[0]


@pytest.fixture(scope="module")
def embedded(local_ray: None, synthetic: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished embed step whose clusters and scores take seconds. Not to be changed."""
    return synthetic(tmp_path_factory.mktemp("embedded"), ROWS, DIMENSIONS, PARTS)


@pytest.fixture(scope="module")
def clustered(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, clustered without a disturbance."""
    run_dir = Path(shutil.copytree(embedded, tmp_path_factory.mktemp("clustered") / "run"))
    cluster(ClusterConfig(run_dir=str(run_dir), **CLUSTER))
    return run_dir


@pytest.fixture(scope="module")
def scored(clustered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, scored without a disturbance."""
    run_dir = Path(shutil.copytree(clustered, tmp_path_factory.mktemp("scored") / "run"))
    score(ScoreConfig(run_dir=str(run_dir), **SCORE))
    return run_dir


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    settings: Callable[..., pipeline.RunConfig],
    run_flags: Callable[[pipeline.RunConfig], list[str]],
    flags: Callable[..., list[str]],
    tmp_path: Path,
) -> Callable[[str], tuple[list[str], Path, str, int, Path]]:
    """scene(step): the command, its run directory, where its parts appear, after how many to kill, the end result."""

    def make(step: str) -> tuple[list[str], Path, str, int, Path]:
        run_dir = tmp_path / "run"
        if step == "run":
            whole = request.getfixturevalue("reference")[0]
            return ["run", *run_flags(settings(run_dir))], run_dir, "embeddings", 2, whole
        if step == "embed":
            begun = request.getfixturevalue("begun")
            begun("frames")
            return ["embed", *flags(settings(run_dir).embed)], run_dir, "embeddings", 2, begun("embeddings", "whole")
        before, after = {"cluster": ("embedded", "clustered"), "score": ("clustered", "scored")}[step]
        shutil.copytree(request.getfixturevalue(before), run_dir)
        whole, where = request.getfixturevalue(after), {"run_dir": str(run_dir)}
        if step == "cluster":
            return ["cluster", *flags(ClusterConfig(**where, **CLUSTER))], run_dir, "clusters/iterations", 4, whole
        return ["score", *flags(ScoreConfig(**where, **SCORE))], run_dir, "scores", 2, whole

    return make


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("victim", "step"),
    [
        ("driver", "run"),  # in the middle of embed
        ("driver", "cluster"),
        ("driver", "score"),
        ("worker", "embed"),
        pytest.param("worker", "cluster", marks=slow),
        pytest.param("worker", "score", marks=slow),
        pytest.param("raylet", "embed", marks=slow),
        pytest.param("raylet", "cluster", marks=slow),
        pytest.param("raylet", "score", marks=slow),
    ],
)
def test_kill_in_the_middle_and_the_same_command_again(
    *,
    scene: Callable[[str], tuple[list[str], Path, str, int, Path]],
    environment: dict[str, str],
    python: Callable[..., subprocess.CompletedProcess[str]],
    tables: Tables,
    written: Written,
    tmp_path: Path,
    victim: str,
    step: str,
) -> None:
    arguments, run_dir, folder, count, whole = scene(step)
    success, log = run_dir / folder.partition("/")[0] / "_SUCCESS.json", tmp_path / "log"
    expected = tables(whole)
    total = sum(path.startswith(f"{folder}/part-") for path in expected)
    with started(arguments, environment, log) as driver:
        wait_for(run_dir / folder, count, driver, log)
        os.kill(victim_of(driver.pid, victim), signal.SIGKILL)
        killed = sorted(file.name for file in (run_dir / folder).glob("part-*.parquet"))
        assert not success.exists(), "the step was done before the kill: no test of anything"
        code = driver.wait(timeout=150)
    assert count <= len(killed) < total
    if victim == "driver":
        assert code == -signal.SIGKILL
    committed = {path: stat for path, stat in written(run_dir).items() if path.endswith(".parquet")}
    committed = {path: stat for path, stat in committed.items() if ".tmp-" not in path}
    assert {f"{folder}/{name}" for name in killed} <= committed.keys()
    leave_half_written(run_dir)
    again = python("-m", "curation", *arguments)
    assert again.returncode == 0, again.stderr
    assert tables(run_dir) == expected
    after = written(run_dir)
    assert {path: after[path] for path in committed} == committed, "a committed part was written again"
    assert [path for path in after if ".tmp-" in path] == [], "half-written files were left behind"


def leave_half_written(run_dir: Path) -> None:
    """What a writer leaves that was killed while it wrote, beside every part that there is."""
    for folder in {part.parent for part in run_dir.rglob("part-*.parquet")}:
        if not (run_dir / folder.relative_to(run_dir).parts[0] / "_SUCCESS.json").exists():
            (folder / ".tmp-0123456789abcdef0123456789abcdef-part-000001.parquet").write_bytes(b"PAR1 half")


def test_no_more_parts_are_under_way_than_workers(
    begun: Callable[..., Path], settings: Callable[..., pipeline.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = importlib.import_module("curation.embed")  # curation.embed may be the function
    chunks, write_part = embedding.chunks, embedding.write_part
    begun_parts: set[int] = set()
    written_parts: set[int] = set()
    under_way: list[int] = []

    def watched_chunks(*arguments: Any) -> Iterator[dict[str, Any]]:
        for row in chunks(*arguments):
            begun_parts.add(row["part"])
            yield row

    def watched_write_part(run: Any, part: int, *tables: Any) -> Any:
        under_way.append(len(begun_parts - written_parts))
        written_parts.add(part)
        return write_part(run, part, *tables)

    monkeypatch.setattr(embedding, "chunks", watched_chunks)
    monkeypatch.setattr(embedding, "write_part", watched_write_part)
    embedding.embed(settings(begun("frames"), embed={"chunk_rows": 2}).embed)
    assert written_parts == set(range(8))
    assert max(under_way) <= 2  # what a kill loses: a part for each of two workers


# Bad files among good ones


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
    message = "error: embed rejected 1 of 96 frames (1.0%), more than max_rejected 1.0%"
    assert message in capsys.readouterr().err
    committed = {path: stat for path, stat in written(run_dir).items() if path != "run.json"}
    assert sum(path.startswith("embeddings/part-") for path in committed) == 5, "the step goes to its end"
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
