"""Seeded choices for different purposes are independent: equal seeds do not make them alike."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from curation import seeds
from curation.clusters import seeding
from curation.scores import duplicates
from curation.subsets import scored
from curation.subsets.config import SelectConfig

ROWS, TAKEN = 20_000, 2000


@pytest.mark.parametrize("seed", range(6))
def test_random_subsets_overlap_as_chance_has_it(
    columns_of: Callable[..., scored.Columns],
    keys_for: Callable[..., npt.NDArray[np.uint64]],
    kept: Callable[..., set[int]],
    selection: Callable[..., SelectConfig],
    seed: int,
) -> None:
    """Any two of the sample k-means is seeded from, the baselines' frames, and those first visited at random."""
    keys = keys_for(ROWS)
    columns = columns_of(np.zeros(ROWS), np.zeros(ROWS), keys=keys)
    values: dict[str, Any] = {"budget": TAKEN, "seed": seed}
    chosen = {
        "sample": set(np.flatnonzero(seeding.sample(keys, TAKEN / ROWS, seed)).tolist()),
        "trained on": set(np.flatnonzero(seeding.trained_on(keys, TAKEN / ROWS, seed)).tolist()),
        "random": kept(columns, selection(method="random", **values)),
        "balanced": kept(columns, selection(method="cluster-balanced", **values)),
        "visited": set(duplicates.visiting_order(columns.distance, keys, "random", seed)[:TAKEN].tolist()),
    }
    names = list(chosen)
    for place, name in enumerate(names):
        for other in names[:place]:
            expected = len(chosen[name]) * len(chosen[other]) / ROWS
            spread = (expected * (1 - TAKEN / ROWS) ** 2) ** 0.5  # of the hypergeometric distribution
            assert abs(len(chosen[name] & chosen[other]) - expected) < 4.5 * spread, (name, other)


def test_the_last_round_of_cluster_balanced_favours_no_cluster(
    columns_of: Callable[..., scored.Columns], kept: Callable[..., set[int]], selection: Callable[..., SelectConfig]
) -> None:
    """One frame of two clusters, of 2 and of 98 frames: each is its cluster as often."""
    columns = columns_of(np.zeros(100), np.zeros(100), [0] * 2 + [1] * 98)
    small = 0
    for seed in range(400):
        three = kept(columns, selection(method="cluster-balanced", budget=3, seed=seed))
        small += len(three & {0, 1}) == 2
    assert abs(small - 200) < 4 * 10  # four standard deviations


def test_generators_of_purposes_and_numbers_differ() -> None:
    drawn = {
        seeds.generator(seed, purpose, *numbers).integers(2**62)
        for seed in (0, 1)
        for purpose in ("a", "b")
        for numbers in ((), (1,), (2,))
    }
    assert len(drawn) == 12
    assert seeds.salted(0, "a") == seeds.salted(0, "a") != seeds.salted(0, "b")
    assert 0 <= seeds.salted(2**63 - 1, "a") < 2**63
