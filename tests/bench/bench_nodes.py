"""What several nodes cost: a whole curation on four nodes of one CPU each against one node of four, on the same cores.

    .venv/bin/python tests/bench/bench_nodes.py --frames 2000 --pairs 3

Both clusters stand before anything is timed; their runs alternate. Prints the seconds of each, the median ratio and
the number of files of each table, which must not depend on the nodes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from nodes import Nodes

from curation.phantom.colonoscopy import PhantomConfig, draw

SETTINGS = {
    **{"encoder": "vit_tiny_patch16_224", "weights": "random", "image_size": 112, "precision": "float32"},
    **{"pooling": "mean", "clusters": 10, "d": 0.9},
}
CPUS = 4
LIMIT_S = 900.0


def timed(cluster: Nodes, run_dir: Path, frames: Path) -> float:
    """Seconds of a whole run."""
    given = {**SETTINGS, "run_dir": run_dir, "source": frames}
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    begun = time.monotonic()
    done = cluster.call("curation", "run", *flags, timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return time.monotonic() - begun


def files(run_dir: Path) -> dict[str, int]:
    """The number of Parquet files of each folder of a run."""
    counts: dict[str, int] = {}
    for file in run_dir.rglob("part-*.parquet"):
        folder = str(file.parent.relative_to(run_dir))
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def main() -> int:
    """Time both, and return the exit code: 1 where files differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder, Nodes() as many, Nodes() as one:
        shape = {"procedures": 4, "scenes": asked.frames // 40, "frames_per_scene": 10, "width": 320, "height": 256}
        draw(PhantomConfig(output=f"{folder}/phantom", **shape))
        frames = Path(folder, "phantom", "frames")
        for _ in range(CPUS):
            many.add(cpus=1)
        one.add(cpus=CPUS)
        seconds: dict[str, list[float]] = {"one": [], "many": []}
        for number in range(asked.pairs + 1):  # the first pair warms both up
            for name, cluster in (("one", one), ("many", many)):
                seconds[name].append(timed(cluster, Path(folder, f"{name}-{number}"), frames))
                print(f"{name} {number}: {seconds[name][-1]:.1f} s", flush=True)
        ratios = [many_s / one_s for one_s, many_s in zip(seconds["one"][1:], seconds["many"][1:], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{CPUS} nodes of one CPU take {statistics.median(ratios):.2f} times as long as one of {CPUS} ({spread})")
        counted = [files(Path(folder, f"{name}-0")) for name in ("one", "many")]
        print(f"files: {counted[0]}")
    return int(counted[0] != counted[1])


if __name__ == "__main__":
    sys.exit(main())
