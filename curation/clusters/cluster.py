"""Embeddings to clusters: k-means over fixed shards (lloyd.py), then the assignment of every frame.

Nothing grows with the frames in the calling process but the list of parts.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation.clusters import kmeans, lloyd, seeding, shards
from curation.clusters.config import ClusterConfig
from curation.clusters.lloyd import Training
from curation.console import StepSummary, warn
from curation.embeddings.storage import load_vectors, vectors_table
from curation.embeddings.vectors import Float32, keys_of, limit_threads, paired, to_unit
from curation.engine import resources
from curation.engine.accelerators import gpus
from curation.engine.connect import connect
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task
from curation.options import require
from curation.store import schema
from curation.store.directory import File, RunDirectory, holding
from curation.store.markers import Step, marker_of
from curation.store.parts import assignments_path, rows_of


@holding
def cluster(config: ClusterConfig) -> dict[str, Any]:
    """Cluster the embeddings into clusters/ and return the step's marker; do only what is missing.

    ValueError: embeddings/ unfinished or empty, more clusters than frames to train on.
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
    trained = frames if config.train_share == 1 else int(config.train_share * frames)
    found = f"{frames} embedded frames" if trained == frames else f"about {trained} of {frames} embedded frames to "
    found += "" if trained == frames else f"train on (train_share {config.train_share})"
    require(clusters <= trained, f"clusters is {clusters}, but there are only {found}; ask for fewer")
    step.begin()
    connect()
    watch = Account()
    parts = [file for file in before["files"] if file["path"].startswith("embeddings/")]
    training, spread, plan = load_training(run, parts, config)
    mean = training.reader.mean
    centroids = lloyd.lloyd(run, training, clusters, config)
    files, distance, trained_distance = write_assignments(run, parts, training.reader, centroids)
    history = lloyd.history_of(run, 2 * trained_distance)
    files.append(run.write_table("clusters/history.parquet", pa.Table.from_pylist(history, schema.HISTORY)))
    if mean is not None:
        files.append(run.write_table("clusters/mean.parquet", vectors_table([-1], mean[None])))
    note = f"k = {clusters}, {len(history)} iterations, inertia {2 * distance:.6g}"
    note += f", trained on {config.train_share:.3g} of the frames" if config.train_share < 1 else ""
    note += f", {plan}"
    for caution in kmeans.centering_warnings(spread, 1 - distance / frames, clusters):
        warn(caution)
        note += f"; warning: {caution}"
    note += watch.verdict()
    summary = StepSummary(
        rows_in=frames, rows_out=frames, seconds=watch.seconds, device=resources.device_names(), note=note
    )
    return step.finish(summary, files)


def load_training(
    run: RunDirectory, parts: list[dict[str, Any]], config: ClusterConfig
) -> tuple[Training, float | None, shards.Plan]:
    """Return what k-means is trained on, with centring the spread, and whether the vectors stay in memory."""
    cut = shards.shards_of(parts, config.shard_rows)
    frames, mean, spread = sum(map(rows_of, parts)), None, None
    if config.center:
        sums, squares = zip(*stream(Task(shard_sum, "loading vectors"), [(run, paths) for paths in cut]), strict=True)
        exact = np.add.reduce(sums) / frames
        mean = exact.astype(np.float32)
        spread = max(0.0, math.fsum(squares) / frames - float(exact @ exact))
    coded = not gpus()
    reader = shards.Reader(run, mean, config.train_share, config.seed, coded)
    vector = run.read_schema(parts[0]["path"]).field("embedding").type
    store = resources.resources().get("object_store_memory", 0.0)
    plan = shards.plan(config.train_share * frames, vector, coded, store)
    groups = shards.groups_of(cut, lloyd.groups_at_once())
    trained = round(config.train_share * frames)
    return Training(reader, lloyd.load(reader, groups, plan.resident), trained), spread, plan


def shard_sum(run: RunDirectory, paths: list[str]) -> tuple[npt.NDArray[np.float64], float]:
    """Return the sum of the vectors of several parts, float64 [D], and that of their squared lengths."""
    limit_threads(resources.granted_cpus())
    x_ND = np.concatenate([load_vectors(run, path, None)[1] for path in paths])
    return kmeans.exact_sum(x_ND), float(paired(x_ND, x_ND).sum(dtype=np.float64))


def write_assignments(
    run: RunDirectory, parts: list[dict[str, Any]], reader: shards.Reader, centroids: Float32
) -> tuple[list[File], float, float]:
    """Write the assignments of each part that has none yet, and the centroids.

    Returns all files, and the sums of the centroid distances of all frames and of those trained on.
    """
    existing = set(run.parts("clusters/assignments").values())
    reference = ray.put(centroids)
    calls = ((run, part["path"], reader, reference, assignments_path(part["path"]) in existing) for part in parts)
    files, distances, trained = map(list, zip(*stream(Task(assign_part, "assigning to centroids"), calls), strict=True))
    files.append(run.write_table("clusters/centroids.parquet", vectors_table(range(len(centroids)), centroids)))
    return files, math.fsum(distances), math.fsum(trained)


def assign_part(
    run: RunDirectory, path: str, reader: shards.Reader, centroids: Float32, exists: bool
) -> tuple[File, float, float]:
    """Write cluster and centroid distance of each frame of a part, unless they exist.

    Returns the file, and the sums of the distances of all its frames and of those trained on.
    """
    if exists:
        written = run.read_table(assignments_path(path), ["frame_id", "centroid_distance"])
        ids, distance = written["frame_id"].to_pylist(), written["centroid_distance"].to_numpy()
        file = run.describe(assignments_path(path))
    else:
        limit_threads(resources.granted_cpus())
        ids, vectors = load_vectors(run, path, reader.mean)
        assignment, similarity = kmeans.assign(to_unit(vectors), centroids)
        distance = np.maximum(1 - similarity, 0).astype(np.float32)
        columns = [pa.array(ids, pa.string()), pa.array(assignment), pa.array(distance)]
        table = pa.Table.from_arrays(columns, schema=schema.ASSIGNMENTS)
        file = run.write_table(assignments_path(path), table)
    whole = math.fsum(distance.tolist())
    if reader.share == 1:
        return file, whole, whole
    return file, whole, math.fsum(distance[seeding.trained_on(keys_of(ids), reader.share, reader.seed)].tolist())
