"""Lloyd's iterations as Ray tasks over groups of shards, whose sums are added up as a tree, by ranges of clusters.

A group's sums are added up in its task, so what travels in an iteration is a K x D for each task under way, however
many frames there are. Vectors stay in Ray's object store where they fit into half of it; else each task reads them
anew, a shard at a time. The centroids of every iteration are kept, so that a killed run resumes from the last.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from curation.clusters import kmeans, seeding
from curation.clusters.config import ClusterConfig
from curation.clusters.kmeans import Shard, Sums, Tracked
from curation.clusters.shards import Reader
from curation.console import progress
from curation.embeddings.nearest import vectors_of
from curation.embeddings.storage import read_vectors, vectors_table
from curation.embeddings.vectors import Float32, Keys, Vectors, limit_threads
from curation.engine import resources
from curation.engine.accelerators import gpus
from curation.engine.tasks import Task, arithmetic_task
from curation.store.directory import RunDirectory
from curation.store.parts import part_path

FAN_IN = 8
HISTORY_KEY = b"endosieve.iteration"  # key in a centroid table's Arrow metadata: its row of schema.HISTORY


@dataclass(frozen=True)
class Group:
    """Shards that one task goes through: their parts, and references to them where they are in memory."""

    shards: list[list[str]]
    resident: list[Any]


@dataclass(frozen=True)
class Training:
    """What k-means is trained on: about so many vectors, in groups of shards."""

    reader: Reader
    groups: list[Group]
    frames: int


def groups_at_once() -> int:
    """Return into how many groups the shards are cut: two for each device that computes."""
    return 2 * gpus() or resources.under_way()


def load(reader: Reader, groups: list[list[list[str]]], resident: bool) -> list[Group]:
    """Return the groups; where they stay in memory, a task for each begins to load its shards, onto one node."""
    if not resident:  # whole files are compared with their checksums when they are assigned, not in each iteration
        return [Group([[str(path) for path in shard] for shard in shards], []) for shards in groups]
    one = Task(load_shard, "loading vectors")
    several: Any = ray.remote(num_cpus=1, max_retries=resources.RETRIES)(load_shards)  # Task gathers what is yielded
    return [
        Group(shards, several.options(num_returns=len(shards)).remote(reader, shards))
        if len(shards) > 1
        else Group(shards, [one.remote(reader, shards[0])])
        for shards in groups
    ]


def load_shard(reader: Reader, paths: list[str]) -> Shard:
    """Load one shard."""
    limit_threads(resources.granted_cpus())
    return reader.load(paths)


def load_shards(reader: Reader, shards: list[list[str]]) -> Iterator[Shard]:
    """Load shards one after another: only one is in the task's memory."""
    for paths in shards:
        yield load_shard(reader, paths)


def lloyd(run: RunDirectory, training: Training, clusters: int, config: ClusterConfig) -> Float32:
    """Iterate from the last kept centroids, or from new seeds, until they hardly move; return centroids [K, D]."""
    kept = iterations(run)
    if kept:
        number, path = kept[-1]
        centroids, last = read_vectors(run, path), json.loads(run.read_schema(path).metadata[HISTORY_KEY])
    else:
        number, centroids = 0, seed_from(training, clusters, config.seed)
        last = {"iteration": 0, "inertia": 0.0, "empty": 0, "shift": 0.0, "converged": False}
        keep_iteration(run, centroids, last)
    tracked: list[Any] = [None] * len(training.groups)
    references = []  # kept, since what a lost node held of the groups is made again from them
    with progress("cluster", config.iterations, "iteration", done=number) as bar:
        while number < config.iterations and not last["converged"]:
            number += 1
            references.append(ray.put(centroids))
            total, tracked = iterate(training, references[-1], kmeans.cluster_ranges(*centroids.shape), tracked)
            inertia = total.inertia(centroids)
            centroids, empty, shift = kmeans.update(total, centroids)
            last = {"iteration": number, "inertia": inertia, "empty": empty, "shift": shift}
            last["converged"] = shift <= config.tolerance * kmeans.mean_variance(total)
            keep_iteration(run, centroids, last)
            bar.set_postfix_str(f"inertia {inertia:.6g}", refresh=False)
            bar.update()
    return centroids


