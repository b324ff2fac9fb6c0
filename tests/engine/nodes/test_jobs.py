"""A cluster of four nodes on this machine: commands as jobs, and nodes that die under them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Submitted = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_job_survives_the_death_of_a_node(
    cluster: Any,
    submitted: Submitted,
    check_tables: Callable[[Path], None],
    whole_run: Callable[[Path], list[str]],
    wait_for_parts: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    """The whole curation, through the job server and with our code sent along; the power of a node is cut in embed."""
    given = whole_run(tmp_path / "run")
    begun = submitted(cluster, "curation", "--job-id", "first", "--no-follow", "run", *given)
    assert begun.returncode == 0, begun.stderr
    wait_for_parts(tmp_path / "run/embeddings", 2)
    victim = cluster.nodes[-1]
    cluster.kill(victim)
    cluster.add(cpus=1, gpus=1)
    again = submitted(cluster, "curation", "--job-id", "first", "run", *given)  # it is followed, not begun twice
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "job first succeeded" in again.stdout
    check_tables(tmp_path / "run")
    third = submitted(cluster, "curation", "--job-id", "first", "run", *given)
    assert third.returncode == 2
    assert "has ended; give another --job-id" in third.stderr


def test_what_cannot_work_is_refused_before_or_at_once(cluster: Any, submitted: Submitted, tmp_path: Path) -> None:
    wrong = submitted(cluster, "curation", "run", "--run-dir", str(tmp_path / "r"), "--source", "x", "--budgett", "0.1")
    assert wrong.returncode == 2
    assert "did you mean --budget?" in wrong.stderr
    secret = submitted(cluster, "curation", "embed", "--run-dir", "s3://KEY:hushhush@bucket/run")
    assert secret.returncode == 2
    assert "environment of the cluster's machines" in secret.stderr
    assert "hushhush" not in secret.stdout + secret.stderr
    config = tmp_path / "a b.yaml"
    config.write_text("run_dir: runs/relative\n")
    relative = submitted(cluster, "curation", "embed", "--config", str(config))  # the file is sent along
    assert relative.returncode != 0
    assert "relative is a relative path, which in a job is in a copy of" in relative.stdout
    environment = {"RAY_AUTH_TOKEN": "0" * 48}
    stranger = subprocess.run(
        [sys.executable, "-m", "curation", "stop", "first", "--address", cluster.dashboard],
        env=cluster.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stranger.returncode == 2
    assert "token" in stranger.stderr


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_mixed(
    cluster: Any,
    check_tables: Callable[[Path], None],
    whole_run: Callable[[Path], list[str]],
    wait_for_parts: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    """The driver is killed in embed and submitted again at once, twice, while workers of the first may still write."""
    given, log = ("curation", "run", *whole_run(tmp_path / "run")), tmp_path / "log"
    first = cluster.begin(log, *given)
    wait_for_parts(tmp_path / "run/embeddings", 2)
    first.kill_all()
    both = [cluster.begin(tmp_path / f"log-{number}", *given) for number in range(2)]
    codes = sorted(one.wait(300) for one in both)
    texts = [(tmp_path / f"log-{number}").read_text() for number in range(2)]
    assert codes in ([0, 0], [0, 2]), texts
    assert codes == [0, 0] or any("is in use by another process" in text for text in texts)
    check_tables(tmp_path / "run")


@pytest.mark.slow
def test_of_two_submissions_at_once_there_is_one_result(
    cluster: Any,
    submitted: Submitted,
    check_tables: Callable[[Path], None],
    whole_run: Callable[[Path], list[str]],
    tmp_path: Path,
) -> None:
    given = whole_run(tmp_path / "run")
    for name in "ab":
        begun = submitted(cluster, "curation", "--job-id", name, "--no-follow", "run", *given)
        assert begun.returncode == 0, begun.stderr
    ends = [submitted(cluster, "curation", "--job-id", name, "run", *given) for name in "ab"]
    done = [end.returncode == 0 for end in ends]
    assert any(done), [end.stdout[-2000:] for end in ends]
    assert all(ok or "is in use by another process" in end.stdout for ok, end in zip(done, ends, strict=True))
    check_tables(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["frames", "embeddings", "scores"])
def test_the_same_command_goes_on_after_the_head_was_lost(
    started_nodes: Callable[..., Any],
    check_tables: Callable[[Path], None],
    whole_run: Callable[[Path], list[str]],
    wait_for_parts: Callable[[Path, int], None],
    tmp_path: Path,
    folder: str,
) -> None:
    """The head and all nodes lose their power, and with it the driver: a new cluster does what is missing."""
    given, run_dir = ("curation", "run", *whole_run(tmp_path / "run")), tmp_path / "run"
    with started_nodes() as cluster:
        for _ in range(3):
            cluster.add(cpus=1)
        first = cluster.begin(tmp_path / "log", *given)
        wait_for_parts(run_dir / folder, 1)
        cluster.kill_head()
        first.kill_all()
        kept = {part: part.stat().st_ino for part in (run_dir / "embeddings").glob("part-*")}
        cluster.start_head()
        for _ in range(3):
            cluster.add(cpus=1)
        again = cluster.call(*given)
        assert again.returncode == 0, again.stderr[-3000:]
    check_tables(run_dir)
    assert bool(kept) == (folder != "frames")
    assert {part: part.stat().st_ino for part in kept} == kept
