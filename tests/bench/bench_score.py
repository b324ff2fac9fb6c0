"""Scoring one cluster against SemDeDup's published arithmetic: time, peak memory and survivors; and a grid's cost.

The peer computes the whole N x N matrix in float32, takes its upper triangle and the maximum of each column, with a
thread a core. Ours works as the engine's tasks do, a process with one thread on each core, each on clusters of its
own; its seconds are those of a cluster over the cores. Peak memory is that of one process beyond the vectors. Floor:
the products of the lower triangle alone at the rate that NumPy's float32 matrix product reaches here.
"""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from harness import report, seconds

from curation.embeddings.vectors import limit_threads, to_unit
from curation.scores import duplicates
from curation.subsets.grid import grid_sizes

THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95)


def vectors(rows: int, dimensions: int) -> np.ndarray:
    """Unit vectors in float32, a third of them near duplicates of others at many distances."""
    generator = np.random.default_rng(rows + dimensions)
    x = generator.standard_normal((rows, dimensions), dtype=np.float32)
    copies = generator.choice(rows, rows // 3, replace=False)
    noise = generator.uniform(0.05, 1.5, (len(copies), 1)).astype(np.float32)
    originals = generator.choice(rows, len(copies))
    x[copies] = x[originals] + noise * generator.standard_normal((len(copies), dimensions), dtype=np.float32)
    return to_unit(x.astype(np.float16))


def semdedup(x: np.ndarray) -> np.ndarray:
    """The published arithmetic: highest similarity of each vector to any earlier one."""
    points = torch.from_numpy(x)
    pairwise = points @ points.T
    return torch.triu(pairwise, diagonal=1).max(dim=0)[0].numpy()


def measure(way: str, rows: int, dimensions: int) -> dict:
    """Median seconds of five, peak memory in MB beyond what was there, and survivors, in this process."""
    if way == "ours":
        limit_threads(1)
    x = vectors(rows, dimensions)
    work = semdedup if way == "semdedup" else lambda x: duplicates.earlier_similarity(x)[0]
    work(x[:512])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(5):
        start = time.perf_counter()
        similarity = work(x)
        times.append(time.perf_counter() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    kept = [np.flatnonzero(similarity <= np.float32(d)).tolist() for d in THRESHOLDS]
    return {"seconds": sorted(times)[2], "peak": peak, "kept": kept}


def in_processes(way: str, rows: int, dimensions: int, processes: int) -> dict:
    """`measure` in fresh processes at once: seconds of a cluster over all of them, the most memory of any."""
    command = [sys.executable, __file__, way, str(rows), str(dimensions)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = [json.loads(process.communicate()[0]) for process in running]
    slowest, most = (max(one[key] for one in found) for key in ("seconds", "peak"))
    return {"seconds": slowest / processes, "peak": most, "kept": found[0]["kept"]}


def main() -> None:
    """Compare both on each size and report, then the grid."""
    rows = []
    for dimensions in (384, 768):
        a = np.random.default_rng(0).standard_normal((2048, dimensions), dtype=np.float32)
        rate = 2 * 2048**2 * dimensions / seconds(lambda a=a: a @ a.T)
        for size in (2000, 20_000):
            peer = in_processes("semdedup", size, dimensions, 1)
            ours = in_processes("ours", size, dimensions, len(os.sched_getaffinity(0)))
            rows.append(
                {
                    "N x D": f"{size} x {dimensions}",
                    "SemDeDup s": peer["seconds"],
                    "ours s": ours["seconds"],
                    "times as fast": peer["seconds"] / ours["seconds"],
                    "floor s": size**2 * dimensions / rate,
                    "SemDeDup MB": peer["peak"],
                    "ours MB": ours["peak"],
                    "memory": f"1/{peer['peak'] / max(ours['peak'], 1):.0f}",
                    "same survivors": peer["kept"] == ours["kept"],
                }
            )
    report("score", rows, "goal: at least 4 times as fast, a fifth of the memory at 20,000, the same survivors")
    limit_threads(1)
    x = vectors(20_000, 384)
    start = time.perf_counter()
    similarity, _ = duplicates.earlier_similarity(x)
    scoring = time.perf_counter() - start
    distance = 1 - x @ to_unit(x.mean(axis=0, keepdims=True))[0]
    epsilons, ds = np.quantile(distance, np.linspace(0.1, 1, 10)), np.quantile(similarity, np.linspace(0.1, 1, 10))
    grid = seconds(lambda: grid_sizes(distance, similarity, np.sort(epsilons), np.sort(ds)))
    rows = [{"scoring s": scoring, "grid of 100 s": grid, "share": f"{grid / scoring:.3%}"}]
    report("grid", rows, "100 (epsilon, d) sizes from two columns of 20,000 x 384; goal: below 1 % of the pass")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
