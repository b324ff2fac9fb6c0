"""Budgets: shares and counts, prototypes and quotas by hand, uniform draws, and the d that a budget comes to."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curation.embeddings.vectors import scramble
from curation.subsets import rules, scored
from curation.subsets.config import SelectConfig

Columns = Callable[..., scored.Columns]
Kept = Callable[..., set[int]]
Selection = Callable[..., SelectConfig]


def test_a_share_is_of_the_pool_and_a_count_of_frames(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    columns = columns_of(np.linspace(0, 0.5, 6), np.linspace(-1, 0.9, 6))
    assert len(kept(columns, selection(budget=0.5), pool=10)) == 5  # 4 of the 10 are exact copies, not scored
    assert len(kept(columns, selection(budget=5), pool=10)) == 5
    assert len(kept(columns, selection(budget=1e-6), pool=10)) == 1
    assert len(kept(columns, selection(budget=0.6), pool=10)) == 6
    with pytest.raises(ValueError, match="asks for 7 frames of the pool of 10, but 6 are left"):
        kept(columns, selection(budget=7), pool=10)
    with pytest.raises(ValueError, match=r"asks for 7 .* a count up to 6, a share up to 0\.6, or 1 for all"):
        kept(columns, selection(budget=0.7), pool=10)
    assert len(kept(columns, selection(budget=0.6), pool=10)) == 6  # the share it named
    assert len(kept(columns, selection(budget=1), pool=10)) == 6
    assert len(kept(columns, selection(budget=1, epsilon=0.2), pool=10)) == 3
    with pytest.raises(ValueError, match=r"asks for 4 .* but 3 are left .* raise --epsilon or --d"):
        kept(columns, selection(budget=4, epsilon=0.2), pool=10)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    first=st.integers(1, 4),
    share=st.floats(0, 1),
    epsilon=st.floats(0.2, 2),
)
def test_effective_d_reproduces_the_subset(
    *,
    columns_of: Columns,
    kept: Kept,
    selection: Selection,
    seed: int,
    rows: int,
    first: int,
    share: float,
    epsilon: float,
) -> None:
    """Where no two similarities are equal, but for the -1 of the first frame of each cluster."""
    generator = np.random.default_rng(seed)
    distance, similarity = generator.uniform(0, 2, rows + first), generator.permutation(rows) / rows
    columns = columns_of(distance, [*[-1] * first, *similarity])
    inside = columns.distance <= np.float32(epsilon)
    wanted = max(2, int(inside[:first].sum()), round(share * inside.sum()))
    assume(wanted <= inside.sum())
    chosen = selection(epsilon=epsilon, budget=wanted)
    _, effective_d = rules.reasons(columns, chosen, rows + first)
    assert len(kept(columns, chosen)) == wanted
    assert kept(columns, selection(epsilon=epsilon, d=effective_d)) == kept(columns, chosen)


def test_prototypes_by_hand(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    columns = columns_of([0.3, 0.1, 0.2, 0.3], [0, 0, 0, 0], keys=[7, 5, 1, 2])
    assert kept(columns, selection(method="prototypes-hard", budget=2)) == {0, 3}
    assert kept(columns, selection(method="prototypes-hard", budget=3)) == {0, 2, 3}
    assert kept(columns, selection(method="prototypes-easy", budget=2)) == {1, 2}
    assert kept(columns, selection(method="prototypes-easy", budget=3)) == {1, 2, 3}  # of equals the lower key


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 80), share=st.floats(0.02, 1), draw=st.integers(0, 5))
def test_cluster_balanced_fills_every_cluster_alike(
    *, columns_of: Columns, kept: Kept, selection: Selection, seed: int, rows: int, share: float, draw: int
) -> None:
    """Quotas by pouring: a frame at a time to the clusters with fewest so far that have any left."""
    generator = np.random.default_rng(seed)
    cluster = generator.choice([0, 2, 3, 9], p=[0.7, 0.2, 0.07, 0.03], size=rows)
    columns = columns_of(np.zeros(rows), np.zeros(rows), cluster, generator.permutation(rows))
    wanted = max(2, round(share * rows))
    subset = kept(columns, selection(method="cluster-balanced", budget=wanted, seed=draw))
    sizes = {int(number): int((cluster == number).sum()) for number in set(cluster.tolist())}
    taken = {number: int((cluster[list(subset)] == number).sum()) for number in sizes}
    assert sum(taken.values()) == wanted
    most = max(taken.values())
    assert all(count >= most - 1 or count == sizes[number] for number, count in taken.items())
    drawn = scramble(columns.keys, draw, "cluster-balanced")
    for number in sizes:  # inside a cluster: the first in the seeded order
        members = np.flatnonzero(cluster == number)
        first = members[np.argsort(drawn[members])][: taken[number]]
        assert set(first.tolist()) == {row for row in subset if cluster[row] == number}


@pytest.mark.parametrize("method", ["random", "cluster-balanced"])
def test_random_choices_are_uniform_nested_and_told_by_key_and_seed(
    columns_of: Columns, kept: Kept, selection: Selection, method: str
) -> None:
    rows, wanted, seeds = 40, 10, 600
    columns = columns_of(np.linspace(0, 1, rows), np.linspace(-1, 1, rows), [0, 1] * (rows // 2))
    chosen = [kept(columns, selection(method=method, budget=wanted, seed=seed)) for seed in range(seeds)]
    times = np.bincount([row for subset in chosen for row in subset], minlength=rows)
    # variance of a count is seeds * 1/4 * 3/4; with 39 degrees of freedom, one in a thousand
    assert ((times - seeds / 4) ** 2).sum() / (seeds * 3 / 16) < 72.1
    assert chosen[0] < kept(columns, selection(method=method, budget=wanted + 7, seed=0))
    order = np.random.default_rng(1).permutation(rows)
    shuffled = scored.Columns(
        *(getattr(columns, name)[order] for name in ("distance", "similarity", "cluster", "keys"))
    )
    assert {int(order[row]) for row in kept(shuffled, selection(method=method, budget=wanted, seed=0))} == chosen[0]


def test_rank_in_cluster_by_hand() -> None:
    cluster, drawn = np.array([4, 0, 4, 4, 0], np.int32), np.array([30, 5, 10, 20, 1], np.uint64)
    assert rules.rank_in_cluster(cluster, drawn).tolist() == [2, 1, 0, 1, 0]
