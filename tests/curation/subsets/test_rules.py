"""Subsets against brute force: literal MedDEL and SemDeDup over all pairs in float64, budgets by Python's sort."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curation.embeddings.vectors import scramble, to_unit
from curation.scores import duplicates
from curation.subsets import grid, rules, scored
from curation.subsets.config import SelectConfig

Columns = Callable[..., scored.Columns]
Kept = Callable[..., set[int]]
Selection = Callable[..., SelectConfig]
MARGIN = 1e-5  # around a threshold, where float32 may decide otherwise than float64
BASELINES = ("random", "prototypes-hard", "prototypes-easy", "cluster-balanced")


class Pool:
    """Frames of some clusters with exact copies, near duplicates and a one-frame cluster, scored by our arithmetic."""

    def __init__(self, seed: int, rows: int, clusters: int, keep: str = "nearest", pass_seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(rows, 6))
        for row in range(1, rows):
            if generator.random() < 0.5:
                x[row] = x[generator.integers(row)] + generator.choice([0, 1e-3, 0.3]) * generator.normal(size=6)
        self.units = to_unit(x.astype(np.float32))
        cluster = generator.integers(clusters, size=rows).astype(np.int32)
        cluster[rows // 2] = clusters
        centroids = to_unit(generator.normal(size=(clusters + 1, 6)).astype(np.float32))
        distance = (1 - (self.units * centroids[cluster]).sum(axis=1)).astype(np.float32)
        keys = generator.permutation(rows).astype(np.uint64)
        similarity = np.empty(rows, np.float32)
        for number in set(cluster.tolist()):
            members = np.flatnonzero(cluster == number)
            order = members[duplicates.visiting_order(distance[members], keys[members], keep, pass_seed)]
            similarity[order] = duplicates.earlier_similarity(self.units[order])[0]
        self.columns = scored.Columns(distance, similarity, cluster, keys)

    @property
    def cosines(self) -> npt.NDArray[np.float64]:
        exact = self.units.astype(np.float64)
        return exact @ exact.T


def pools(keep: str = "nearest") -> st.SearchStrategy[Pool]:
    return st.builds(
        Pool, seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 60), clusters=st.integers(1, 4), keep=st.just(keep)
    )


def meddel(pool: Pool, epsilon: float, d: float) -> set[int]:
    """The paper's rule, frame by frame: an outlier goes; so does what is too similar to a nearer frame that is none."""
    columns, cosines, stays = pool.columns, pool.cosines, set()
    inside = [row for row in range(len(columns.keys)) if columns.distance[row] <= epsilon]
    for row in inside:
        place = (columns.distance[row], columns.keys[row])
        nearer = (
            other
            for other in inside
            if columns.cluster[other] == columns.cluster[row] and (columns.distance[other], columns.keys[other]) < place
        )
        if all(cosines[row, other] <= d for other in nearer):
            stays.add(row)
    return stays


def semdedup(pool: Pool, which_to_keep: str, eps: float, seed: int) -> set[int]:
    """Literal SemDeDup: full matrix of the sorted cluster, upper triangle, maximum by column, off where > 1 - eps."""
    columns, stays = pool.columns, set()
    for number in set(columns.cluster.tolist()):
        members = np.flatnonzero(columns.cluster == number)
        by_distance = sorted(members.tolist(), key=lambda row: (columns.distance[row], columns.keys[row]))
        if which_to_keep == "hard":
            by_distance = sorted(members.tolist(), key=lambda row: (-columns.distance[row], columns.keys[row]))
        if which_to_keep == "random":
            by_distance = members[np.argsort(scramble(columns.keys[members], seed, duplicates.RANDOM))].tolist()
        exact = pool.units[by_distance].astype(np.float64)
        largest = np.triu(exact @ exact.T, k=1).max(axis=0)
        stays |= {row for row, m in zip(by_distance, largest, strict=True) if not m > 1 - eps}
    return stays


@settings(deadline=None)
@given(pools(), st.floats(0, 2), st.floats(-0.9, 0.9999))
def test_two_columns_decide_as_the_papers_rule(
    kept: Kept, selection: Selection, pool: Pool, epsilon: float, d: float
) -> None:
    assume(np.abs(pool.cosines - d).min() > MARGIN)
    assume(np.abs(pool.columns.distance - epsilon).min() > MARGIN)
    assert kept(pool.columns, selection(epsilon=epsilon, d=d)) == meddel(pool, epsilon, d)


