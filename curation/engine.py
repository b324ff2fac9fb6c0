"""How a step meets Ray: connecting, what there is to run on, and a bounded stream of tasks."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import ray


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start a local Ray; nothing where one is running already."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task warns about the future
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it announces that it is on
    address = os.environ.get("RAY_ADDRESS", "local")
    local: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False} if address == "local" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        ray.init(address=address, logging_level=logging.WARNING, **local)


def count(resource: str) -> int:
    """How many of `resource` (CPU, GPU) the cluster has, whole ones."""
    return int(resources().get(resource, 0))


def resources() -> dict[str, float]:
    """What the cluster has in all, by Ray's names."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def arithmetic_options() -> dict[str, Any]:
    """Ray options of a task that multiplies matrices: a GPU where the cluster has any, else one CPU.

    Workers of GPU tasks are kept (max_calls 0), or each task would start Python and CUDA anew.
    """
    return {"num_cpus": 1, "num_gpus": 1, "max_calls": 0} if count("GPU") else {"num_cpus": 1}


def device() -> str:
    """The device granted to the task or actor that asks."""
    return "cuda" if ray.get_gpu_ids() else "cpu"


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
