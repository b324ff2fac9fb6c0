"""Scores against brute force: all pairs, no blocks, float64; MedDEL and SemDeDup walked through frame by frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from curation import dedup, nearest
from curation.vectors import scramble, to_unit

Exact = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
KEEPS = ("nearest", "farthest", "random")
ROUNDING = 2e-6  # of a float32 product
MARGIN = 1e-5  # around a threshold, where float32 may decide otherwise than float64
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for a busy core cost far more here than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cluster:
    """Random frames of one cluster: exact copies, near duplicates, and centroid distances, some of them tied."""

    def __init__(self, seed: int, rows: int, dimensions: int, copies: float, rounded: bool) -> None:
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(rows, dimensions))
        for row in range(1, rows):
            if generator.random() < copies:
                x[row] = x[generator.integers(row)] + generator.choice([0, 0, 1e-3, 0.1]) * x[row]
        self.units = to_unit(x.astype(np.float32))
        distance = 1 - self.units @ to_unit(x.mean(axis=0, keepdims=True).astype(np.float32))[0]
        self.distance = np.round(distance, 1) if rounded else distance
        self.keys: Keys = generator.permutation(rows).astype(np.uint64)

    @property
    def cosines(self) -> Exact:
        exact = self.units.astype(np.float64)
        return exact @ exact.T


def clusters(most: int = 40) -> st.SearchStrategy[Cluster]:
    return st.builds(
        Cluster,
        seed=st.integers(0, 2**32 - 1),
        rows=st.integers(1, most),
        dimensions=st.sampled_from([2, 8, 33]),
        copies=st.sampled_from([0.0, 0.5, 0.9]),
        rounded=st.booleans(),
    )


def visited(distance: Exact, keys: Keys, keep: str, seed: int) -> list[int]:
    """The rows in visiting order, by Python's own sort."""
    rank = {
        "nearest": lambda row: (float(distance[row]), int(keys[row])),
        "farthest": lambda row: (-float(distance[row]), int(keys[row])),
        "random": lambda row: int(scramble(keys, seed)[row]),
    }[keep]
    return sorted(range(len(keys)), key=rank)


def walk(cluster: Cluster, keep: str, rule: str, epsilon: float, d: float) -> set[int]:
    """Algorithm 1 as METHODS.md reads it: drop the outliers, then walk; the rows that stay."""
    order = [row for row in visited(cluster.distance, cluster.keys, keep, 3) if cluster.distance[row] <= epsilon]
    cosines, stays = cluster.cosines, set()
    for place, row in enumerate(order):
        earlier = order[:place] if rule == "any" else [other for other in order[:place] if other in stays]
        if all(cosines[row, other] <= d for other in earlier):
            stays.add(row)
    return stays


def scored(cluster: Cluster, keep: str, rule: str, epsilon: float, d: float) -> set[int]:
    """The same from our scores: one pass, then a threshold on each column."""
    order = dedup.order(cluster.distance, cluster.keys, keep, 3)
    if (keep, rule) != ("nearest", "any"):
        order = order[cluster.distance[order] <= np.float32(epsilon)]
    units = cluster.units[order]
    similarity, _ = dedup.earlier_similarity(units) if rule == "any" else dedup.greedy_similarity(units, d)
    stays = (cluster.distance[order] <= np.float32(epsilon)) & (similarity <= np.float32(d))
    return set(order[stays].tolist())


def check_against_all_pairs(units: npt.NDArray[np.float32], similarity: Exact, index: npt.NDArray[np.int64]) -> None:
    """Every row's value is its highest float64 cosine with an earlier row, and the row named has it."""
    rows = np.arange(1, len(units))
    cosines = units.astype(np.float64) @ units.T.astype(np.float64)
    highest = np.where(np.tri(len(units), k=-1, dtype=bool), cosines, -2).max(axis=1)[1:]
    assert (similarity[0], index[0]) == (-1, -1)
    np.testing.assert_allclose(similarity[1:], np.minimum(highest, 1), atol=ROUNDING)
    assert np.all((index[1:] >= 0) & (index[1:] < rows))
    np.testing.assert_allclose(cosines[rows, index[1:]], highest, atol=ROUNDING)


