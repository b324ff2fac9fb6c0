"""What the benchmarks share: the machine, times of a call, peak memory of a process, a table and its JSON."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUTPUT = Path("runs/bench")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, package versions and commit."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":?")
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu.split(":")[1].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory.split()[1]) / 2**20),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "numpy", "pillow", "timm", "faiss-gpu")},
        "commit": commit.stdout.strip(),
    }


def real_data() -> Path:
    """The folder of real frames and weights. Without one there is nothing to measure, which is told."""
    if "ENDOSIEVE_DATA" not in os.environ:
        print(f"{Path(sys.argv[0]).name} needs real frames: set ENDOSIEVE_DATA; nothing is measured")
        sys.exit(0)
    return Path(os.environ["ENDOSIEVE_DATA"]).resolve()


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of `work` after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def paired(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    """Median seconds of two calls made in turn, so that a drifting machine meets both alike."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, spent in zip((first, second), times, strict=True):
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def report(name: str, rows: list[dict[str, Any]], notes: str) -> None:
    """Print rows as a table with the machine and the command, and write them to runs/bench/NAME.json."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    texts = [
        [f"{row.get(key, ''):.4g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in columns]
        for row in rows
    ]
    widths = [max(len(column), *(len(text[place]) for text in texts)) for place, column in enumerate(columns)]
    print(f"\n{name}: {notes}")
    for line in [columns, *texts]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    about = machine()
    print("machine: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"command: python {' '.join(sys.argv)}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "notes": notes, "command": sys.argv, "machine": about, "rows": rows}
    (OUTPUT / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
