"""What a run prints: one progress line per step and a summary at the end. It depends on no step.

With ENDOSIEVE_LOG=json in the environment, progress and warnings are JSON, an object a line, each with the time, the
run and the step, for what collects a cluster's logs.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

current = {"run": ""}  # of this process, as its lines name it


@contextmanager
def working_on(run: str) -> Iterator[None]:
    """Name a run in all lines that are printed until the block ends."""
    before, current["run"] = current["run"], run
    try:
        yield
    finally:
        current["run"] = before


def json_lines() -> bool:
    """Whether progress and warnings are printed as JSON."""
    return os.environ.get("ENDOSIEVE_LOG", "text") == "json"


def emit(event: str, **fields: Any) -> None:
    """Print an object on stderr, with the time and the run."""
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **current}
    print(json.dumps(head | fields), file=sys.stderr, flush=True)


class _JsonBar(tqdm):  # type: ignore[type-arg]
    """A bar that prints an object at each refresh."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print what the bar would show."""
        del msg, pos
        shown = self.format_dict
        rate = shown["rate"] or (shown["n"] - shown["initial"]) / shown["elapsed"] if shown["elapsed"] else None
        left = (shown["total"] - shown["n"]) / rate if rate and shown["total"] else None
        emit(
            "progress",
            step=shown["prefix"].rstrip(": "),
            unit=shown["unit"].strip(),
            done=shown["n"],
            total=shown["total"],
            seconds=round(shown["elapsed"], 1),
            per_second=rate and round(rate, 3),
            left_s=left and round(left),
            note=shown["postfix"] or "",
        )


class _Lines:
    """A text stream for tqdm where there is no terminal: a line for each refresh."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def progress(step: str, total: int | None, unit: str = "frame", done: int = 0) -> Iterator[Any]:
    """A tqdm bar with rate and time left; a line every 10 s where stderr is not a terminal.

    `done` of the `total` were finished by an earlier call and do not count in the rate.
    """
    terminal = sys.stderr.isatty()
    settings: dict[str, Any] = {} if terminal else {"file": _Lines(), "mininterval": 10.0, "ncols": 120, "ascii": True}
    bars: type[Any] = _JsonBar if json_lines() else tqdm
    with bars(total=total, initial=done, desc=f"{step:8}", unit=f" {unit}", smoothing=0.1, **settings) as bar:
        yield bar


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say("warning", text)


def say(event: str, text: str) -> None:
    """Print a `warning` or an `error` on stderr."""
    if json_lines():
        emit(event, message=text)
    else:
        print(f"{event}: {text}", file=sys.stderr)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self.start


@dataclass(frozen=True, kw_only=True)
class StepSummary:
    """What a step did: rows in = rows out + rejected + copies, in so many seconds, on which chips."""

    rows_in: int
    rows_out: int
    rejected: int = 0
    copies: int = 0
    seconds: float
    device: str = ""
    note: str = ""


def summary(markers: list[dict[str, Any]], where: str) -> str:
    """A table of the steps (rows in, out, rejected, skipped, seconds, rate) and where the results are.

    Each marker has `step` and a StepSummary; `reused` where the step had been done before.
    """
    lines = [f"{'step':<9}{'in':>10}{'out':>10}{'rejected':>10}{'copies':>9}{'seconds':>10}{'rows/s':>10}"]
    for marker in markers:
        seconds = marker["seconds"]
        spent = f"{'done':>10}{'before':>10}" if marker.get("reused") else f"{seconds:>10.1f}{rate(marker):>10}"
        counts = f"{marker['rows_in']:>10}{marker['rows_out']:>10}{marker['rejected']:>10}{marker['copies']:>9}"
        lines.append(f"{marker['step']:<9}{counts}{spent}")
    notes = [f"{marker['step']}: {marker['note']}" for marker in markers if marker["note"]]
    return "\n".join([*lines, *notes, f"results: {where}"])


def rate(marker: dict[str, Any]) -> str:
    """A marker's rows per second, as text."""
    return f"{marker['rows_in'] / marker['seconds']:.0f}" if marker["seconds"] > 0 else "-"
