"""Thresholds by hand: reasons and grids, the scores that a selection needs, and what cannot be selected."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from curation import schema, select
from curation.config import ScoreConfig, SelectConfig

Columns = Callable[..., select.Columns]
Kept = Callable[..., set[int]]
Selection = Callable[..., SelectConfig]
BASELINES = ("random", "prototypes-hard", "prototypes-easy", "cluster-balanced")


def test_reasons_by_hand(columns_of: Columns, selection: Selection) -> None:
    columns = columns_of([0.1, 0.2, 0.3, 0.95, 0.9], [-1, 0.8, 0.99, 0.99, 0.7])
    reason, effective_d = select.reasons(columns, selection(d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "outlier", "kept"]
    assert effective_d is None
    reason, effective_d = select.reasons(columns, selection(budget=2), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "over budget", "over budget", "outlier", "kept"]
    assert effective_d == pytest.approx(0.7)
    reason, effective_d = select.reasons(columns, selection(budget=2, d=0.75), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "duplicate", "duplicate", "outlier", "kept"]
    reason, _ = select.reasons(columns, selection(method="semdedup", d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "duplicate", "kept"]


def test_a_selection_that_keeps_nothing_is_refused(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    columns = columns_of([0.3, 0.2], [-1, 0.9])
    message = "epsilon 0.1 and d 0.5 keep none of 2 frames; the nearest is 0.2 from its centroid: raise --epsilon"
    with pytest.raises(ValueError, match=re.escape(message)):
        select.reasons(columns, selection(epsilon=0.1, d=0.5), 2)
    with pytest.raises(ValueError, match="keep none of 2 frames"):
        select.reasons(columns, selection(epsilon=0.1, budget=0.5), 2)
    assert kept(columns, selection(epsilon=0.2, d=0.9)) == {1}


def test_thresholds_are_compared_in_float32(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    """0.9 and 0.7 are no float32 numbers: a column that stores them must not exceed them."""
    columns = columns_of([0.9, 0.7], [0.7, 0.9])
    assert kept(columns, selection(epsilon=0.9, d=0.9)) == {0, 1}
    assert kept(columns, selection(epsilon=0.7, d=0.9)) == {1}
    assert kept(columns, selection(epsilon=0.9, d=0.7)) == {0}
    both = np.array([0.7, 0.9])
    assert select.grid_sizes(columns.distance, columns.similarity, both, both).tolist() == [[0, 1], [1, 2]]


def test_grid_sizes_by_hand() -> None:
    distance, similarity = np.array([0.1, 0.2, 0.5, 0.5], np.float32), np.array([-1, 0.5, 0.5, 0.9], np.float32)
    sizes = select.grid_sizes(distance, similarity, np.array([0.05, 0.2, 0.5]), np.array([-1, 0.5, 0.8, 1]))
    assert sizes.tolist() == [[0, 0, 0, 0], [1, 2, 2, 2], [1, 3, 3, 4]]


def test_grid_thresholds_are_those_asked_for_or_quantiles(columns_of: Columns, selection: Selection) -> None:
    columns = columns_of(np.linspace(0, 1, 101), np.linspace(-1, 1, 101))
    epsilons, ds = select.grid_thresholds(columns, selection(grid_epsilon=(0.5, 0.1), grid_d=(0.9, 0.8)))
    assert epsilons.tolist() == pytest.approx([0.1, 0.5])
    assert ds.tolist() == pytest.approx([0.8, 0.9])
    epsilons, ds = select.grid_thresholds(columns, selection(epsilon=0.7))
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
def test_pass_of(selection: Selection, chosen: dict[str, Any], scoring: dict[str, Any]) -> None:
    assert select.pass_of(selection(**chosen)) == ScoreConfig(run_dir="unused", **scoring)


def test_a_greedy_selection_needs_d(selection: Selection) -> None:
    with pytest.raises(ValueError, match="give --d"):
        select.pass_of(selection(rule="greedy", budget=0.5))


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
def test_check_request_refuses(selection: Selection, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select.check_request(selection(**chosen))
