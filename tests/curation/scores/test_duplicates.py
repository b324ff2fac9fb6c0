"""Scores against brute force: all pairs, no blocks, float64; MedDEL and SemDeDup walked through frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from curation.embeddings import nearest_cpu, nearest_gpu
from curation.embeddings.vectors import scramble, to_unit
from curation.scores import duplicates

Exact = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
KEEPS = ("nearest", "farthest", "random")
ROUNDING = 2e-6  # of a float32 product
MARGIN = 1e-5  # around a threshold, where float32 may decide otherwise than float64
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here
pytestmark = pytest.mark.usefixtures("one_thread")


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
        "random": lambda row: int(scramble(keys, seed, duplicates.RANDOM)[row]),
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
    order = duplicates.visiting_order(cluster.distance, cluster.keys, keep, 3)
    if (keep, rule) != ("nearest", "any"):
        order = order[cluster.distance[order] <= np.float32(epsilon)]
    units = cluster.units[order]
    similarity, _ = duplicates.earlier_similarity(units) if rule == "any" else duplicates.greedy_similarity(units, d)
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
        patch.setattr(duplicates, "GREEDY_ROWS", rows)
        patch.setattr(duplicates, "GREEDY_COLUMNS", columns)
        patch.setattr(nearest_gpu, "GPU_BLOCK", rows)
        patch.setattr(nearest_gpu, "GPU_PAIRS", columns)
        patch.setattr(nearest_gpu, "GPU_DENSE_SHARE", dense_share)
        patch.setattr(nearest_cpu, "BLOCK", 1)  # of 64 rows, the least there are
        patch.setattr(nearest_cpu, "COLUMNS", columns)
        patch.setattr(nearest_cpu, "DENSE_SHARE", dense_share)
        patch.setattr(nearest_cpu, "integers_are_fast", lambda: integers)
        yield


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_of_equally_similar_rows_the_first_is_named(integers: bool, dense_share: float) -> None:
    axes = np.eye(3, dtype=np.float32)[[0, 1, 0, 0, 1, 2, 2, 0]]
    with blocks(2, 2, integers, dense_share):
        for similarity, index in (
            duplicates.earlier_similarity(axes),
            duplicates.earlier_similarity(axes, device=TORCH_PATH),
            duplicates.greedy_similarity(axes, 0.5),
        ):
            assert similarity.tolist() == [-1, 0, 1, 1, 1, 0, 1, 1]
            assert index.tolist() == [-1, 0, 0, 0, 1, 0, 5, 0]


@settings(deadline=None)
@given(clusters(150), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.sampled_from([0.0, 0.01, 1.0]))
def test_earlier_similarity_against_all_pairs(
    cluster: Cluster, rows: int, columns: int, integers: bool, dense_share: float
) -> None:
    with blocks(rows, columns, integers, dense_share):
        check_against_all_pairs(cluster.units, *duplicates.earlier_similarity(cluster.units))
        check_against_all_pairs(cluster.units, *duplicates.earlier_similarity(cluster.units, device=TORCH_PATH))


@settings(deadline=None)
@given(clusters(), st.integers(1, 9), st.integers(1, 9), st.floats(-0.9, 0.9999))
def test_greedy_similarity_against_all_pairs(cluster: Cluster, rows: int, columns: int, d: float) -> None:
    cosines = cluster.cosines
    assume(np.abs(cosines - d).min() > MARGIN)
    with blocks(rows, columns):
        similarity, index = duplicates.greedy_similarity(cluster.units, d)
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
    ranges = duplicates.row_blocks(len(cluster.units), size)
    with blocks(columns + 1, columns):
        for device in ("cpu", TORCH_PATH):
            whole, _ = duplicates.earlier_similarity(cluster.units, device=device)
            pieces = [duplicates.earlier_similarity(cluster.units, *edges, device) for edges in ranges]
            similarity, index = (np.concatenate(column) for column in zip(*pieces, strict=True))
            np.testing.assert_allclose(similarity, whole, atol=ROUNDING)
            check_against_all_pairs(cluster.units, similarity, index)


@settings(deadline=None)
@given(clusters(), st.sampled_from(KEEPS), st.integers(0, 2**31))
def test_order_is_total_and_independent_of_the_rows(cluster: Cluster, keep: str, seed: int) -> None:
    order = duplicates.visiting_order(cluster.distance, cluster.keys, keep, 3)
    assert order.tolist() == visited(cluster.distance, cluster.keys, keep, 3)
    shuffled = np.random.default_rng(seed).permutation(len(order))
    again = duplicates.visiting_order(cluster.distance[shuffled], cluster.keys[shuffled], keep, 3)
    assert shuffled[again].tolist() == order.tolist()


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


def test_what_stays_differs_by_keep_and_rule(
    at_degrees: Callable[..., npt.NDArray[np.float32]], cosine: Callable[[float], float]
) -> None:
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
