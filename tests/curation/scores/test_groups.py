"""Scores by cluster, however clusters are grouped and split: against all pairs of each cluster, frame by frame."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.embeddings import nearest_cpu, nearest_gpu
from curation.embeddings.vectors import scramble, to_unit
from curation.scores import duplicates, groups
from curation.scores.config import ScoreConfig

Score = dict[str, tuple[float, str | None]]
PASSES = [("nearest", "any"), ("farthest", "any"), ("random", "any")]
PASSES += [(keep, "greedy") for keep, _ in PASSES]
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Clustered:
    """Frames of clusters of given sizes, many alike or equal, also to frames of other clusters; distances are tied."""

    sizes: tuple[int, ...]
    seed: int

    @property
    def piece(self) -> groups.FrameBlock:
        generator = np.random.default_rng(self.seed)
        rows = sum(self.sizes)
        x = generator.normal(size=(rows, 5))
        for row in range(1, rows):
            if generator.random() < 0.6:
                x[row] = x[generator.integers(row)] + generator.choice([0, 0, 1e-5, 0.2]) * generator.normal(size=5)
        cluster = np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)
        ids = [f"{key:016x}{0:016x}" for key in generator.permutation(rows)]
        distance = generator.uniform(0, 1, rows).round(1).astype(np.float32)
        order = generator.permutation(rows)
        whole = groups.FrameBlock(
            np.array(ids, "S32"), cluster, distance, to_unit(x.astype(np.float32)).astype(np.float16)
        )
        return whole.take(order)


def brute_force(config: ScoreConfig, piece: groups.FrameBlock) -> Score:
    """Each cluster's pairs in float64, of frames in visiting order; of equally similar frames the first is named."""
    drawn = scramble(piece.keys, config.seed, duplicates.RANDOM).tolist()
    keys, distance, ids = piece.keys.tolist(), piece.distance.tolist(), piece.ids.astype(str).tolist()
    rank = {
        "nearest": lambda row: (distance[row], keys[row]),
        "farthest": lambda row: (-distance[row], keys[row]),
        "random": lambda row: drawn[row],
    }[config.keep]
    cosines = products(piece)
    found: Score = dict.fromkeys(ids, (-1.0, None))
    for number in set(piece.cluster.tolist()):
        members = sorted(np.flatnonzero(piece.cluster == number).tolist(), key=rank)
        before: list[int] = []
        for row in members:
            if config.epsilon is not None and piece.distance[row] > np.float32(config.epsilon):
                continue
            if before:
                best = before[int(np.argmax(cosines[row, before]))]
                found[ids[row]] = (min(cosines[row, best], 1), ids[best])
            if config.rule == "any" or found[ids[row]][0] <= np.float32(config.d or 0):
                before.append(row)
    return found


def products(piece: groups.FrameBlock) -> npt.NDArray[np.float32]:
    units = to_unit(piece.vectors).astype(np.float64)
    return (units @ units.T).astype(np.float32)


