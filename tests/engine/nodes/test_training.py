"""Pre-training and sweeps as jobs on a cluster of four nodes, one of which is told that it will be taken away."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

Submitted = Callable[..., "subprocess.CompletedProcess[str]"]
MODEL = [
    *("--encoder=test_vit", "--image-size=32", "--decoder-depth=1", "--decoder-width=32", "--decoder-heads=2"),
    *("--batch-size=8", "--slice-rows=4", "--picture-steps=0", "--precision=float32", "--workers=2", "--device=cpu"),
]
NODES = "import json, ray; ray.init(logging_level='ERROR', log_to_driver=False); print(json.dumps(ray.nodes()))"
DRAIN_S = 20


def known(cluster: Any) -> list[dict[str, Any]]:
    """What Ray says of the cluster's nodes."""
    done = cluster.call("timeit", "-n", "1", "-r", "1", NODES)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[0])
    return found


def drain(cluster: Any, node: str) -> None:
    """Tell Ray that a node will be taken away, as a cloud's notice does."""
    how = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command = ["ray", "drain-node", "--address", cluster.address, *how, "--deadline-remaining-seconds", str(DRAIN_S)]
    command[0] = str(Path(sys.executable).with_name("ray"))
    subprocess.run(command, env=cluster.environment, check=True, capture_output=True)


@pytest.mark.slow
def test_pretraining_on_two_nodes_survives_a_notice_and_a_death(
    cluster: Any,
    submitted: Submitted,
    reference: tuple[Path, Any],
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    """One of its nodes is announced to go, and its power is then cut; the weights are those of one machine."""
    subset = next((reference[0] / "subsets").iterdir())
    steps = ["--steps=400", "--checkpoint-steps=20", "--log-steps=50"]
    alone = python("-m", "training", "pretrain", f"--subset={subset}", f"--output={tmp_path / 'alone'}", *MODEL, *steps)
    assert alone.returncode == 0, alone.stderr[-3000:]
    output = tmp_path / "output"
    given = "pretrain", f"--subset={subset}", f"--output={output}", *MODEL, *steps
    begun = submitted(cluster, "training", "--job-id", "pretrain", "--no-follow", *given)
    assert begun.returncode == 0, begun.stderr
    checkpoints = output / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("update-*"))) >= 2, "no checkpoint", 200)
    cluster.add(cpus=1)
    ranks = [node for node in known(cluster) if node["Alive"] and node["Resources"].get("CPU")]
    drain(cluster, ranks[0]["NodeID"])
    again = submitted(cluster, "training", "--job-id", "pretrain", *given)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    expected, found = (load_file(folder / "encoder.safetensors") for folder in (tmp_path / "alone", output))
    assert found.keys() == expected.keys()
    assert all(bool((found[name] == expected[name]).all()) for name in expected)


@pytest.mark.slow
def test_a_sweep_as_a_job_is_that_of_one_machine(
    cluster: Any,
    submitted: Submitted,
    begun: Callable[..., Path],
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    polyps: Path,
    tmp_path: Path,
) -> None:
    space = ["--epsilon=0.9", "--d=0.7", "--d=0.9", "--baseline=full", "--seeds=1", "--steps=4"]
    finetuning = ["epochs=2", "batch-size=8", "head-cells=8", "head-width=32", "patience=0", "layer-decay=1.0"]
    given = [
        f"--dataset=generic={polyps}",
        *space,
        *MODEL[:-2],
        "--device=cpu",
        "--decoded-size=48",
        *(f"--finetune-{one}" for one in finetuning),
    ]
    tables = []
    for place, call in (("alone", python), ("nodes", submitted)):
        where = [f"--run-dir={begun('clusters', place)}", f"--output={tmp_path / 'out' / place}"]
        if call is python:
            done = python("-m", "tune", "sweep", *where, *given)
        else:
            done = submitted(cluster, "tune", "sweep", *where, *given)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        tables.append(pq.read_table(tmp_path / "out" / place / "trials.parquet"))
    alone, nodes = (table.sort_by("name").to_pylist() for table in tables)
    assert [row["state"] for row in nodes] == ["finished"] * 3
    same = [name for name in alone[0] if "iou" in name or name in ("name", "ratio", "kept")]
    assert same
    assert [[row[name] for name in same] for row in nodes] == [[row[name] for name in same] for row in alone]
