"""Subsets against brute force: literal MedDEL and SemDeDup over all pairs in float64, quotas and rankings by hand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curation import dedup, schema, select
from curation.config import IngestConfig, ScoreConfig, SelectConfig
from curation.markers import Step
from curation.store import RunDirectory
from curation.vectors import keys_of, scramble, to_unit

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
            order = members[dedup.order(distance[members], keys[members], keep, pass_seed)]
            similarity[order] = dedup.earlier_similarity(self.units[order])[0]
        self.columns = select.Columns(distance, similarity, cluster, keys)

    @property
    def cosines(self) -> npt.NDArray[np.float64]:
        exact = self.units.astype(np.float64)
        return exact @ exact.T


def pools(keep: str = "nearest") -> st.SearchStrategy[Pool]:
    return st.builds(
        Pool, seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 60), clusters=st.integers(1, 4), keep=st.just(keep)
    )


def config(**values: Any) -> SelectConfig:
    return SelectConfig(run_dir="unused", **values)


def kept(columns: select.Columns, chosen: SelectConfig, pool: int | None = None) -> set[int]:
    """The frames that stay; none where the selection is refused because none does."""
    try:
        reason, _ = select.reasons(columns, chosen, len(columns.keys) if pool is None else pool)
    except ValueError as error:
        if "keep none of" in str(error):
            return set()
        raise
    assert (reason == select.KEPT).any()
    return set(np.flatnonzero(reason == select.KEPT).tolist())


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
            by_distance = members[np.argsort(scramble(columns.keys[members], seed))].tolist()
        exact = pool.units[by_distance].astype(np.float64)
        largest = np.triu(exact @ exact.T, k=1).max(axis=0)
        stays |= {row for row, m in zip(by_distance, largest, strict=True) if not m > 1 - eps}
    return stays


def columns_of(distance: Any, similarity: Any, cluster: Any = None, keys: Any = None) -> select.Columns:
    rows = len(distance)
    return select.Columns(
        np.array(distance, np.float32),
        np.array(similarity, np.float32),
        np.array(cluster if cluster is not None else [0] * rows, np.int32),
        np.array(keys if keys is not None else range(rows), np.uint64),
    )


def test_reasons_by_hand() -> None:
    columns = columns_of([0.1, 0.2, 0.3, 0.95, 0.9], [-1, 0.8, 0.99, 0.99, 0.7])
    reason, effective_d = select.reasons(columns, config(d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "outlier", "kept"]
    assert effective_d is None
    reason, effective_d = select.reasons(columns, config(budget=2), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "over budget", "over budget", "outlier", "kept"]
    assert effective_d == pytest.approx(0.7)
    reason, effective_d = select.reasons(columns, config(budget=2, d=0.75), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "duplicate", "duplicate", "outlier", "kept"]
    reason, _ = select.reasons(columns, config(method="semdedup", d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "duplicate", "kept"]


def test_a_selection_that_keeps_nothing_is_refused() -> None:
    columns = columns_of([0.3, 0.2], [-1, 0.9])
    message = "epsilon 0.1 and d 0.5 keep none of 2 frames; the nearest is 0.2 from its centroid: raise --epsilon"
    with pytest.raises(ValueError, match=re.escape(message)):
        select.reasons(columns, config(epsilon=0.1, d=0.5), 2)
    with pytest.raises(ValueError, match="keep none of 2 frames"):
        select.reasons(columns, config(epsilon=0.1, budget=0.5), 2)
    assert kept(columns, config(epsilon=0.2, d=0.9)) == {1}


def test_thresholds_are_compared_in_float32() -> None:
    """0.9 and 0.7 are no float32 numbers: a column that stores them must not exceed them."""
    columns = columns_of([0.9, 0.7], [0.7, 0.9])
    assert kept(columns, config(epsilon=0.9, d=0.9)) == {0, 1}
    assert kept(columns, config(epsilon=0.7, d=0.9)) == {1}
    assert kept(columns, config(epsilon=0.9, d=0.7)) == {0}
    both = np.array([0.7, 0.9])
    assert select.grid_sizes(columns.distance, columns.similarity, both, both).tolist() == [[0, 1], [1, 2]]


@settings(deadline=None)
@given(pools(), st.floats(0, 2), st.floats(-0.9, 0.9999))
def test_two_columns_decide_as_the_papers_rule(pool: Pool, epsilon: float, d: float) -> None:
    assume(np.abs(pool.cosines - d).min() > MARGIN)
    assume(np.abs(pool.columns.distance - epsilon).min() > MARGIN)
    assert kept(pool.columns, config(epsilon=epsilon, d=d)) == meddel(pool, epsilon, d)


@settings(deadline=None)
@given(pools(), st.lists(st.floats(0, 2), min_size=1, max_size=4), st.lists(st.floats(-0.9, 0.9999), min_size=1))
def test_the_grid_equals_one_direct_run_for_each_point(pool: Pool, epsilons: list[float], ds: list[float]) -> None:
    epsilons, ds = sorted(epsilons), sorted(ds)[:4]
    assume(all(np.abs(pool.cosines - d).min() > MARGIN for d in ds))
    assume(all(np.abs(pool.columns.distance - epsilon).min() > MARGIN for epsilon in epsilons))
    sizes = select.grid_sizes(pool.columns.distance, pool.columns.similarity, np.array(epsilons), np.array(ds))
    assert sizes.tolist() == [[len(meddel(pool, epsilon, d)) for d in ds] for epsilon in epsilons]


@settings(deadline=None)
@given(pools(), st.tuples(st.floats(0, 2), st.floats(0, 2)), st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_subsets_are_nested(pool: Pool, epsilons: tuple[float, float], ds: tuple[float, float]) -> None:
    low, high = sorted(epsilons)
    small, large = sorted(ds)
    most = kept(pool.columns, config(epsilon=high, d=large))
    for epsilon, d in ((low, small), (low, large), (high, small)):
        assert kept(pool.columns, config(epsilon=epsilon, d=d)) <= most
    assert kept(pool.columns, config(epsilon=2, d=1)) == set(range(len(pool.units)))


@pytest.mark.parametrize(
    ("which_to_keep", "keep"), [("hard", "farthest"), ("hard", None), ("easy", "nearest"), ("random", "random")]
)
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.floats(0.001, 0.9999))
def test_semdedup_equals_its_published_arithmetic(
    which_to_keep: str, keep: str | None, seed: int, rows: int, d: float
) -> None:
    chosen = config(method="semdedup", keep=keep, d=d, seed=5)
    scoring = select.pass_of(chosen)
    pool = Pool(seed, rows, 3, scoring.keep, scoring.seed)
    assume(np.abs(pool.cosines - d).min() > MARGIN)
    assert kept(pool.columns, chosen) == semdedup(pool, which_to_keep, 1 - d, 5)


def ranked(columns: select.Columns, chosen: SelectConfig) -> list[int]:
    """The order of a budget by Python's own sort, but for the random ones."""
    rows = range(len(columns.keys))
    distance, similarity, keys = (column.tolist() for column in (columns.distance, columns.similarity, columns.keys))
    drawn = scramble(columns.keys, chosen.seed).tolist()
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
    pools(),
    st.booleans(),
    st.sampled_from(
        [("meddel", None), ("meddel", "farthest"), ("semdedup", None), ("semdedup", "nearest"), ("meddel", "random")]
        + [(method, None) for method in BASELINES]
    ),
    st.floats(0.01, 1),
    st.booleans(),
)
def test_budgets_are_met_exactly_ties_included(
    pool: Pool, tied: bool, method: tuple[str, str | None], share: float, as_count: bool
) -> None:
    columns, rows = pool.columns, len(pool.units)
    if tied:
        columns = columns_of(columns.distance.round(1), columns.similarity.round(0), columns.cluster, columns.keys)
    wanted = max(1, round(share * rows))
    assume(not as_count or wanted > 1)
    chosen = config(method=method[0], keep=method[1], epsilon=2, budget=wanted if as_count else share, seed=rows % 3)
    subset = kept(columns, chosen)
    assert len(subset) == wanted
    if method[0] in ("meddel", "semdedup", "prototypes-hard", "prototypes-easy"):
        assert subset == set(ranked(columns, chosen)[:wanted])
    reason, effective_d = select.reasons(columns, chosen, rows)
    assert np.all(reason[sorted(set(range(rows)) - subset)] == select.OVER_BUDGET)
    if method[0] in BASELINES:
        assert effective_d is None
    else:
        assert effective_d == max(columns.similarity[list(subset)].tolist())


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4), st.floats(0, 1), st.floats(0.2, 2))
def test_effective_d_reproduces_the_subset(seed: int, rows: int, first: int, share: float, epsilon: float) -> None:
    """Where no two similarities are equal, but for the -1 of the first frame of each cluster."""
    generator = np.random.default_rng(seed)
    distance, similarity = generator.uniform(0, 2, rows + first), generator.permutation(rows) / rows
    columns = columns_of(distance, [*[-1] * first, *similarity])
    inside = columns.distance <= np.float32(epsilon)
    wanted = max(2, int(inside[:first].sum()), round(share * inside.sum()))
    assume(wanted <= inside.sum())
    chosen = config(epsilon=epsilon, budget=wanted)
    _, effective_d = select.reasons(columns, chosen, rows + first)
    assert len(kept(columns, chosen)) == wanted
    assert kept(columns, config(epsilon=epsilon, d=effective_d)) == kept(columns, chosen)