@contextmanager
def blocks(rows: int, columns: int, integers: bool = True, dense_share: float = 0.01) -> Iterator[None]:
    """Many small blocks, and the paths of a chip with and without products of 8-bit integers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "ROWS", rows)
        patch.setattr(dedup, "COLUMNS", columns)
        patch.setattr(dedup, "GPU_BLOCK", rows)
        patch.setattr(nearest, "BLOCK", 1)  # of 64 rows, the least there are
        patch.setattr(nearest, "COLUMNS", columns)
        patch.setattr(nearest, "DENSE_SHARE", dense_share)
        patch.setattr(nearest, "integers_are_fast", lambda: integers)
        yield


def at_degrees(*angles: float) -> npt.NDArray[np.float32]:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def test_earlier_similarity_by_hand() -> None:
    for device in ("cpu", TORCH_PATH):
        similarity, index = dedup.earlier_similarity(at_degrees(0, 60, 20, 62), device=device)
        assert similarity.tolist() == pytest.approx([-1, cosine(60), cosine(20), cosine(2)], abs=1e-6)
        assert index.tolist() == [-1, 0, 0, 1]


def test_greedy_similarity_by_hand() -> None:
    """At d = cos 25: 20 goes for 0; 40, within 20 of the dropped 20, stays; 60 goes for 40."""
    similarity, index = dedup.greedy_similarity(at_degrees(0, 20, 40, 60), cosine(25))
    assert similarity.tolist() == pytest.approx([-1, cosine(20), cosine(40), cosine(20)], abs=1e-6)
    assert index.tolist() == [-1, 0, 0, 2]
    similarity, index = dedup.earlier_similarity(at_degrees(0, 20, 40, 60))
    assert similarity.tolist() == pytest.approx([-1, cosine(20), cosine(20), cosine(20)], abs=1e-6)
    assert index.tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_of_equally_similar_rows_the_first_is_named(integers: bool, dense_share: float) -> None:
    axes = np.eye(3, dtype=np.float32)[[0, 1, 0, 0, 1, 2, 2, 0]]
    with blocks(2, 2, integers, dense_share):
        for similarity, index in (
            dedup.earlier_similarity(axes),
            dedup.earlier_similarity(axes, device=TORCH_PATH),
            dedup.greedy_similarity(axes, 0.5),
        ):
            assert similarity.tolist() == [-1, 0, 1, 1, 1, 0, 1, 1]
            assert index.tolist() == [-1, 0, 0, 0, 1, 0, 5, 0]


def test_one_frame_has_nothing_before_it() -> None:
    for similarity, index in (
        dedup.earlier_similarity(at_degrees(10)),
        dedup.earlier_similarity(at_degrees(10), device=TORCH_PATH),
        dedup.greedy_similarity(at_degrees(10), 0.5),
    ):
        assert (similarity.tolist(), index.tolist()) == ([-1.0], [-1])
    assert dedup.earlier_similarity(np.empty((0, 2), np.float32))[0].tolist() == []


@settings(deadline=None)
@given(clusters(150), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.sampled_from([0.0, 0.01, 1.0]))
def test_earlier_similarity_against_all_pairs(
    cluster: Cluster, rows: int, columns: int, integers: bool, dense_share: float
) -> None:
    with blocks(rows, columns, integers, dense_share):
        check_against_all_pairs(cluster.units, *dedup.earlier_similarity(cluster.units))
        check_against_all_pairs(cluster.units, *dedup.earlier_similarity(cluster.units, device=TORCH_PATH))


@settings(deadline=None)
@given(clusters(), st.integers(1, 9), st.integers(1, 9), st.floats(-0.9, 0.9999))
def test_greedy_similarity_against_all_pairs(cluster: Cluster, rows: int, columns: int, d: float) -> None:
    cosines = cluster.cosines
    assume(np.abs(cosines - d).min() > MARGIN)
    with blocks(rows, columns):
        similarity, index = dedup.greedy_similarity(cluster.units, d)
    stays: list[int] = []
    for row in range(len(cosines)):
        highest = max((min(1, cosines[row, other]) for other in stays), default=-1)
        assert similarity[row] == pytest.approx(highest, abs=ROUNDING)
        assert (index[row] in stays) if stays else index[row] == -1
        assert not stays or cosines[row, index[row]] == pytest.approx(highest, abs=ROUNDING)
        if highest <= d:
            stays.append(row)


@settings(deadline=None, max_examples=50)
@given(clusters(150), st.integers(1, 40), st.integers(5, 30))
def test_row_ranges_add_up_to_the_whole(cluster: Cluster, size: int, columns: int) -> None:
    ranges = dedup.row_blocks(len(cluster.units), size)
    with blocks(columns + 1, columns):
        for device in ("cpu", TORCH_PATH):
            whole, _ = dedup.earlier_similarity(cluster.units, device=device)
            pieces = [dedup.earlier_similarity(cluster.units, *edges, device) for edges in ranges]
            similarity, index = (np.concatenate(column) for column in zip(*pieces, strict=True))
            np.testing.assert_allclose(similarity, whole, atol=ROUNDING)
            check_against_all_pairs(cluster.units, similarity, index)


def test_row_blocks_by_hand() -> None:
    # 400 * sqrt(1/4, 2/4, 3/4): each range has a quarter of the triangle
    assert dedup.row_blocks(400, 100) == [(0, 200), (200, 283), (283, 346), (346, 400)]
    assert dedup.row_blocks(99, 100) == [(0, 99)]
    assert dedup.row_blocks(0, 10) == []


@given(st.integers(1, 100_000), st.integers(1, 10_000))
def test_row_blocks_share_out_the_triangle(rows: int, size: int) -> None:
    assume(rows // size < 2000)
    blocks = dedup.row_blocks(rows, size)
    assert (blocks[0][0], blocks[-1][1]) == (0, rows)
    assert all(before[1] == after[0] for before, after in pairwise(blocks))
    share = rows**2 / max(1, rows // size)
    assert all(stop > start and stop**2 - start**2 <= share + 2 * rows for start, stop in blocks)


def test_similarity_never_exceeds_one() -> None:
    """float32 products of equal unit vectors exceed 1; scores must not, or d = 1 would drop frames."""
    units = np.repeat(to_unit(np.random.default_rng(0).normal(size=(200, 33)).astype(np.float32)), 2, axis=0)
    assert (units @ units.T).max() > 1
    for similarity, _ in (
        dedup.earlier_similarity(units),
        dedup.earlier_similarity(units, device=TORCH_PATH),
        dedup.greedy_similarity(units, 1.0),
    ):
        assert similarity.max() == 1
        assert similarity[1::2].min() == pytest.approx(1, abs=ROUNDING)


def test_at_d_of_one_the_greedy_walk_keeps_all() -> None:
    """Triplets a, b, c: a and b alike but for rounding (their product may exceed 1), c on the side of b."""
    generator = np.random.default_rng(0)
    a, aside = (to_unit(generator.normal(size=(200, 33)).astype(np.float32)) for _ in range(2))
    b, c = to_unit(a + 1e-4 * aside), to_unit(a + aside / 2)
    assert ((a * b).sum(axis=1) > 1).any()
    similarity, index = dedup.greedy_similarity(np.stack([a, b, c], axis=1).reshape(600, 33), 1.0)
    assert index[2::3].tolist() == list(range(1, 600, 3))
    np.testing.assert_allclose(similarity[2::3], (b.astype(np.float64) * c).sum(axis=1), atol=ROUNDING)


def test_a_similarity_of_exactly_d_stays() -> None:
    axes = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    similarity, index = dedup.greedy_similarity(axes, 0.0)
    assert (similarity.tolist(), index.tolist()) == ([-1, 0, 1, 0], [-1, 0, 1, 0])


def test_order_by_hand() -> None:
    distance = np.array([0.3, 0.1, 0.3, 0.2], np.float32)
    keys = np.array([9, 5, 4, 7], np.uint64)
    assert dedup.order(distance, keys, "nearest", 0).tolist() == [1, 3, 2, 0]
    assert dedup.order(distance, keys, "farthest", 0).tolist() == [2, 0, 3, 1]


@settings(deadline=None)
@given(clusters(), st.sampled_from(KEEPS), st.integers(0, 2**31))
def test_order_is_total_and_independent_of_the_rows(cluster: Cluster, keep: str, seed: int) -> None:
    order = dedup.order(cluster.distance, cluster.keys, keep, 3)
    assert order.tolist() == visited(cluster.distance, cluster.keys, keep, 3)
    shuffled = np.random.default_rng(seed).permutation(len(order))
    again = dedup.order(cluster.distance[shuffled], cluster.keys[shuffled], keep, 3)
    assert shuffled[again].tolist() == order.tolist()


def test_random_order_is_another_for_each_seed_and_puts_every_frame_first_as_often() -> None:
    distance, keys = np.zeros(5, np.float32), np.arange(5, dtype=np.uint64)
    first = np.bincount([dedup.order(distance, keys, "random", seed)[0] for seed in range(1000)], minlength=5)
    assert ((first - 200) ** 2 / 200).sum() < 18.5  # chi-squared with 4 degrees of freedom, one in a thousand


@settings(deadline=None, max_examples=200)
@given(
    clusters(25),
    st.sampled_from(KEEPS),
    st.sampled_from(["any", "greedy"]),
    st.floats(0, 1.5),
    st.floats(-0.9, 0.9999),
)
@example(Cluster(0, 25, 8, 0.9, True), "nearest", "any", 0.55, 0.95)
def test_scores_decide_as_the_walk_does(cluster: Cluster, keep: str, rule: str, epsilon: float, d: float) -> None:
    """With the nearest kept and rule any, what epsilon drops is scored too, and must never cause a removal."""
    assume(np.abs(cluster.cosines - d).min() > MARGIN)
    assume(np.abs(cluster.distance - epsilon).min() > MARGIN)
    assert scored(cluster, keep, rule, epsilon, d) == walk(cluster, keep, rule, epsilon, d)


def test_what_stays_differs_by_keep_and_rule() -> None:
    """One cluster by hand, so that the property above is not met by rules that are all the same."""
    cluster = Cluster(0, 4, 2, 0, False)
    cluster.units = at_degrees(0, 20, 40, 60)
    cluster.distance = np.array([0.1, 0.2, 0.3, 0.95], np.float32)
    cluster.keys = np.arange(4, dtype=np.uint64)
    d = cosine(25)
    assert scored(cluster, "nearest", "any", 2, d) == {0}
    assert scored(cluster, "nearest", "greedy", 2, d) == {0, 2}
    assert scored(cluster, "farthest", "any", 2, d) == {3}
    assert scored(cluster, "farthest", "greedy", 2, d) == {3, 1}
    assert scored(cluster, "farthest", "any", 0.9, d) == {2}  # the outlier at 60 degrees removes nothing
    assert scored(cluster, "farthest", "greedy", 0.9, d) == {2, 0}
    assert scored(cluster, "nearest", "any", 2, 1.0) == {0, 1, 2, 3}
    assert scored(cluster, "nearest", "any", 0.9, 1.0) == {0, 1, 2}
