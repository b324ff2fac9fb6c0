"""Clusters to scores: Ray tasks bring each cluster together and compare its frames; large clusters are split.

Every shard of embeddings is cut by groups of clusters, and a task scores one group. Groups are taken in waves that
fit the object store, so that no more of the embeddings is under way at once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from curation.console import StepSummary, progress
from curation.embeddings.storage import read_vectors
from curation.embeddings.vectors import limit_threads
from curation.engine import resources
from curation.engine.connect import connect
from curation.engine.metrics import count_part
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task, arithmetic_task
from curation.scores import groups
from curation.scores.config import ScoreConfig, column_of
from curation.scores.groups import ClusterGroup, FrameBlock, Scores
from curation.scores.measures import check_column
from curation.scores.recall import clause
from curation.scores.search import Shards, measure_recall
from curation.scores.shards import load_shard
from curation.store.directory import File, RunDirectory, holding
from curation.store.markers import Step, marker_of
from curation.store.parts import assignments_path, grouped, part_path, rows_of

STORE_SHARE = 0.3  # of the object store that one wave of groups may fill
MOST_GROUPS = 1024
SHARD_ROWS = 65_536  # frames that one task reads at once


@holding
def score(config: ScoreConfig) -> dict[str, Any]:
    """Score every embedded frame into scores/ (or a folder below it for another pass) and return the marker.

    ValueError: clusters/ unfinished.
    """
    run = RunDirectory(config.run_dir)
    before = marker_of(run, "clusters", "cluster")
    step = Step(run, "score", config.folder, config, {"clusters": before["output_hash"]})
    if marker := step.find():
        return marker | {"reused": True}
    if column := column_of(config.keep):
        check_column(run, column)
    step.begin()
    connect()
    watch = Account()
    assigned: dict[str, str] = {path: path for path in run.listing("clusters")}
    parts = [
        file | {"assigned": assigned[assignments_path(file["path"])]}
        for file in marker_of(run, "embeddings", "embed")["files"]
        if "embeddings/" in file["path"]
    ]
    frames = sum(map(rows_of, parts))
    planned = groups.cluster_groups(
        cluster_sizes(run, parts), max(config.group_rows, -(-frames // MOST_GROUPS)), groups.SPLIT_ROWS
    )
    files = {number: run.describe(path) for number, path in run.parts(config.folder).items()}
    with progress("score", frames, done=sum(file.rows for file in files.values())) as bar:
        missing = [number for number in range(len(planned)) if number not in files]
        for wave in grouped(missing, wave_rows(run, parts), by=lambda number: planned[number].rows):
            for number, file in score_wave(run, config, {n: planned[n] for n in wave}, parts):
                files[number] = file
                count_part(run.uri, "score", file.rows)
                bar.update(file.rows)
    rows = sum(file.rows for file in files.values())
    assert rows == frames, f"{frames} frames were clustered, {rows} scored"
    note = f"{config.keep} kept, rule {config.rule}, {len(planned)} groups of clusters"
    written, more = list(files.values()), {}
    if config.recall_frames:
        table, more["recall"] = measure_recall(run, config, shards_of(parts), list(map(path_of, written)), frames)
        written.append(table)
        shown = ", ".join(map(clause, more["recall"]["at"])) or "no frame takes part"
        note += f"; recall of duplicates, of {more['recall']['frames']} frames, at {shown}"
    note += watch.verdict()
    summary = StepSummary(
        rows_in=frames, rows_out=rows, seconds=watch.seconds, device=resources.device_names(), note=note
    )
    return step.finish(summary, written, more)


def path_of(file: File) -> str:
    """The path of a table."""
    return file.path


def shards_of(parts: list[dict[str, Any]]) -> Shards:
    """The paths of parts of embeddings and of their assignments, by shards."""
    return [[(part["path"], part["assigned"]) for part in shard] for shard in grouped(parts, SHARD_ROWS, by=rows_of)]


def cluster_sizes(run: RunDirectory, parts: list[dict[str, Any]]) -> npt.NDArray[np.int64]:
    """Return the number of frames of each cluster, int64 [K]."""
    clusters = len(read_vectors(run, run.listed("clusters/centroids.parquet")))
    calls = ((run, part["assigned"], clusters) for part in parts)
    total: npt.NDArray[np.int64] = np.sum(list(stream(Task(part_sizes, "counting"), calls)), axis=0)
    return total


def part_sizes(run: RunDirectory, path: str, clusters: int) -> npt.NDArray[np.int64]:
    """Return how many frames of one part of assignments each cluster has, int64 [K]."""
    column = run.read_table(path, ["cluster"])["cluster"]
    sizes: npt.NDArray[np.int64] = np.bincount(column.to_numpy(), minlength=clusters)
    return sizes


def wave_rows(run: RunDirectory, parts: list[dict[str, Any]]) -> int:
    """Return how many frames' vectors may be in the object store at once."""
    vector = run.read_schema(parts[0]["path"]).field("embedding").type
    row_bytes = vector.list_size * (vector.value_type.bit_width // 8) + 40
    available = resources.resources().get("object_store_memory", 0.0)
    return max(1, int(STORE_SHARE * available / row_bytes))


def score_wave(
    run: RunDirectory, config: ScoreConfig, wave: dict[int, ClusterGroup], parts: list[dict[str, Any]]
) -> Iterator[tuple[int, File]]:
    """Score some groups; yields number and file of each as it is written."""
    split = Task(split_shard, "shuffling vectors", num_returns=len(wave))
    pieces: list[Any] = []
    for paths in shards_of(parts):
        cut = split.remote(run, config, paths, list(wave.values()))
        pieces.append([cut] if len(wave) == 1 else cut)
    pending = {
        submit(run, config, number, group, [cut[place] for cut in pieces]): number
        for place, (number, group) in enumerate(wave.items())
    }
    while pending:
        [done], _ = ray.wait(list(pending), num_returns=1)
        yield pending.pop(done), ray.get(done)


def split_shard(
    run: RunDirectory, config: ScoreConfig, paths: list[tuple[str, str]], wave: list[ClusterGroup]
) -> list[FrameBlock] | FrameBlock:
    """Return the frames of some parts of embeddings and their assignments, cut by group; a single group's alone."""
    cut = load_shard(run, config, paths).cut(wave)
    return cut[0] if len(cut) == 1 else cut


def submit(run: RunDirectory, config: ScoreConfig, number: int, group: ClusterGroup, pieces: list[Any]) -> Any:
    """Start the tasks that score one group from references to its pieces; the reference to its file."""
    path = part_path(config.folder, number)
    ranges = group.ranges(config.rule, groups.SPLIT_ROWS)
    if not ranges:
        return arithmetic_task(score_group, "comparing frames").remote(run, config, path, *pieces)
    whole = Task(groups.gather, "shuffling vectors").remote(config, *pieces)
    rows = arithmetic_task(score_range, "comparing frames")
    scored = [rows.remote(config, whole, one) for one in ranges]
    return Task(write_scores, "writing scores").remote(run, path, whole, *scored)


def score_group(run: RunDirectory, config: ScoreConfig, path: str, *pieces: FrameBlock) -> File:
    """Score each cluster of a group by itself and write the group's part."""
    limit_threads(resources.granted_cpus())
    whole = groups.gather(config, *pieces)
    return write_scores(run, path, whole, groups.score_clusters(config, whole, resources.device()))


def score_range(config: ScoreConfig, cluster: FrameBlock, rows: tuple[int, int]) -> Scores:
    """Score a range of rows of one cluster."""
    limit_threads(resources.granted_cpus())
    return groups.score_rows(config, cluster, rows, resources.device())


def write_scores(run: RunDirectory, path: str, whole: FrameBlock, *scored: Scores) -> File:
    """Write the part of a group."""
    return run.write_table(path, groups.scores_table(whole, *scored))
