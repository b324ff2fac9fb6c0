"""Whether work goes to GPUs: those there are, and those that an autoscaling cluster adds when it is asked for one.

Ray's autoscaler does not say what it could add, so a cluster without a GPU is asked: a task that needs one is
submitted, and where a node is on its way after that, it is waited for.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_initialized

from curation.console import warn
from curation.engine.config import Device

ASK_S = 20.0  # an autoscaler looks every 5 s, and begins to launch at once
POLL_S = 1.0
SAY_S = 60.0
STATUS = "__autoscaling_status"  # where the autoscaler of `ray up` and `ray start` reports
AGAIN_S = 600.0  # until a cluster that had none is asked again
V2 = "RAY_enable_autoscaler_v2"  # Ray spells it so
chosen: list[Device] = ["auto"]  # of this process: the last counts
refused: dict[str, float] = {}  # when a cluster had none, by its address


@contextmanager
def using(device: Device) -> Iterator[None]:
    """Compute on `device` (DeviceConfig) until the block ends: for all commands of this process, in any thread."""
    chosen.append(device)
    try:
        yield
    finally:
        chosen.remove(device)


def selected() -> Device:
    """What this process computes on."""
    return chosen[-1]


def gpus_present() -> int:
    """GPUs of the nodes that are alive, whole ones."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(total.get("GPU", 0))


def gpus() -> int:
    """How many GPUs work may be given to: with `cpu` 0, else those there are, after one was asked for if need be.

    ValueError for `gpu` on a machine without one that no cluster was joined from.
    """
    if selected() == "cpu":
        return 0
    return gpus_present() or asked()


def asked() -> int:
    """Ask the cluster for a GPU and wait for it; how many it has then. With `auto` 0 where none is on its way."""
    must = selected() == "gpu"
    joined = "RAY_ADDRESS" in os.environ
    if must and not joined:
        raise ValueError(
            "--device gpu, but Ray finds no GPU on this machine: check `nvidia-smi`, join a cluster with RAY_ADDRESS, "
            "or use --device cpu"
        )
    where = ray.get_runtime_context().gcs_address
    if not must and not (joined and elastic() and time.monotonic() - refused.get(where, -AGAIN_S) >= AGAIN_S):
        return 0
    pending = ray.remote(hold_nothing).options(num_gpus=1, num_cpus=0).remote()
    try:
        if waited(pending, must):
            return gpus_present()
        refused[where] = time.monotonic()
        return 0
    finally:
        ray.cancel(pending)


def waited(pending: Any, must: bool) -> bool:
    """Wait until a task ran; False where, unless it `must`, no node is on its way."""
    begun = said = time.monotonic()
    warn("this cluster has no GPU yet: asking for one (--device cpu does without)")
    while not ray.wait([pending], timeout=POLL_S)[0]:
        now = time.monotonic()
        if not must and now - begun > ASK_S and not on_its_way():
            warn("no GPU is on its way: computing on CPUs (--device gpu waits for one)")
            return False
        if now - said > SAY_S:
            said = now
            warn(f"waiting for a GPU for {(now - begun) / 60:.0f} minutes")
    return True


def hold_nothing() -> None:
    """Run where there is a GPU."""


def elastic() -> bool:
    """Whether an autoscaler adds nodes to this cluster; one started by hand reports each node as a type of its own."""
    if autoscaler_v2():
        return True
    status = autoscaler_report()
    return status is not None and not any(name.startswith("node_") for name in status.get("active_nodes", {}))


def on_its_way() -> bool:
    """Whether the autoscaler is launching a node, or one that it launched has not joined yet."""
    if autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(status.pending_launches or status.pending_nodes)
    report = autoscaler_report() or {}
    return bool(report.get("pending_launches") or report.get("pending_nodes"))


def autoscaler_v2() -> bool:
    """Whether the cluster's autoscaler is of the second kind, as KubeRay's is."""
    return os.environ.get(V2, "0").lower() in ("1", "true")


def autoscaler_report() -> dict[str, Any] | None:
    """What the autoscaler of the first kind last reported; None without one."""
    content = _internal_kv_get(STATUS) if _internal_kv_initialized() else None  # type: ignore[no-untyped-call]
    report: dict[str, Any] | None = json.loads(content).get("autoscaler_report") if content else None
    return report
