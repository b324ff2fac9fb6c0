"""k-means as Ray tasks against faiss.Kmeans on all points: same k, start and iterations; time and inertia.

Ours includes coding the shards, the tasks, their reduction and writing every iteration's centroids; Ray's start is
left out, and so is reading the vectors, on both sides. Clusters are well apart (noise 1.5) or overlap (noise 4: the
mean cosine with the center is 0.24). Ours ends early where nothing moves any more; how many iterations it took is told.
Floor: the products of all vectors and centroids at the rate that NumPy's matrix product reaches here; ours leaves out
those that cannot matter.
"""

import argparse
import itertools
import logging
import os
import tempfile
import time

import faiss
import numpy as np
import ray
from harness import report, seconds

from curation.clusters import kmeans, lloyd, seeding
from curation.clusters.config import ClusterConfig
from curation.clusters.lloyd import Group, Training
from curation.clusters.shards import Reader
from curation.embeddings.nearest import Prepared, prepare
from curation.embeddings.vectors import limit_threads, to_unit
from curation.store.directory import RunDirectory


def points(rows: int, dimensions: int, clusters: int, noise: float = 1.5) -> np.ndarray:
    """Unit vectors in float16 around as many directions as there are clusters, overlapping."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((clusters, dimensions), dtype=np.float32)
    x = centers[generator.integers(clusters, size=rows)]
    x += np.float32(noise) * generator.standard_normal((rows, dimensions), dtype=np.float32)
    return to_unit(x).astype(np.float16)


def code_shard(shard: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, Prepared]:
    """What loading does with a shard's vectors."""
    limit_threads(1)
    return shard[0], prepare(shard[1])


def inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest of unit centroids."""
    return float(2 * len(x) - 2 * kmeans.assign(x, to_unit(centroids))[1].sum(dtype=np.float64))


def main() -> None:
    """Run both in turn and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--clusters", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.5, 4.0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR)
    a = np.random.default_rng(0).standard_normal((2048, given.dimensions), dtype=np.float32)
    rate = 2 * 2048**2 * given.dimensions / seconds(lambda: a @ a.T)
    rows = []
    for clusters, noise in itertools.product(given.clusters, given.noise):
        x = points(given.rows, given.dimensions, clusters, noise)
        keys = np.arange(len(x), dtype=np.uint64)
        start_centroids = seeding.seed_centroids(keys[:16_384], x[:16_384], clusters, 0)
        read = [
            ray.put(shard) for shard in zip(np.array_split(keys, 2 * cores), np.array_split(x, 2 * cores), strict=True)
        ]
        x32 = x.astype(np.float32)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(given.repeats + 1):
            peer = faiss.Kmeans(
                given.dimensions,
                clusters,
                niter=given.iterations,
                spherical=True,
                max_points_per_centroid=given.rows,
                min_points_per_centroid=1,
            )
            start = time.perf_counter()
            peer.train(x32, init_centroids=start_centroids)
            times[0].append(time.perf_counter() - start)
            with tempfile.TemporaryDirectory() as folder:
                run = RunDirectory(folder)
                row = {"iteration": 0, "inertia": 0.0, "empty": 0, "shift": 1.0, "converged": False}
                lloyd.keep_iteration(run, start_centroids, row)
                config = ClusterConfig(run_dir=folder, clusters=clusters, iterations=given.iterations, tolerance=0.0)
                start = time.perf_counter()
                groups = [Group([[]], [ray.remote(code_shard).remote(shard)]) for shard in read]
                training = Training(Reader(run, None, 1.0, 0, True), groups, given.rows)
                ours = lloyd.lloyd(run, training, clusters, config)
                times[1].append(time.perf_counter() - start)
                taken = lloyd.iterations(run)[-1][0]
        faiss_s, ours_s = (float(np.median(spent[1:])) for spent in times)
        rows.append(
            {
                "k": clusters,
                "noise": noise,
                "faiss s": faiss_s,
                "ours s": ours_s,
                "times as fast": faiss_s / ours_s,
                "iterations": taken,
                "floor s": 2 * given.rows * clusters * given.dimensions * given.iterations / rate,
                "inertia ours / faiss": inertia(x, ours) / inertia(x, peer.centroids),
            }
        )
        print(rows[-1], flush=True)
    size = f"{given.rows} x {given.dimensions}, {given.iterations} iterations, {cores} cores"
    report("kmeans", rows, f"{size}; goal: at least 1.5 times as fast, inertia within 0.2 %")


if __name__ == "__main__":
    main()
