"""What Prometheus sees of a run: counters that Ray exports on every node (deploy/grafana-dashboard.json shows them).

Ray adds the prefix `ray_` to a name, and the ending `_total`. Every counter is by run (its address) and step.
"""

import functools
import time

from ray.util.metrics import Counter

ABOUT = {
    "frames": "Frames that a step wrote, without rejected ones",
    "rejected": "Frames that a step rejected",
    "parts": "Parts of tables that a step wrote",
    "busy_seconds": "Seconds in which an encoder computed",
    "waiting_seconds": "Seconds in which an encoder waited for frames",
}


@functools.cache
def counter(name: str) -> Counter:
    """The counter of one of ABOUT, made once in a process that has joined Ray."""
    return Counter(f"endosieve_{name}", ABOUT[name], ("run", "step", "device"))


def count(name: str, value: float, run: str, step: str, device: str = "") -> None:
    """Add `value` to a counter; Ray refuses to count nothing."""
    if value > 0:
        counter(name).inc(value, {"run": run, "step": step, "device": device})


def count_part(run: str, step: str, frames: int, rejected: int = 0) -> None:
    """Count a part that was written, and what is in it."""
    count("parts", 1, run, step)
    count("frames", frames, run, step)
    count("rejected", rejected, run, step)


class Occupation:
    """How long a worker computes and how long it waits, from the ends of its calls."""

    def __init__(self, run: str, step: str, device: str) -> None:
        self.tags = run, step, device
        self.busy_s = self.waited_s = 0.0  # of the last call; what the first one waited for is not counted
        self.free: float | None = None

    def __enter__(self) -> None:
        self.begun = time.perf_counter()
        self.waited_s = 0.0 if self.free is None else self.begun - self.free
        count("waiting_seconds", self.waited_s, *self.tags)

    def __exit__(self, *_: object) -> None:
        self.free = time.perf_counter()
        self.busy_s = self.free - self.begun
        count("busy_seconds", self.busy_s, *self.tags)
