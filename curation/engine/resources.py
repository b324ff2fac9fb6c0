"""The resources of Ray's cluster: CPUs, GPUs, memory and chips, and what the calling task was granted."""

import functools
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from curation.engine.accelerators import elastic, gpus

if TYPE_CHECKING:
    from curation.engine.chips import Chip

RETRIES = 20  # of a task whose node or worker was lost: nodes may go often, but a task that kills its worker must end
LITTLE = 2.0 * 2**30  # bytes; any machine that is worth adding to a cluster has them free
WAITING = 32  # tasks that wait on an autoscaling cluster, so that it sees that nodes are missing
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # a task that holds no GPU sees its node's


def count(resource: str) -> int:
    """How many of `resource` (CPU, GPU) the cluster has, whole ones."""
    return int(resources().get(resource, 0))


def largest(resource: str) -> float:
    """How many of `resource` the node with most of it has: no task and no actor can be granted more."""
    return max(float(each.get(resource, 0)) for each in nodes())


def memory(asked: float) -> int:
    """Bytes of memory that a task which needs about `asked` declares, so that not too many run on one node.

    Never more than the node with most has, or it would wait for ever; no more than LITTLE where no node is there yet.
    """
    most = max((each.get("memory", 0.0) for each in nodes() if each.get("CPU", 0)), default=LITTLE)
    return int(min(asked, most))


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in known if node["Alive"]]


def resources() -> dict[str, float]:
    """What the cluster has in all, by Ray's names."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def device() -> str:
    """The device granted to the calling task or actor: `cuda`, unless PyTorch cannot use the GPU that Ray granted."""
    if not ray.get_gpu_ids():
        return "cpu"
    import torch  # noqa: PLC0415 (which ingest does without)

    return "cuda" if torch.cuda.is_available() else "cpu"


def chips() -> list["Chip"]:
    """What arithmetic tasks may run on: a GPU of each node that has some, else the CPU of each node; sorted.

    A single machine without GPUs describes its own CPU. Elsewhere each node is queried once, by a task that holds no
    resources and so never waits for any; where no node is there yet, the first one that comes is.
    """
    kind = "GPU" if gpus() else "CPU"
    known = ray.nodes()  # type: ignore[no-untyped-call]
    able = [node["NodeID"] for node in known if node["Alive"] and node["Resources"].get(kind, 0) > 0]
    if not able:
        return [ray.get(ray.remote(here).options(num_cpus=1).remote())]
    return list(chips_of(tuple(sorted(able)), kind == "GPU"))


def here() -> "Chip":
    """The CPU of the calling task."""
    from curation.engine.chips import chip  # noqa: PLC0415 (PyTorch, which ingest does without)

    return chip()


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


def beside_driver() -> dict[str, Any]:
    """Ray options of a small actor that must live as long as the calling process: it stays on this node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def granted_cpus() -> int:
    """CPUs granted to the calling task or actor, at least one."""
    granted: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    return max(1, int(granted.get("CPU", 1)))


def under_way() -> int:
    """How many tasks may be under way at once: two for each CPU; where waiting ones bring more nodes, so many wait."""
    cpus = max(1, count("CPU"))
    return cpus + WAITING if elastic() else 2 * cpus