@settings(deadline=None)
@given(pools(), st.lists(st.floats(0, 2), min_size=1, max_size=4), st.lists(st.floats(-0.9, 0.9999), min_size=1))
def test_the_grid_equals_one_direct_run_for_each_point(pool: Pool, epsilons: list[float], ds: list[float]) -> None:
    epsilons, ds = sorted(epsilons), sorted(ds)[:4]
    assume(all(np.abs(pool.cosines - d).min() > MARGIN for d in ds))
    assume(all(np.abs(pool.columns.distance - epsilon).min() > MARGIN for epsilon in epsilons))
    sizes = grid.grid_sizes(pool.columns.distance, pool.columns.similarity, np.array(epsilons), np.array(ds))
    assert sizes.tolist() == [[len(meddel(pool, epsilon, d)) for d in ds] for epsilon in epsilons]


@settings(deadline=None)
@given(pools(), st.tuples(st.floats(0, 2), st.floats(0, 2)), st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_subsets_are_nested(
    kept: Kept, selection: Selection, pool: Pool, epsilons: tuple[float, float], ds: tuple[float, float]
) -> None:
    low, high = sorted(epsilons)
    small, large = sorted(ds)
    most = kept(pool.columns, selection(epsilon=high, d=large))
    for epsilon, d in ((low, small), (low, large), (high, small)):
        assert kept(pool.columns, selection(epsilon=epsilon, d=d)) <= most
    assert kept(pool.columns, selection(epsilon=2, d=1)) == set(range(len(pool.units)))


@pytest.mark.parametrize(
    ("which_to_keep", "keep"), [("hard", "farthest"), ("hard", None), ("easy", "nearest"), ("random", "random")]
)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 50), d=st.floats(0.001, 0.9999))
def test_semdedup_equals_its_published_arithmetic(
    *, kept: Kept, selection: Selection, which_to_keep: str, keep: str | None, seed: int, rows: int, d: float
) -> None:
    chosen = selection(method="semdedup", keep=keep, d=d, seed=5)
    scoring = rules.pass_of(chosen)
    pool = Pool(seed, rows, 3, scoring.keep, scoring.seed)
    assume(np.abs(pool.cosines - d).min() > MARGIN)
    assert kept(pool.columns, chosen) == semdedup(pool, which_to_keep, 1 - d, 5)


def ranked(columns: scored.Columns, chosen: SelectConfig) -> list[int]:
    """The order of a budget by Python's own sort, but for the random ones."""
    rows = range(len(columns.keys))
    distance, similarity, keys = (column.tolist() for column in (columns.distance, columns.similarity, columns.keys))
    drawn = scramble(columns.keys, chosen.seed, duplicates.RANDOM).tolist()
    second = {"nearest": distance, "farthest": [-value for value in distance], "random": drawn}
    rank = {
        "meddel": lambda row: (similarity[row], second[chosen.order][row], keys[row]),
        "semdedup": lambda row: (similarity[row], second[chosen.order][row], keys[row]),
        "prototypes-hard": lambda row: (-distance[row], keys[row]),
        "prototypes-easy": lambda row: (distance[row], keys[row]),
    }
    return sorted(rows, key=rank[chosen.method])


@settings(deadline=None)
@given(
    pool=pools(),
    tied=st.booleans(),
    method=st.sampled_from(
        [("meddel", None), ("meddel", "farthest"), ("semdedup", None), ("semdedup", "nearest"), ("meddel", "random")]
        + [(method, None) for method in BASELINES]
    ),
    share=st.floats(0.01, 1),
    as_count=st.booleans(),
)
def test_budgets_are_met_exactly_ties_included(
    *,
    columns_of: Columns,
    kept: Kept,
    selection: Selection,
    pool: Pool,
    tied: bool,
    method: tuple[str, str | None],
    share: float,
    as_count: bool,
) -> None:
    columns, rows = pool.columns, len(pool.units)
    if tied:
        columns = columns_of(columns.distance.round(1), columns.similarity.round(0), columns.cluster, columns.keys)
    wanted = max(1, round(share * rows))
    assume(not as_count or wanted > 1)
    epsilon = 2 if method[0] == "meddel" else None
    budget = wanted if as_count else share
    chosen = selection(method=method[0], keep=method[1], epsilon=epsilon, budget=budget, seed=rows % 3)
    subset = kept(columns, chosen)
    assert len(subset) == wanted
    if method[0] in ("meddel", "semdedup", "prototypes-hard", "prototypes-easy"):
        assert subset == set(ranked(columns, chosen)[:wanted])
    reason, effective_d = rules.reasons(columns, chosen, rows)
    assert np.all(reason[sorted(set(range(rows)) - subset)] == rules.OVER_BUDGET)
    if method[0] in BASELINES:
        assert effective_d is None
    else:
        assert effective_d == max(columns.similarity[list(subset)].tolist())
