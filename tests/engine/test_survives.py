"""kill -9 of the driver, a worker or Ray's own process in the middle of a step, and the same command again."""

import importlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curation import pipeline
from curation.clusters.cluster import cluster
from curation.clusters.config import ClusterConfig
from curation.scores.config import ScoreConfig
from curation.scores.score import score

Tables = Callable[[Path], dict[str, str]]
Written = Callable[[Path], dict[str, tuple[int, int]]]

ROWS, DIMENSIONS, PARTS, CLUSTERS = 20_000, 64, 20, 40
CLUSTER = {"clusters": CLUSTERS, "iterations": 60, "shard_rows": 5000}
SCORE = {"group_rows": 1}  # a part for each cluster
HELPERS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # of Ray's own, no workers
slow = pytest.mark.slow


def wait_for(parts: Path, count: int, driver: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `count` parts are there."""
    limit = time.monotonic() + 150
    while len(list(parts.glob("part-*.parquet"))) < count:
        assert driver.poll() is None, f"it ended before {count} parts were in {parts}: {log.read_text()[-3000:]}"
        assert time.monotonic() < limit, f"no {count} parts in {parts}: {log.read_text()[-3000:]}"
        time.sleep(0.002)


def victim_of(driver: Any, kind: str) -> int:
    """The process to kill; of workers, one that is busy with the step."""
    if kind == "driver":
        return driver.pid
    if kind == "raylet":
        [found] = [number for number, command in driver.living().items() if "/raylet/raylet " in command]
        return found
    names = ("MapWorker", "group_sums", "score_group", "merge", "IDLE")
    workers = {
        number: command
        for number, command in driver.living().items()
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


@pytest.mark.parametrize(
    ("victim", "step"),
    [
        ("driver", "run"),  # in the middle of embed
        pytest.param("driver", "cluster", marks=slow),
        pytest.param("driver", "score", marks=slow),
        pytest.param("worker", "embed", marks=slow),
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
    started: Callable[..., Any],
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
    with started(log, "curation", *arguments) as driver:
        wait_for(run_dir / folder, count, driver, log)
        os.kill(victim_of(driver, victim), signal.SIGKILL)
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
    embedding = importlib.import_module("curation.embeddings.embed")  # curation.embed may be the function
    chunks, write_part = embedding.encoded_chunks, embedding.write_part
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

    monkeypatch.setattr(embedding, "encoded_chunks", watched_chunks)
    monkeypatch.setattr(embedding, "write_part", watched_write_part)
    embedding.embed(settings(begun("frames"), embed={"chunk_rows": 2}).embed)
    assert written_parts == set(range(8))
    assert max(under_way) <= 2  # what a kill loses: a part for each of two workers
