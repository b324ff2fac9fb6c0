"""A sample of frames against all frames, as Ray tasks over shards of embeddings: the recall of a scoring pass."""

from typing import Any

import numpy as np
import ray

from curation.embeddings.vectors import keys_of, limit_threads
from curation.engine import resources
from curation.engine.stream import stream
from curation.engine.tasks import Task, arithmetic_task
from curation.scores import recall
from curation.scores.config import ScoreConfig
from curation.scores.groups import FrameBlock
from curation.scores.shards import load_shard
from curation.store.directory import File, RunDirectory

Shards = list[list[tuple[str, str]]]  # paths of parts of embeddings and of their assignments


def measure_recall(
    run: RunDirectory, config: ScoreConfig, shards: Shards, scored: list[str], frames: int
) -> tuple[File, dict[str, Any]]:
    """Write recall.parquet next to the scored parts; return its file and what a marker says of it.

    Reads all embeddings twice; holds the sample's vectors, and compares each with all frames before it.
    """
    drawn = list(
        stream(Task(draw, "drawing a sample"), ((run, config, frames, shard) for shard in shards), in_order=True)
    )
    sample = FrameBlock.joined(*drawn)
    sample = sample.take(sample.visiting_order(config))
    reference, best = ray.put(sample), None
    task = arithmetic_task(search_shard, "measuring recall")
    for found in stream(task, ((run, config, reference, shard) for shard in shards)):
        best = found if best is None else recall.nearer(best, found)
    assert best is not None
    passed: dict[str, float] = {}
    for part in stream(Task(scores_of, "reading scores"), ((run, config, frames, path) for path in scored)):
        passed |= part
    table = recall.recall_table(config, sample, best, passed)
    whole = config.recall_frames >= frames
    shown = [recall.recall_at(table, d, whole) for d in recall.shown_thresholds(table)]
    return run.write_table(f"{config.folder}/recall.parquet", table), {
        "frames": len(table),
        "whole": whole,
        "at": shown,
    }


def draw(run: RunDirectory, config: ScoreConfig, frames: int, paths: list[tuple[str, str]]) -> FrameBlock:
    """Return the frames of a shard that are in the sample."""
    limit_threads(resources.granted_cpus())
    shard = load_shard(run, config, paths)
    return shard.take(recall.drawn(config, frames, shard.keys, shard.distance))


def search_shard(
    run: RunDirectory, config: ScoreConfig, sample: FrameBlock, paths: list[tuple[str, str]]
) -> recall.Nearest:
    """Compare the sample with the frames of a shard."""
    limit_threads(resources.granted_cpus())
    return recall.search(config, sample, load_shard(run, config, paths), resources.device())


def scores_of(run: RunDirectory, config: ScoreConfig, frames: int, path: str) -> dict[str, float]:
    """Return the duplicate similarity of the frames of a part of scores that are in the sample, by their ids."""
    table = run.read_table(path, ["frame_id", "centroid_distance", "duplicate_similarity"])
    chosen = recall.drawn(config, frames, keys_of(table["frame_id"].to_pylist()), table["centroid_distance"].to_numpy())
    kept = table.take(np.flatnonzero(chosen))
    return dict(zip(kept["frame_id"].to_pylist(), kept["duplicate_similarity"].to_pylist(), strict=True))
