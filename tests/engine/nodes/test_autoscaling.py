"""A cluster whose nodes come when work waits for them and go when it is done: Ray's own autoscaler, on this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TYPES = {"cpus": {"CPU": 2, "max_workers": 1}, "gpus": {"CPU": 1, "GPU": 1, "max_workers": 1}}
ALIVE = (
    "import json, ray; ray.init(logging_level='ERROR', log_to_driver=False); "
    "print(json.dumps([node['Resources'] for node in ray.nodes() if node['Alive']]))"
)


def gpus_there(cluster: Any) -> float:
    """GPUs of the nodes that are alive."""
    done = cluster.call("timeit", "-n", "1", "-r", "1", ALIVE)
    nodes = json.loads(done.stdout.splitlines()[0])
    return sum(node.get("GPU", 0) for node in nodes)


@pytest.mark.slow
def test_gpu_nodes_come_for_embed_and_go(
    whole_run: Callable[[Path], list[str]],
    started_nodes: Callable[..., Any],
    wait_until: Callable[..., None],
    reference: tuple[Path, Any],
    tables: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    """A run that begins where there is no node but the head: its tables are those of a run on one machine."""
    with started_nodes(types=TYPES) as cluster:
        done = cluster.call("curation", "run", *whole_run(tmp_path / "run"), timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Adding 1 node(s) of type gpus" in done.stdout
        assert "computing on CPUs" not in done.stderr
        wait_until(lambda: gpus_there(cluster) == 0, "GPU nodes do not go", 120)
    assert tables(tmp_path / "run") == tables(reference[0])