def test_a_share_is_of_the_pool_and_a_count_of_frames() -> None:
    columns = columns_of(np.linspace(0, 0.5, 6), np.linspace(-1, 0.9, 6))
    assert len(kept(columns, config(budget=0.5), pool=10)) == 5  # 4 of the 10 are exact copies, not scored
    assert len(kept(columns, config(budget=5), pool=10)) == 5
    assert len(kept(columns, config(budget=1e-6), pool=10)) == 1
    assert len(kept(columns, config(budget=0.6), pool=10)) == 6
    with pytest.raises(ValueError, match="asks for 7 frames of the pool of 10, but 6 are left"):
        kept(columns, config(budget=7), pool=10)
    with pytest.raises(ValueError, match="asks for 10 frames of the pool of 10, but 6 are left"):
        kept(columns, config(budget=1), pool=10)
    with pytest.raises(ValueError, match=r"asks for 4 .* but 3 are left .* raise --epsilon or --d"):
        kept(columns, config(budget=4, epsilon=0.2), pool=10)


def test_prototypes_by_hand() -> None:
    columns = columns_of([0.3, 0.1, 0.2, 0.3], [0, 0, 0, 0], keys=[7, 5, 1, 2])
    assert kept(columns, config(method="prototypes-hard", budget=2)) == {0, 3}
    assert kept(columns, config(method="prototypes-hard", budget=3)) == {0, 2, 3}
    assert kept(columns, config(method="prototypes-easy", budget=2)) == {1, 2}
    assert kept(columns, config(method="prototypes-easy", budget=3)) == {1, 2, 3}  # of equals the lower key


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.floats(0.02, 1), st.integers(0, 5))
def test_cluster_balanced_fills_every_cluster_alike(seed: int, rows: int, share: float, draw: int) -> None:
    """Quotas by pouring: a frame at a time to the clusters with fewest so far that have any left."""
    generator = np.random.default_rng(seed)
    cluster = generator.choice([0, 2, 3, 9], p=[0.7, 0.2, 0.07, 0.03], size=rows)
    columns = columns_of(np.zeros(rows), np.zeros(rows), cluster, generator.permutation(rows))
    wanted = max(2, round(share * rows))
    subset = kept(columns, config(method="cluster-balanced", budget=wanted, seed=draw))
    sizes = {int(number): int((cluster == number).sum()) for number in set(cluster.tolist())}
    taken = {number: int((cluster[list(subset)] == number).sum()) for number in sizes}
    assert sum(taken.values()) == wanted
    most = max(taken.values())
    assert all(count >= most - 1 or count == sizes[number] for number, count in taken.items())
    drawn = scramble(columns.keys, draw)
    for number in sizes:  # inside a cluster: the first in the seeded order
        members = np.flatnonzero(cluster == number)
        first = members[np.argsort(drawn[members])][: taken[number]]
        assert set(first.tolist()) == {row for row in subset if cluster[row] == number}


