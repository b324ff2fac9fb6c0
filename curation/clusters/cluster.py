"""Embeddings to clusters: Lloyd's iterations as Ray tasks over fixed shards, their sums reduced as a tree.

The centroids of every iteration are kept, so that a killed run resumes from the last. Shards live in Ray's object
store, which spills to disk what does not fit.
"""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation.clusters import kmeans, seeding
from curation.clusters.config import ClusterConfig
from curation.console import StepSummary, progress, warn
from curation.embeddings.nearest import Prepared, prepare, vectors_of
from curation.embeddings.storage import load_vectors, read_vectors, vectors_table
from curation.embeddings.vectors import (
    Float32,
    Keys,
    Vectors,
    keys_of,
    limit_threads,
    paired,
    to_unit,
)
from curation.engine import resources
from curation.engine.connect import connect
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task, arithmetic_task
from curation.options import require
from curation.store import schema
from curation.store.directory import File, RunDirectory, holding
from curation.store.markers import Step, marker_of
from curation.store.parts import assignments_path, grouped, part_path, rows_of

FAN_IN = 8
Shard = tuple[Keys, Prepared]
HISTORY_KEY = b"endosieve.iteration"  # key in a centroid table's Arrow metadata: its row of schema.HISTORY


@holding
def cluster(config: ClusterConfig) -> dict[str, Any]:
    """Cluster the embeddings into clusters/ and return the step's marker; do only what is missing.

    ValueError: embeddings/ unfinished or empty, more clusters than frames.
    """
    run = RunDirectory(config.run_dir)
    before = marker_of(run, "embeddings", "embed")
    step = Step(run, "cluster", "clusters", config, {"embeddings": before["output_hash"]})
    if marker := step.find():
        return marker | {"reused": True}
    frames = before["rows_out"]
    require(frames > 0, f"{run.uri}/embeddings has no rows; there is nothing to cluster")
    auto = config.clusters == "auto"
    clusters = seeding.automatic_clusters(frames, config.center) if auto else int(config.clusters)
    require(
        clusters <= frames,
        f"clusters is {clusters}, but there are only {frames} embedded frames; ask for fewer",
    )
    step.begin()
    connect()
    watch = Account()
    parts = [file for file in before["files"] if file["path"].startswith("embeddings/")]
    shards, mean, spread = load_shards(run, parts, config)
    centroids = lloyd(run, shards, frames, clusters, config)
    files, inertia = write_assignments(run, parts, mean, centroids)
    history = history_of(run, inertia)
    files.append(run.write_table("clusters/history.parquet", pa.Table.from_pylist(history, schema.HISTORY)))
    if mean is not None:
        files.append(run.write_table("clusters/mean.parquet", vectors_table([-1], mean[None])))
    note = f"k = {clusters}, {len(history)} iterations, inertia {inertia:.6g}"
    for caution in kmeans.centering_warnings(spread, 1 - inertia / (2 * frames), clusters):
        warn(caution)
        note += f"; warning: {caution}"
    note += watch.verdict()
    summary = StepSummary(
        rows_in=frames, rows_out=frames, seconds=watch.seconds, device=resources.device_names(), note=note
    )
    return step.finish(summary, files)


def load_shards(
    run: RunDirectory, parts: list[dict[str, Any]], config: ClusterConfig
) -> tuple[list[Any], Float32 | None, float | None]:
    """Return references to the shards (keys, prepared vectors), and with centring the mean and the spread."""
    groups = [[part["path"] for part in group] for group in grouped(parts, config.shard_rows, by=rows_of)]
    load, mean, spread = Task(load_shard, "loading vectors"), None, None
    if config.center:
        task = Task(shard_sum, "loading vectors")
        sums, squares = zip(*ray.get([task.remote(run, group) for group in groups]), strict=True)
        frames = sum(map(rows_of, parts))
        exact = np.add.reduce(sums) / frames
        mean = exact.astype(np.float32)
        spread = max(0.0, float(sum(squares) / frames - exact @ exact))
    return [load.remote(run, group, mean) for group in groups], mean, spread


def load_shard(run: RunDirectory, paths: list[str], mean: Float32 | None) -> Shard:
    """Return the keys [N] and prepared vectors [N, D] of several parts together."""
    limit_threads(resources.granted_cpus())
    loaded = [load_vectors(run, path, mean) for path in paths]
    keys = [keys_of(ids) for ids, _ in loaded]
    return np.concatenate(keys), prepare(np.concatenate([vectors for _, vectors in loaded]))


def shard_sum(run: RunDirectory, paths: list[str]) -> tuple[npt.NDArray[np.float64], float]:
    """Return the sum of the vectors of several parts, float64 [D], and that of their squared lengths."""
    limit_threads(resources.granted_cpus())
    x_ND = np.concatenate([load_vectors(run, path, None)[1] for path in paths])
    return kmeans.exact_sum(x_ND), float(paired(x_ND, x_ND).sum(dtype=np.float64))


