"""The resources of Ray's cluster: CPUs, GPUs, chips, and what a task that multiplies matrices asks for."""

import functools
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from curation.engine.chips import Chip

SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # a task that holds no GPU sees its node's


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

    Workers of GPU tasks are kept (max_calls 0), or each task would start Python and CUDA again. The strategy is named
    because a task of a Ray Tune trial would otherwise wait for a place in the trial's own placement group.
    """
    device = {"num_gpus": 1, "max_calls": 0} if count("GPU") else {}
    return {"num_cpus": 1, "scheduling_strategy": "DEFAULT"} | device


def device() -> str:
    """The device granted to the calling task or actor."""
    return "cuda" if ray.get_gpu_ids() else "cpu"


def chips() -> list["Chip"]:
    """What arithmetic tasks may run on: a GPU of each node that has some, else the CPU of each node; sorted.

    A single machine without GPUs describes its own CPU. Elsewhere each node is queried once, by a task that holds no
    resources and so never waits for any.
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
    pending = [task.options(**each).remote("cuda" if gpu else "cpu") for each in options]
    return tuple(sorted(ray.get(pending)))


def granted_cpus() -> int:
    """CPUs granted to the calling task or actor, at least one."""
    granted: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    return max(1, int(granted.get("CPU", 1)))