@pytest.mark.parametrize("method", ["random", "cluster-balanced"])
def test_random_choices_are_uniform_nested_and_told_by_key_and_seed(method: str) -> None:
    rows, wanted, seeds = 40, 10, 600
    columns = columns_of(np.linspace(0, 1, rows), np.linspace(-1, 1, rows), [0, 1] * (rows // 2))
    chosen = [kept(columns, config(method=method, budget=wanted, seed=seed)) for seed in range(seeds)]
    times = np.bincount([row for subset in chosen for row in subset], minlength=rows)
    # variance of a count is seeds * 1/4 * 3/4; with 39 degrees of freedom, one in a thousand
    assert ((times - seeds / 4) ** 2).sum() / (seeds * 3 / 16) < 72.1
    assert chosen[0] < kept(columns, config(method=method, budget=wanted + 7, seed=0))
    order = np.random.default_rng(1).permutation(rows)
    shuffled = select.Columns(
        *(getattr(columns, name)[order] for name in ("distance", "similarity", "cluster", "keys"))
    )
    assert {int(order[row]) for row in kept(shuffled, config(method=method, budget=wanted, seed=0))} == chosen[0]


def test_rank_in_cluster_by_hand() -> None:
    cluster, drawn = np.array([4, 0, 4, 4, 0], np.int32), np.array([30, 5, 10, 20, 1], np.uint64)
    assert select.rank_in_cluster(cluster, drawn).tolist() == [2, 1, 0, 1, 0]


def test_grid_sizes_by_hand() -> None:
    distance, similarity = np.array([0.1, 0.2, 0.5, 0.5], np.float32), np.array([-1, 0.5, 0.5, 0.9], np.float32)
    sizes = select.grid_sizes(distance, similarity, np.array([0.05, 0.2, 0.5]), np.array([-1, 0.5, 0.8, 1]))
    assert sizes.tolist() == [[0, 0, 0, 0], [1, 2, 2, 2], [1, 3, 3, 4]]


def test_grid_thresholds_are_those_asked_for_or_quantiles() -> None:
    columns = columns_of(np.linspace(0, 1, 101), np.linspace(-1, 1, 101))
    epsilons, ds = select.grid_thresholds(columns, config(grid_epsilon=(0.5, 0.1), grid_d=(0.9, 0.8)))
    assert epsilons.tolist() == pytest.approx([0.1, 0.5])
    assert ds.tolist() == pytest.approx([0.8, 0.9])
    epsilons, ds = select.grid_thresholds(columns, config(epsilon=0.7))
    assert epsilons.tolist() == pytest.approx([0.5, 0.7, 0.9, 0.95, 0.99])
    assert ds.tolist() == pytest.approx([2 * share - 1 for share in select.GRID_SHARES])
    shares = select.grid_sizes(columns.distance, columns.similarity, np.array([2.0]), ds)[0] / 101
    np.testing.assert_allclose(shares, select.GRID_SHARES, atol=0.011)


@pytest.mark.parametrize(
    ("chosen", "scoring"),
    [
        ({"d": 0.9}, {}),
        ({"d": 0.9, "seed": 4}, {}),
        ({"budget": 0.1, "epsilon": 0.3}, {}),
        ({"d": 0.9, "keep": "farthest", "epsilon": 0.3}, {"keep": "farthest", "epsilon": 0.3}),
        ({"d": 0.9, "keep": "random", "seed": 4}, {"keep": "random", "epsilon": 0.9, "seed": 4}),
        ({"d": 0.9, "rule": "greedy"}, {"rule": "greedy", "epsilon": 0.9, "d": 0.9}),
        ({"method": "semdedup", "d": 0.9}, {"keep": "farthest"}),
        ({"method": "semdedup", "d": 0.9, "keep": "nearest"}, {}),
        ({"method": "semdedup", "budget": 9, "keep": "random", "seed": 4}, {"keep": "random", "seed": 4}),
        *[({"method": method, "budget": 0.5, "seed": 4}, {}) for method in BASELINES],
    ],
)
def test_pass_of(chosen: dict[str, Any], scoring: dict[str, Any]) -> None:
    assert select.pass_of(config(**chosen)) == ScoreConfig(run_dir="unused", **scoring)


def test_a_greedy_selection_needs_d() -> None:
    with pytest.raises(ValueError, match="give --d"):
        select.pass_of(config(rule="greedy", budget=0.5))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "give --d or --budget; `select --grid`"),
        ({"method": "semdedup"}, "give --d or --budget"),
        ({"method": "random"}, "method random needs a size: give --budget"),
        ({"method": "prototypes-easy", "d": 0.9}, "method prototypes-easy needs a size: give --budget"),
        ({"method": "random", "d": 0.9, "budget": 0.5}, "d does not apply to random; give --budget alone"),
    ],
)
def test_check_request_refuses(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select.check_request(config(**chosen))


IDS = [f"{number:016x}{0:016x}" for number in range(7)]


@pytest.fixture
def scored_run(tmp_path: Path) -> RunDirectory:
    """Seven files: 4 scored in two parts, an exact copy of frame 1, and two rejected ones."""
    run = RunDirectory(str(tmp_path))
    frames = [
        {"frame_id": IDS[row], "source": "s", "uri": "u", "path": "p", "content_hash": "h", "byte_size": 1}
        | {"copy_of": IDS[1] if row == 4 else None}
        for row in range(5)
    ]
    run.write_table("frames/part-000000.parquet", pa.Table.from_pylist(frames, schema.FRAMES))
    for row, step in ((5, "ingest"), (6, "embed")):
        rejected = [dict.fromkeys(schema.REJECTED.names, "x") | {"frame_id": IDS[row], "step": step}]
        run.write_table(f"rejected/{step}-000000.parquet", pa.Table.from_pylist(rejected, schema.REJECTED))
    scores = [
        [(IDS[2], 0, 0.1, -1.0, None), (IDS[0], 0, 0.2, 0.98, IDS[2])],
        [(IDS[3], 1, 0.3, -1.0, None), (IDS[1], 1, 0.95, 0.5, IDS[3])],
    ]
    files = [
        run.write_table(
            f"scores/part-{number:06d}.parquet",
            pa.Table.from_pylist([dict(zip(schema.SCORES.names, row, strict=True)) for row in rows], schema.SCORES),
        )
        for number, rows in enumerate(scores)
    ]
    unused = IngestConfig(run_dir=str(tmp_path), source=("s",))
    Step(run, "ingest", "frames", unused, {}).finish({"rows_in": 7}, [])
    Step(run, "embed", "embeddings", unused, {}).finish({"rows_out": 4, "copies": 1}, [])
    Step(run, "score", "scores", unused, {}).finish({}, files)
    return run


def decided(run: RunDirectory, **values: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    marker = select.select(SelectConfig(run_dir=run.uri, name="x", **values))
    table = run.read_table("subsets/x/decisions.parquet")
    assert table.schema == schema.DECISIONS
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(rows) == len({row[0] for row in rows}) == 7
    return marker, {row[0]: row[1:] for row in rows}


def test_select_names_a_reason_for_every_frame(scored_run: RunDirectory) -> None:
    marker, rows = decided(scored_run, d=0.9)
    near = pytest.approx
    assert rows[IDS[2]] == (True, "kept", None, None, near(0.1), 0)
    assert rows[IDS[0]] == (False, "duplicate", IDS[2], near(0.98), near(0.2), 0)
    assert rows[IDS[3]] == (True, "kept", None, None, near(0.3), 1)
    assert rows[IDS[1]] == (False, "outlier", None, None, near(0.95), 1)
    assert rows[IDS[4]] == (False, "exact copy", IDS[1], 1.0, None, None)
    assert rows[IDS[5]] == rows[IDS[6]] == (False, "rejected", None, None, None, None)
    subset = scored_run.read_json("subsets/x/subset.json")
    assert (subset["pool"], subset["kept"], subset["ratio"], subset["effective_d"]) == (5, 2, 0.4, None)
    assert subset["counts"] == {
        "kept": 2,
        "outlier": 1,
        "duplicate": 1,
        "exact copy": 1,
        "over budget": 0,
        "rejected": 2,
    }
    assert (marker["rows_in"], marker["rows_out"], marker["rejected"], marker["copies"]) == (7, 2, 2, 1)


def test_select_by_budget_names_what_a_frame_gave_way_to(scored_run: RunDirectory) -> None:
    _, rows = decided(scored_run, budget=0.4, epsilon=2.0)
    assert [rows[IDS[row]][1] for row in range(4)] == ["over budget", "over budget", "kept", "kept"]
    assert rows[IDS[0]][2:4] == (IDS[2], pytest.approx(0.98))
    assert rows[IDS[1]][2:4] == (IDS[3], pytest.approx(0.5))
    subset = scored_run.read_json("subsets/x/subset.json")
    assert (subset["kept"], subset["effective_d"]) == (2, -1.0)


def test_select_again_reuses_and_refuses_other_settings(scored_run: RunDirectory) -> None:
    first, _ = decided(scored_run, d=0.9)
    before = scored_run.read_bytes("subsets/x/decisions.parquet")
    again, _ = decided(scored_run, d=0.9)
    assert again == first | {"reused": True}
    with pytest.raises(ValueError, match=r"d was 0\.9, now 0\.8"):
        decided(scored_run, d=0.8)
    assert scored_run.read_bytes("subsets/x/decisions.parquet") == before
    with pytest.raises(ValueError, match=r"scores/farthest_any_epsilon-0.9 is missing .* curation score"):
        select.select(SelectConfig(run_dir=scored_run.uri, d=0.9, keep="farthest"))


def test_columns_and_grid_of_a_run(scored_run: RunDirectory) -> None:
    columns = select.read_columns(scored_run, "scores")
    assert columns.keys.tolist() == keys_of([IDS[2], IDS[0], IDS[3], IDS[1]]).tolist() == [2, 0, 3, 1]
    assert columns.similarity.tolist() == pytest.approx([-1, 0.98, -1, 0.5])
    assert columns.distance.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.95])
    assert columns.cluster.tolist() == [0, 0, 1, 1]
    text = select.grid(SelectConfig(run_dir=scored_run.uri, grid=True, grid_epsilon=(0.15, 2.0), grid_d=(0.4, 0.9)))
    numbers = [line.split() for line in text.splitlines()[2:]]
    assert [(row[0], row[1], row[-2]) for row in (" ".join(line).replace("(", "").split() for line in numbers)] == [
        ("0.1500", "1", "1"),
        ("2.0000", "2", "3"),
    ]
    assert "of 5" in text.splitlines()[0]
