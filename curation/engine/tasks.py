"""Ray tasks of a step, and where its time goes: each one says how long it took and how much of that it computed."""

import contextlib
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import ray

from curation.console import Stopwatch
from curation.engine import resources
from curation.engine.accelerators import gpus

PENDING = 1000  # records of tasks that are collected together
BUSY = 0.6  # share of the CPUs' time from which tasks are the limit, and not who hands them out (OURS)
COMPUTING = 0.6  # share of a task's time from which the CPU limits it, and not what it reads and writes (OURS)


@dataclass(frozen=True)
class Usage:
    """What a task took, in seconds: by the clock, and of its process's CPUs."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


@dataclass
class Account(Stopwatch):
    """What a step's tasks took, by what they do, and its driver. The last one that was made is that of its thread."""

    spent: dict["Work", Usage] = field(default_factory=dict)
    pending: list[tuple["Work", Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.cpu_start = time.process_time()
        current.set(self)

    def expect(self, work: "Work", record: Any) -> None:
        """Note the reference to a task's Usage, which is there when the task is done."""
        self.pending.append((work, record))
        if len(self.pending) >= PENDING:
            self.collect()

    def collect(self) -> None:
        """Add the records that are there, and forget those of tasks that failed."""
        ready = set(ray.wait([record for _, record in self.pending], num_returns=len(self.pending), timeout=0)[0])
        pending, self.pending = self.pending, []
        for work, record in pending:
            if record not in ready:
                self.pending.append((work, record))
                continue
            with contextlib.suppress(ray.exceptions.RayError):
                self.spent[work] = self.spent.get(work, Usage()) + ray.get(record)

    def verdict(self) -> str:
        """What limited the step until now, as a clause of its note; empty where no task of it ran."""
        if self.pending:
            self.collect()
        there = {"CPU": max(1, resources.count("CPU")), "GPU": resources.count("GPU")}
        return limit_of(self.spent, self.seconds, time.process_time() - self.cpu_start, there) if self.spent else ""


def limit_of(spent: dict["Work", Usage], wall_s: float, driver_s: float, there: dict[str, int]) -> str:
    """What limited a step of `wall_s` seconds: the driver, which computed for `driver_s`, or what tasks did most."""
    taken: dict[str, float] = {}
    for work, usage in spent.items():
        taken[work.device] = taken.get(work.device, 0.0) + usage.wall_s / (wall_s * max(1, there[work.device]))
    device, busy = max(taken.items(), key=lambda one: one[1])
    found = f"tasks took {min(1.0, busy):.0%} of the time of {there[device]} {device}s"
    if busy < BUSY:
        share = driver_s / wall_s
        why = f"computed for {share:.0%} of the time" if share >= COMPUTING else "had too few tasks, or too short ones"
        return f"; limited by the driver, which {why}: {found}"
    work, most = max(((work, usage) for work, usage in spent.items() if work.device == device), key=longest)
    computing = min(1.0, most.cpu_s / most.wall_s) if device == "CPU" else 1.0
    limit = work.what if computing >= COMPUTING else f"storage ({work.what})"
    return f"; limited by {limit}: {found}" + (f", {computing:.0%} of it computing" if device == "CPU" else "")


def longest(entry: tuple["Work", Usage]) -> float:
    """By what kinds of work are compared."""
    return entry[1].wall_s


current: ContextVar[Account | None] = ContextVar("current", default=None)


@dataclass(frozen=True)
class Work:
    """What a task does, as messages say it, and what it holds meanwhile: a CPU or a GPU."""

    what: str
    device: str


class Task:
    """A Ray task that counts for the account of the step that submits it.

    `what` says what it does, in messages. `memory`: bytes that it needs at most, about; 0 where it is little.
    """

    def __init__(self, function: Callable[..., Any], what: str, *, memory: float = 0.0, **options: Any) -> None:
        self.work = Work(what, "GPU" if options.get("num_gpus") else "CPU")
        self.returns = int(options.pop("num_returns", 1))
        options = {"num_cpus": 1, "max_retries": resources.RETRIES} | options
        options |= {"memory": resources.memory(memory)} if memory else {}
        timed = recorded(function, self.returns)
        decorate: Any = ray.remote(**options, num_returns=self.returns + 1)  # max_calls cannot be in options()
        self.task = decorate(timed).options(name=function.__name__)

    def remote(self, *arguments: Any) -> Any:
        """Submit it; the reference to its result, or a list of them where it has several."""
        *results, record = self.task.remote(*arguments)
        if account := current.get():
            account.expect(self.work, record)
        return results[0] if self.returns == 1 else results


def recorded(function: Callable[..., Any], returns: int) -> Callable[..., Any]:
    """`function` with `returns` results, and its Usage as a further one."""

    @wraps(function)
    def call(*arguments: Any) -> tuple[Any, ...]:
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        usage = Usage(time.perf_counter() - wall, time.process_time() - cpu)
        return *([result] if returns == 1 else result), usage

    return call


def arithmetic_task(function: Callable[..., Any], what: str, *, memory: float = 0.0, **options: Any) -> Task:
    """A Ray task that multiplies matrices: it takes a GPU where work is given to any, else one CPU.

    Workers of GPU tasks are kept (max_calls 0), or each task would start Python and CUDA again. The strategy is named
    because a task of a Ray Tune trial would otherwise wait for a place in the trial's own placement group.
    """
    device: dict[str, Any] = {"num_gpus": 1, "max_calls": 0} if gpus() else {}
    return Task(function, what, memory=memory, **{"scheduling_strategy": "DEFAULT"} | device | options)