def by_work(
    config: ScoreConfig, piece: groups.FrameBlock, planned: list[groups.ClusterGroup], split: int, device: str
) -> Score:
    """What the tasks of a run compute, one after the other: in the order of its tables, by frame."""
    found: Score = {}
    halves = [piece.take(slice(None, len(piece.ids) // 3)), piece.take(slice(len(piece.ids) // 3, None))]
    for group, pieces in zip(planned, zip(*(half.cut(planned) for half in halves), strict=True), strict=True):
        whole = groups.gather(config, *pieces)
        assert len(whole.ids) == group.rows
        ranges = group.ranges(config.rule, split)
        scored = [groups.score_rows(config, whole, edges, device) for edges in ranges]
        table = groups.scores_table(whole, *(scored if ranges else [groups.score_clusters(config, whole, device)]))
        for row in table.to_pylist():
            assert row["frame_id"] not in found
            found[row["frame_id"]] = (row["duplicate_similarity"], row["duplicate_of"])
    return found


sizes = st.one_of(
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=30),
    st.lists(st.floats(0, 4).map(lambda power: int(np.exp(power))), min_size=1, max_size=6),  # log-uniform
    st.tuples(st.integers(0, 3), st.integers(50, 90), st.integers(0, 3)).map(list),
)


STRADDLING: dict[str, Any] = {  # each below what is split, together above
    "sizes": [14, 22],
    "seed": 0,
    "group_rows": 16,
    "split": 32,
    "epsilon": 0.3,
    "device": "cpu",
    "integers": False,
    "block": 40,
}


@settings(deadline=None, max_examples=60)
@given(
    sizes=sizes,
    seed=st.integers(0, 2**32 - 1),
    group_rows=st.integers(1, 100),
    split=st.integers(1, 100),
    which=st.sampled_from(PASSES),
    epsilon=st.sampled_from([None, 0.3, 0.7]),
    device=st.sampled_from(["cpu", TORCH_PATH]),
    integers=st.booleans(),
    block=st.integers(1, 40),
)
@example(**STRADDLING, which=("nearest", "any"))
@example(**STRADDLING, which=("farthest", "any"))
@example(**STRADDLING | {"sizes": [0, 40, 0, 40, 0], "group_rows": 1000, "integers": True}, which=("nearest", "any"))
def test_scores_are_those_of_each_cluster_alone(
    *,
    sizes: list[int],
    seed: int,
    group_rows: int,
    split: int,
    which: tuple[Any, Any],
    epsilon: float | None,
    device: str,
    integers: bool,
    block: int,
) -> None:
    """Equal to the last bit, causes among ties included."""
    keep, rule = which
    left_out = None if which == ("nearest", "any") else epsilon
    config = ScoreConfig(
        run_dir="", keep=keep, rule=rule, epsilon=left_out, d=0.9 if rule == "greedy" else None, seed=3
    )
    clustered = Clustered(tuple(sizes), seed)
    planned = groups.cluster_groups(np.array(sizes), group_rows, split)
    assert [group.first for group in planned] == [0, *(group.last + 1 for group in planned[:-1])]
    assert planned[-1].last == len(sizes) - 1
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (duplicates, "GREEDY_ROWS"),
            (duplicates, "GREEDY_COLUMNS"),
            (nearest_gpu, "GPU_BLOCK"),
            (nearest_cpu, "COLUMNS"),
        ):
            patch.setattr(module, name, block)
        patch.setattr(nearest_cpu, "BLOCK", 1)
        patch.setattr(nearest_cpu, "FEW_COLUMNS", 2)
        patch.setattr(nearest_cpu, "TIES", block % 3)
        patch.setattr(nearest_cpu, "integers_are_fast", lambda: integers)
        found = by_work(config, clustered.piece, planned, split, device)
    assert found == brute_force(config, clustered.piece)


@given(sizes, st.integers(1, 100), st.integers(1, 100))
def test_only_one_cluster_is_ever_larger_than_what_is_split(sizes: list[int], group_rows: int, split: int) -> None:
    for group in groups.cluster_groups(np.array(sizes), group_rows, split):
        assert group.rows == sum(sizes[group.first : group.last + 1])
        assert group.rows <= split or group.first == group.last
        ranges = group.ranges("any", split)
        assert bool(ranges) == (group.rows > split)
        assert not ranges or (ranges[0][0], ranges[-1][1]) == (0, group.rows)
        assert group.ranges("greedy", split) == []


def test_the_order_of_the_tables_is_that_of_the_clusters() -> None:
    piece, config = Clustered((9, 0, 30, 4, 4), 5).piece, ScoreConfig(run_dir="", keep="farthest", epsilon=0.5)
    orders = [
        list(by_work(config, piece, groups.cluster_groups(np.array([9, 0, 30, 4, 4]), rows, split), split, "cpu"))
        for rows, split in ((1, 100), (100, 100), (12, 20), (1, 1))
    ]
    assert orders[0] == orders[1] == orders[2] == orders[3]


def test_frames_of_two_clusters_are_not_compared() -> None:
    config = ScoreConfig(run_dir="")
    whole = groups.gather(config, Clustered((3, 2), 0).piece)
    with pytest.raises(AssertionError, match=r"frames of clusters \[0, 1\] would be compared"):
        groups.score_rows(config, whole, (0, 5))
    with pytest.raises(AssertionError, match="clusters 0 to 1 would be compared"):
        groups.ClusterGroup(0, 1, 5).ranges("any", 4)


@pytest.mark.parametrize("device", ["cpu", TORCH_PATH])
def test_an_opposite_frame_is_named(at_degrees: Callable[..., npt.NDArray[np.float32]], device: str) -> None:
    """Its cosine is that of no frame at all, -1."""
    units = np.array([[1, 0], [-1, 0]], np.float32)
    for similarity, index in (
        duplicates.earlier_similarity(units, device=device),
        duplicates.greedy_similarity(units, -1),
    ):
        assert (similarity.tolist(), index.tolist()) == ([-1, -1], [-1, 0])
