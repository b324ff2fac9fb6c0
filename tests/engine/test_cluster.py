"""A cluster of four nodes on this machine: commands as jobs, and nodes that die under them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def submitted(cluster: Any, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
    """`python -m curation submit ...` from a machine that is not of the cluster: without its address in RAY_ADDRESS."""
    command = [sys.executable, "-m", "curation", "submit", "--address", cluster.dashboard, "--python", sys.executable]
    environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False, cwd="/"
    )
    return done


def test_a_job_survives_the_death_of_a_node(
    cluster: Any,
    reference: tuple[Path, Any],
    whole_run: Callable[[Path], list[str]],
    tables: Callable[[Path], dict[str, str]],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The whole curation, through the job server and with our code sent along; the power of a node is cut in embed."""
    given = whole_run(tmp_path / "run")
    begun = submitted(cluster, "--job-id", "first", "--no-follow", "run", *given)
    assert begun.returncode == 0, begun.stderr
    parts = tmp_path / "run" / "embeddings"
    wait_until(lambda: len(list(parts.glob("part-*"))) >= 2, "no part of embeddings")
    victim = cluster.nodes[-1]
    cluster.kill(victim)
    cluster.add(cpus=1, gpus=1)
    again = submitted(cluster, "--job-id", "first", "run", *given)  # it is followed, not begun twice
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "job first succeeded" in again.stdout
    found, expected = tables(tmp_path / "run"), tables(reference[0])
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    third = submitted(cluster, "--job-id", "first", "run", *given)
    assert third.returncode == 2
    assert "has ended; give another --job-id" in third.stderr


def test_what_cannot_work_is_refused_before_or_at_once(cluster: Any, tmp_path: Path) -> None:
    wrong = submitted(cluster, "run", "--run-dir", str(tmp_path / "r"), "--source", "x", "--budgett", "0.1")
    assert wrong.returncode == 2
    assert "did you mean --budget?" in wrong.stderr
    secret = submitted(cluster, "embed", "--run-dir", "s3://KEY:hushhush@bucket/run")
    assert secret.returncode == 2
    assert "environment of the cluster's machines" in secret.stderr
    assert "hushhush" not in secret.stdout + secret.stderr
    config = tmp_path / "a b.yaml"
    config.write_text("run_dir: runs/relative\n")
    relative = submitted(cluster, "embed", "--config", str(config))  # the file is sent along
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
    reference: tuple[Path, Any],
    whole_run: Callable[[Path], list[str]],
    tables: Callable[[Path], dict[str, str]],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    """The driver is killed in embed and submitted again at once, twice, while workers of the first may still write."""
    given, log = ("curation", "run", *whole_run(tmp_path / "run")), tmp_path / "log"
    first = cluster.begin(log, *given)
    wait_until(lambda: len(list((tmp_path / "run" / "embeddings").glob("part-*"))) >= 2, "no part of embeddings")
    first.kill_all()
    both = [cluster.begin(tmp_path / f"log-{number}", *given) for number in range(2)]
    codes = sorted(one.wait(300) for one in both)
    texts = [(tmp_path / f"log-{number}").read_text() for number in range(2)]
    assert codes in ([0, 0], [0, 2]), texts
    assert codes == [0, 0] or any("is in use by another process" in text for text in texts)
    assert tables(tmp_path / "run") == tables(reference[0])
