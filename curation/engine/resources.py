"""How a step meets Ray: connecting, what there is to run on, and a bounded stream of tasks."""

import contextlib
import functools
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from curation.engine.chips import Chip

QUIET_S = 5.0
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # a task that holds no GPU sees its node's


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start a local Ray; nothing where one is running already."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task warns about the future
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it announces that it is on
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING)
    else:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else actors announce how they would be restarted,
        with held_back_stderr():  # and the level announces itself
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)  # instead of Ray's C++ code, which prints a stack and aborts


def leave(number: int, _: Any) -> None:
    """End the process as Python does, so that a local Ray ends with it."""
    sys.exit(number)


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Keep what C++ code writes to stderr from the terminal, unless the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def placement_groups() -> set[str]:
    """IDs, in hex, of the placement groups of this driver and its actors that hold or wait for resources."""
    job = ray.get_runtime_context().get_job_id()  # every ID of a placement group ends with its job's
    table = placement_group_table()
    return {name for name, group in table.items() if name.endswith(job) and group["state"] != "REMOVED"}


def free_placement_groups(known: set[str]) -> None:
    """Remove this driver's placement groups but the `known` ones (IDs), until none came up for QUIET_S seconds.

    Ray keeps those of a killed actor until its job is over. Ray Train's own cleaner needs Ray's dashboard, and knows of
    no training that still starts. Controllers of killed trainings live on for seconds, and ask for new ones.
    """
    last = time.monotonic()
    while time.monotonic() - last < QUIET_S:
        for name in placement_groups() - known:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
            last = time.monotonic()
        time.sleep(0.2)


def count(resource: str) -> int:
    """How many of `resource` (CPU, GPU) the cluster has, whole ones."""
    return int(resources().get(resource, 0))


def largest(resource: str) -> float:
    """How many of `resource` the node with most of it has: no task and no actor can be granted more."""
    return max(float(each.get(resource, 0)) for each in nodes())


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in known if node["Alive"]]


def resources() -> dict[str, float]:
    """What the cluster has in all, by Ray's names."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def arithmetic_options() -> dict[str, Any]:
    """Ray options of a task that multiplies matrices: a GPU where the cluster has any, else one CPU.

    Workers of GPU tasks are kept (max_calls 0), or each task would start Python and CUDA anew. The strategy is named
    because a task of a Ray Tune trial would otherwise wait for a place in the trial's own placement group.
    """
    device = {"num_gpus": 1, "max_calls": 0} if count("GPU") else {}
    return {"num_cpus": 1, "scheduling_strategy": "DEFAULT"} | device


def device() -> str:
    """The device granted to the task or actor that asks."""
    return "cuda" if ray.get_gpu_ids() else "cpu"


def chips() -> list["Chip"]:
    """What arithmetic tasks may run on: a GPU of each node that has some, else the CPU of each node; sorted.

    A single machine without GPUs answers for itself. Elsewhere each node is asked once, by a task that holds nothing
    and so waits for nothing.
    """
    kind = "GPU" if count("GPU") else "CPU"
    known = ray.nodes()  # type: ignore[no-untyped-call]
    able = [node["NodeID"] for node in known if node["Alive"] and node["Resources"].get(kind, 0) > 0]
    return list(chips_of(tuple(sorted(able)), kind == "GPU"))


def device_names() -> str:
    """The names of the chips that arithmetic tasks may run on, as markers and cards record them."""
    return "; ".join(dict.fromkeys(each.name for each in chips()))


@functools.cache
def chips_of(nodes: tuple[str, ...], gpu: bool) -> tuple["Chip", ...]:
    """The chips of some nodes, by their ids."""
    from curation.engine.chips import chip  # noqa: PLC0415 (PyTorch, which ingest does without)

    if len(nodes) == 1 and not gpu:
        return (chip(),)
    task: Any = ray.remote(chip)
    where = [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes]
    options = [{"num_cpus": 0, "runtime_env": SEES_GPUS, "scheduling_strategy": each} for each in where]
    asked = [task.options(**each).remote("cuda" if gpu else "cpu") for each in options]
    return tuple(sorted(ray.get(asked)))


def granted_cpus() -> int:
    """CPUs granted to the task or actor that asks, at least one."""
    granted: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    return max(1, int(granted.get("CPU", 1)))


def stream(task: Any, calls: Iterable[tuple[Any, ...]], *, in_order: bool = False) -> Iterator[Any]:
    """Results of `task.remote(*call)`, as they arrive or in the order of the calls.

    At most two calls a CPU are under way, and `calls` is drawn from as results are taken, so nothing piles up.
    """
    limit = 2 * max(1, count("CPU"))
    pending: list[Any] = []
    for call in calls:
        pending.append(task.remote(*call))
        if len(pending) >= limit:
            yield ray.get(next_of(pending, in_order))
    while pending:
        yield ray.get(next_of(pending, in_order))


def next_of(pending: list[Any], in_order: bool) -> Any:
    """Take the first reference, or the first one that is ready, out of `pending`."""
    reference = pending[0] if in_order else ray.wait(pending, num_returns=1)[0][0]
    pending.remove(reference)
    return reference
