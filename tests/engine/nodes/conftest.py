"""What tests of clusters share: nodes on this machine, and commands that are submitted to them as jobs."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from curation import pipeline

TESTS = Path(__file__).resolve().parents[2]
LONG_S = 600  # a node starts in 10 s; here other tests run beside
Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def started_nodes() -> Callable[..., Any]:
    """started_nodes(types=...): a cluster of nodes on this machine, for a `with` block."""
    spec = util.spec_from_file_location("nodes", TESTS / "bench" / "nodes.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nodes: Callable[..., Any] = module.Nodes
    return nodes


@pytest.fixture(scope="module")
def cluster(started_nodes: Callable[..., Any]) -> Iterator[Any]:
    """A head that takes no work, and three nodes with a CPU each, two of them with a GPU that PyTorch cannot use."""
    with started_nodes() as running:
        for gpus in (0, 1, 1):
            running.add(cpus=1, gpus=gpus)
        yield running


@pytest.fixture(scope="session")
def submitted() -> Callable[..., Completed]:
    """submitted(cluster, package, *arguments): `python -m PACKAGE submit ...` from a machine outside of the cluster.

    So without its address in RAY_ADDRESS.
    """

    def submit(cluster: Any, package: str, *arguments: str, timeout: float = 900) -> Completed:
        command = [sys.executable, "-m", package, "submit", "--address", cluster.dashboard, "--python", sys.executable]
        environment = cluster.environment | {"PYTHONPATH": str(TESTS.parent)}
        return subprocess.run(
            [*command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd="/",
        )

    return submit


@pytest.fixture(scope="session")
def wait_for_parts(wait_until: Callable[..., None]) -> Callable[[Path, int], None]:
    """wait_for_parts(folder, parts): wait until so many parts are in a folder of a run."""

    def wait(folder: Path, parts: int) -> None:
        wait_until(lambda: len(list(folder.glob("part-*"))) >= parts, f"not {parts} parts in {folder}", LONG_S)

    return wait


@pytest.fixture
def check_tables(reference: tuple[Path, Any], tables: Callable[[Path], dict[str, str]]) -> Callable[[Path], None]:
    """check_tables(run_dir): assert that its tables are those of the reference run, byte for byte."""

    def check(run_dir: Path) -> None:
        found, expected = tables(run_dir), tables(reference[0])
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []

    return check


@pytest.fixture
def whole_run(
    settings: Callable[..., pipeline.RunConfig], flags: Callable[..., list[str]]
) -> Callable[[Path], list[str]]:
    """whole_run(run_dir): the flags of `run` that stand for the reference run's settings."""

    def spell(run_dir: Path) -> list[str]:
        config = settings(run_dir)
        return flags(config.ingest, config.embed, config.cluster, config.select, config.export)

    return spell