def lloyd(run: RunDirectory, shards: list[Any], frames: int, clusters: int, config: ClusterConfig) -> Float32:
    """Iterate from the last kept centroids, or from new seeds, until they hardly move; return centroids [K, D]."""
    kept = iterations(run)
    if kept:
        number, path = kept[-1]
        centroids, last = read_vectors(run, path), json.loads(run.read_schema(path).metadata[HISTORY_KEY])
    else:
        number, centroids = 0, seed_from(shards, frames, clusters, config.seed)
        last = {"iteration": 0, "inertia": 0.0, "empty": 0, "shift": 0.0, "converged": False}
        keep_iteration(run, centroids, last)
    partial = arithmetic_task(shard_sums, "assigning to centroids")
    with progress("cluster", config.iterations, "iteration", done=number) as bar:
        while number < config.iterations and not last["converged"]:
            number += 1
            reference = ray.put(centroids)
            total = ray.get(reduce_tree([partial.remote(shard, reference) for shard in shards]))
            inertia = total.inertia(centroids)
            centroids, empty, shift = kmeans.update(total, centroids)
            last = {"iteration": number, "inertia": inertia, "empty": empty, "shift": shift}
            last["converged"] = shift <= config.tolerance * kmeans.mean_variance(total)
            keep_iteration(run, centroids, last)
            bar.set_postfix_str(f"inertia {inertia:.6g}", refresh=False)
            bar.update()
    return centroids


def shard_sums(shard: Shard, centroids: Float32) -> kmeans.Sums:
    """Assign and add up one shard on the device this task was granted."""
    limit_threads(resources.granted_cpus())
    return kmeans.partial_sums(*shard, centroids, resources.device())


def reduce_tree(parts: list[Any]) -> Any:
    """Reduce references to sums, eight at a time and in their order, to one."""
    merge = Task(kmeans.merge, "adding up")
    while len(parts) > 1:
        parts = [merge.remote(*parts[start : start + FAN_IN]) for start in range(0, len(parts), FAN_IN)]
    return parts[0]


def seed_from(shards: list[Any], frames: int, clusters: int, seed: int) -> Float32:
    """Return k-means++ centroids from a sample of all shards, drawn and ordered by the frames' keys."""
    share = seeding.sample_share(frames, clusters)
    samples = [Task(sample_shard, "seeding").remote(shard, share, seed) for shard in shards]
    centroids: Float32 = ray.get(Task(seed_from_samples, "seeding").remote(clusters, seed, *samples))
    return centroids


def sample_shard(shard: Shard, share: float, seed: int) -> tuple[Keys, Vectors]:
    """Return the keys and vectors of a shard that are in the sample."""
    keys, vectors = shard
    chosen = seeding.sample(keys, share, seed)
    return keys[chosen], vectors_of(vectors)[chosen]


def seed_from_samples(clusters: int, seed: int, *samples: tuple[Keys, Vectors]) -> Float32:
    """Return k-means++ centroids from the samples of all shards."""
    limit_threads(resources.granted_cpus())
    keys, vectors = (np.concatenate(column) for column in zip(*samples, strict=True))
    return seeding.seed_centroids(keys, vectors, clusters, seed)


def iterations(run: RunDirectory) -> list[tuple[int, str]]:
    """Return number and path of the centroids of each kept iteration; 0 are the seeds."""
    return [(number, path) for number, path in run.parts("clusters/iterations").items()]


def history_of(run: RunDirectory, inertia: float) -> list[dict[str, Any]]:
    """Return the rows of schema.HISTORY; `inertia` is of the final centroids.

    What was measured during an iteration is of the centroids before it, and so belongs to the row above.
    """
    rows = [json.loads(run.read_schema(path).metadata[HISTORY_KEY]) for _, path in iterations(run)][1:]
    later = [row["inertia"] for row in rows[1:]] + [inertia]
    return [row | {"inertia": value} for row, value in zip(rows, later, strict=True)]


def keep_iteration(run: RunDirectory, centroids: Float32, row: dict[str, Any]) -> None:
    """Write the centroids after an iteration, with its row of the history as metadata."""
    table = vectors_table(range(len(centroids)), centroids).replace_schema_metadata({HISTORY_KEY: json.dumps(row)})
    run.write_table(part_path("clusters/iterations", row["iteration"]), table)


def write_assignments(
    run: RunDirectory,
    parts: list[dict[str, Any]],
    mean: Float32 | None,
    centroids: Float32,
) -> tuple[list[File], float]:
    """Write the assignments of each part that has none yet, and the centroids; return all files, and the inertia."""
    existing = set(run.parts("clusters/assignments").values())
    reference = ray.put(centroids)
    calls = [(run, part["path"], mean, reference, assignments_path(part["path"]) in existing) for part in parts]
    files, distances = map(list, zip(*stream(Task(assign_part, "assigning to centroids"), calls), strict=True))
    files.append(run.write_table("clusters/centroids.parquet", vectors_table(range(len(centroids)), centroids)))
    return files, 2 * math.fsum(distances)


def assign_part(
    run: RunDirectory,
    path: str,
    mean: Float32 | None,
    centroids: Float32,
    exists: bool,
) -> tuple[File, float]:
    """Write cluster and centroid distance of each frame of a part, unless they exist; return the file and their sum."""
    if exists:
        written = run.read_table(assignments_path(path), ["centroid_distance"])["centroid_distance"].to_numpy()
        return run.describe(assignments_path(path)), math.fsum(written.tolist())
    limit_threads(resources.granted_cpus())
    ids, vectors = load_vectors(run, path, mean)
    units = to_unit(vectors)
    assignment, similarity = kmeans.assign(units, centroids)
    distance = np.maximum(1 - similarity, 0).astype(np.float32)
    columns = [pa.array(ids, pa.string()), pa.array(assignment), pa.array(distance)]
    table = pa.Table.from_arrays(columns, schema=schema.ASSIGNMENTS)
    return run.write_table(assignments_path(path), table), math.fsum(distance.tolist())