def iterate(training: Training, centroids: Any, ranges: list[slice], tracked: list[Any]) -> tuple[Sums, list[Any]]:
    """Return the sums of all vectors, with what is offered for empty clusters, and references to what groups keep."""
    task = arithmetic_task(group_sums, "assigning to centroids", num_returns=len(ranges) + 1)
    reader, groups = training.reader, training.groups
    made = [
        task.remote(reader, group.shards, centroids, ranges, kept, *group.resident)
        for group, kept in zip(groups, tracked, strict=True)
    ]
    *parts, now = (list(column) for column in zip(*made, strict=True))
    total = kmeans.joined(ray.get([reduce_tree(part) for part in parts]))
    if (total.counts_K == 0).any():
        offer = Task(group_farthest, "looking for the farthest")
        offers = [
            offer.remote(reader, group.shards, kept, *group.resident) for group, kept in zip(groups, now, strict=True)
        ]
        far = ray.get(reduce_tree(offers))
        total = replace(far, sums_KD=total.sums_KD, counts_K=total.counts_K)
    return total, now


def group_sums(
    reader: Reader,
    shards: list[list[str]],
    centroids: Float32,
    ranges: list[slice],
    kept: Tracked | None,
    *resident: Shard,
) -> list[Any]:
    """Assign and add up a group of shards on the device this task was granted.

    Returns the sums by ranges of clusters, then what the group keeps for the next iteration.
    """
    limit_threads(resources.granted_cpus())
    total, tracked = kmeans.group_sums(read(reader, shards, resident), centroids, kept, resources.device())
    return [*kmeans.cut(total, ranges), tracked]


def group_farthest(reader: Reader, shards: list[list[str]], kept: Tracked, *resident: Shard) -> Sums:
    """Return what a group offers for empty clusters."""
    limit_threads(resources.granted_cpus())
    return kmeans.group_farthest(read(reader, shards, resident), kept)


def read(reader: Reader, shards: list[list[str]], resident: tuple[Shard, ...]) -> Iterator[Shard]:
    """Go through the shards of a group, from memory or from their files."""
    yield from resident or map(reader.load, shards)


def reduce_tree(parts: list[Any]) -> Any:
    """Reduce references to sums, eight at a time and in their order, to one."""
    merge = Task(kmeans.merge, "adding up")
    while len(parts) > 1:
        parts = [merge.remote(*parts[start : start + FAN_IN]) for start in range(0, len(parts), FAN_IN)]
    return parts[0]


def seed_from(training: Training, clusters: int, seed: int) -> Float32:
    """Return k-means++ centroids from a sample of all shards, drawn and ordered by the frames' keys."""
    share = seeding.sample_share(training.frames, clusters)
    draw, reader = Task(sample_group, "seeding"), training.reader
    samples = [draw.remote(reader, group.shards, (share, seed), *group.resident) for group in training.groups]
    centroids: Float32 = ray.get(Task(seed_from_samples, "seeding").remote(clusters, seed, *samples))
    return centroids


def sample_group(
    reader: Reader, shards: list[list[str]], drawn: tuple[float, int], *resident: Shard
) -> tuple[Keys, Vectors]:
    """Return the keys and vectors of a group that are in the sample: of a share, with a seed."""
    limit_threads(resources.granted_cpus())
    keys, vectors = [], []
    for keys_N, rows in read(reader, shards, resident):
        chosen = seeding.sample(keys_N, *drawn)
        keys.append(keys_N[chosen])
        vectors.append(vectors_of(rows)[chosen])
    return np.concatenate(keys), np.concatenate(vectors)


def seed_from_samples(clusters: int, seed: int, *samples: tuple[Keys, Vectors]) -> Float32:
    """Return k-means++ centroids from the samples of all shards."""
    limit_threads(resources.granted_cpus())
    keys, vectors = (np.concatenate(column) for column in zip(*samples, strict=True))
    return seeding.seed_centroids(keys, vectors, clusters, seed)


def iterations(run: RunDirectory) -> list[tuple[int, str]]:
    """Return number and path of the centroids of each kept iteration; 0 are the seeds."""
    return list(run.parts("clusters/iterations").items())


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
