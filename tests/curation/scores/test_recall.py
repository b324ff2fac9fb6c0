"""Recall by hand and against brute force over all pairs in float64, however frames are shared out over shards."""

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.embeddings.vectors import to_unit
from curation.scores import duplicates, groups, recall
from curation.scores.config import ScoreConfig
from curation.store import schema

pytestmark = pytest.mark.usefixtures("one_thread")
KEEPS = ("nearest", "farthest", "random", "highest:value", "lowest:value")


def block(seed: int, rows: int, clusters: int) -> groups.FrameBlock:
    """Frames with exact and near copies, tied distances, and values of which some are tied and some are missing."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 5))
    for row in range(1, rows):
        if generator.random() < 0.6:
            x[row] = x[generator.integers(row)] + generator.choice([0, 0, 0.2]) * generator.normal(size=5)
    ids = np.array([f"{key:016x}{0:016x}" for key in generator.permutation(rows)], "S32")
    cluster = generator.integers(clusters, size=rows).astype(np.int32)
    distance = generator.uniform(0, 1, rows).round(1).astype(np.float32)
    value = np.where(generator.random(rows) < 0.2, np.nan, generator.integers(4, size=rows).astype(np.float64))
    return groups.FrameBlock(ids, cluster, distance, to_unit(x.astype(np.float32)), value)


def rank(config: ScoreConfig, frames: groups.FrameBlock, row: int) -> Any:
    """The place of a frame in the order of the pass, by Python's own rules."""
    key, distance = int(frames.keys[row]), float(frames.distance[row])
    assert frames.measure is not None
    value = float(frames.measure[row])
    if config.keep == "random":
        return int(duplicates.scramble(frames.keys, config.seed, duplicates.RANDOM)[row])
    if config.keep in ("nearest", "farthest"):
        return (distance if config.keep == "nearest" else -distance, key)
    return (np.isnan(value), 0 if np.isnan(value) else value if config.keep == "lowest:value" else -value, key)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 80),
    keep=st.sampled_from(KEEPS),
    epsilon=st.sampled_from([None, 0.5]),
    sampled=st.integers(1, 100),
    cuts=st.lists(st.integers(0, 80), max_size=4),
    device=st.sampled_from(["cpu", "cpu:0"]),
)
def test_the_search_finds_the_nearest_frame_before_each_whatever_the_shards(
    *, seed: int, rows: int, keep: str, epsilon: float | None, sampled: int, cuts: list[int], device: str
) -> None:
    left_out = None if keep == "nearest" else epsilon
    config = ScoreConfig(run_dir="", keep=keep, epsilon=left_out, recall_frames=sampled, seed=4)
    frames = block(seed, rows, 3)
    inside = frames.distance <= np.float32(np.inf if left_out is None else left_out)
    sample = frames.take(recall.drawn(config, rows, frames.keys, frames.distance))
    assert sampled < rows or len(sample.ids) == inside.sum()
    sample = sample.take(sample.visiting_order(config))
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    shards = [frames.take(slice(start, stop)) for start, stop in pairwise(edges)]
    found = reduce(recall.nearer, [recall.search(config, sample, shard, device) for shard in shards])
    exact = to_unit(frames.vectors).astype(np.float64)
    cosines = (exact @ exact.T).astype(np.float32)
    place = {frame: row for row, frame in enumerate(frames.ids.tolist())}
    order = sorted(np.flatnonzero(inside).tolist(), key=lambda row: rank(config, frames, row))
    for at, frame in enumerate(sample.ids.tolist()):
        row = place[frame]
        before = order[: order.index(row)]
        if before:
            best = before[int(np.argmax(cosines[row, before]))]
            assert found.similarity[at] == min(cosines[row, best], 1)
            assert (found.ids[at], found.cluster[at]) == (frames.ids[best], frames.cluster[best])
        else:
            assert (found.similarity[at], found.ids[at]) == (-1, b"")


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 30))
def test_frames_before_a_row_are_counted(seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    sides = [
        (generator.integers(5, size=n).astype(np.uint64), generator.integers(3, size=n) * 1.0) for n in (rows, columns)
    ]
    pairs = [list(zip(value.tolist(), tie.tolist(), strict=True)) for tie, value in sides]
    counts = duplicates.earlier_counts(sides[0], sides[1])
    assert counts.tolist() == [sum(other < one for other in pairs[1]) for one in pairs[0]]


def test_recall_by_hand() -> None:
    passed, exact = [-1.0, 0.5, 0.95, 0.99, -1.0], [-1.0, 0.97, 0.95, 0.99, 0.91]
    columns = [list("abcde"), [0] * 5, passed, exact, [None, *"aaaa"]]
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema.RECALL, strict=True)],
        schema=schema.RECALL,
    )
    at = recall.recall_at(table, 0.9, whole=False)
    assert (at["duplicates"], at["found"], at["recall"]) == (4, 2, 0.5)
    # Wilson's interval of 2 of 4 with z = 1.96: (0.5 + z^2/8 -+ z sqrt(0.25/4 + z^2/64)) / (1 + z^2/4)
    assert at["low"] == pytest.approx(0.15003, abs=1e-4)
    assert at["high"] == pytest.approx(0.84997, abs=1e-4)
    assert recall.recall_at(table, 0.96, whole=True) == {
        "d": 0.96,
        "duplicates": 2,
        "found": 1,
        "recall": 0.5,
        "low": 0.5,
        "high": 0.5,
    }
    assert recall.recall_at(table, 0.99, whole=False)["recall"] is None
    assert recall.clause(recall.recall_at(table, 0.96, whole=True)) == "d = 0.96: 50.0% [50.0%, 50.0%] of 2"
    assert recall.clause(recall.recall_at(table, 0.99, whole=False)) == "d = 0.99: no duplicates"


def test_the_sample_has_about_the_size_that_was_asked_for() -> None:
    keys = np.random.default_rng(0).integers(2**64, size=100_000, dtype=np.uint64)
    config = ScoreConfig(run_dir="", recall_frames=1000)
    chosen = recall.drawn(config, len(keys), keys, np.zeros(len(keys), np.float32))
    assert abs(int(chosen.sum()) - 1000) < 150
    other = recall.drawn(
        ScoreConfig(run_dir="", recall_frames=1000, seed=1), len(keys), keys, np.zeros(len(keys), np.float32)
    )
    assert not np.array_equal(chosen, other)
