"""Thresholds by hand: reasons and grids, the scores that a selection needs, and what cannot be selected."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curation.options import hashed_fields
from curation.scores.config import ScoreConfig
from curation.store import schema
from curation.subsets import grid, rules, scored
from curation.subsets.config import SelectConfig

Columns = Callable[..., scored.Columns]
Kept = Callable[..., set[int]]
Selection = Callable[..., SelectConfig]
BASELINES = ("random", "prototypes-hard", "prototypes-easy", "cluster-balanced")


def test_reasons_by_hand(columns_of: Columns, selection: Selection) -> None:
    columns = columns_of([0.1, 0.2, 0.3, 0.95, 0.9], [-1, 0.8, 0.99, 0.99, 0.7])
    reason, effective_d = rules.reasons(columns, selection(d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "outlier", "kept"]
    assert effective_d is None
    reason, effective_d = rules.reasons(columns, selection(budget=2), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "over budget", "over budget", "outlier", "kept"]
    assert effective_d == pytest.approx(0.7)
    reason, effective_d = rules.reasons(columns, selection(budget=2, d=0.75), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "duplicate", "duplicate", "outlier", "kept"]
    reason, _ = rules.reasons(columns, selection(method="semdedup", d=0.8), 5)
    assert [schema.REASONS[code] for code in reason] == ["kept", "kept", "duplicate", "duplicate", "kept"]


def test_a_selection_that_keeps_nothing_is_refused(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    columns = columns_of([0.3, 0.2], [-1, 0.9])
    message = "epsilon 0.1 and d 0.5 keep none of 2 frames; the nearest is 0.2 from its centroid: raise --epsilon"
    with pytest.raises(ValueError, match=re.escape(message)):
        rules.reasons(columns, selection(epsilon=0.1, d=0.5), 2)
    with pytest.raises(ValueError, match="keep none of 2 frames"):
        rules.reasons(columns, selection(epsilon=0.1, budget=0.5), 2)
    assert kept(columns, selection(epsilon=0.2, d=0.9)) == {1}


def test_thresholds_are_compared_in_float32(columns_of: Columns, kept: Kept, selection: Selection) -> None:
    """0.9 and 0.7 are no float32 numbers: a column that stores them must not exceed them."""
    columns = columns_of([0.9, 0.7], [0.7, 0.9])
    assert kept(columns, selection(epsilon=0.9, d=0.9)) == {0, 1}
    assert kept(columns, selection(epsilon=0.7, d=0.9)) == {1}
    assert kept(columns, selection(epsilon=0.9, d=0.7)) == {0}
    both = np.array([0.7, 0.9])
    assert grid.grid_sizes(columns.distance, columns.similarity, both, both).tolist() == [[0, 1], [1, 2]]


def test_grid_sizes_by_hand() -> None:
    distance, similarity = np.array([0.1, 0.2, 0.5, 0.5], np.float32), np.array([-1, 0.5, 0.5, 0.9], np.float32)
    sizes = grid.grid_sizes(distance, similarity, np.array([0.05, 0.2, 0.5]), np.array([-1, 0.5, 0.8, 1]))
    assert sizes.tolist() == [[0, 0, 0, 0], [1, 2, 2, 2], [1, 3, 3, 4]]


def test_grid_thresholds_are_those_asked_for_or_quantiles(columns_of: Columns, selection: Selection) -> None:
    columns = columns_of(np.linspace(0, 1, 101), np.linspace(-1, 1, 101))
    assert grid.epsilons_of(selection(grid_epsilon=(0.5, 0.1)), columns.distance) == ["0.1", "0.5"]
    assert grid.thresholds((0.9, 0.8), columns.similarity, grid.SHARES) == ["0.8", "0.9"]
    assert grid.epsilons_of(selection(epsilon=0.7), columns.distance) == ["0.5", "0.7", "0.9", "0.95", "0.99"]
    assert grid.epsilons_of(selection(keep="farthest"), columns.distance) == ["0.9"]
    assert grid.epsilons_of(selection(method="semdedup"), columns.distance) == []
    ds = grid.thresholds((), columns.similarity, grid.SHARES)
    assert [float(d) for d in ds] == pytest.approx([2 * share - 1 for share in grid.SHARES], abs=0.03)
    sizes = grid.grid_sizes(columns.distance, columns.similarity, np.array([2.0]), np.array([float(d) for d in ds]))
    np.testing.assert_allclose(sizes[0] / 101, grid.SHARES, atol=0.011)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_a_printed_threshold_keeps_what_its_quantile_keeps(values: list[float], share: float) -> None:
    ordered = np.sort(np.array(values, np.float32))
    quantile = np.float32(np.quantile(ordered, share))
    assume(quantile >= ordered[0])  # else a rounding of the quantile, below them all
    text = grid.rounded(float(quantile), ordered)
    assert (ordered <= np.float32(float(text))).sum() == (ordered <= quantile).sum()
    assert -1 <= float(text) <= 1
    assert np.float32(float(grid.shortest(quantile))) == quantile


def test_printed_thresholds_are_short() -> None:
    ordered = np.array([-0.3, 0.123456, 0.1239, 0.8765432, 0.97], np.float32)
    found = [grid.rounded(float(value), ordered) for value in ordered]
    assert found == ["-0.3", "0.1235", "0.2", "0.9", "1.0"]
    assert grid.ascending((0.9, 0.123456789, -1, 1e-7)) == ["-1", "0.0000001", "0.12345679", "0.9"]


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
    assert rules.pass_of(selection(**chosen)) == ScoreConfig(run_dir="unused", **scoring)


def test_a_greedy_selection_needs_d(selection: Selection) -> None:
    with pytest.raises(ValueError, match="give --d"):
        rules.pass_of(selection(rule="greedy", budget=0.5))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "give --d or --budget; `select --grid`"),
        ({"method": "semdedup"}, "give --d or --budget"),
        ({"method": "random"}, "method random needs a size: give --budget"),
        ({"method": "prototypes-easy", "epsilon": None}, "method prototypes-easy needs a size: give --budget"),
    ],
)
def test_check_request_refuses(selection: Selection, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.check_request(selection(**chosen))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        *[
            ({"method": method, "budget": 0.5} | option, f"{name} does not apply: method {method} compares no frames")
            for method in BASELINES
            for name, option in (
                ("epsilon", {"epsilon": 0.9}),
                ("d", {"d": 0.9}),
                ("keep", {"keep": "nearest"}),
                ("rule", {"rule": "any"}),
                ("grid_d", {"grid_d": (0.9,)}),
            )
        ],
        ({"method": "random", "grid": True}, "grid does not apply: method random compares no frames"),
        ({"method": "semdedup", "epsilon": 0.9, "d": 0.9}, "epsilon does not apply: method semdedup has no epsilon"),
        ({"method": "semdedup", "rule": "any", "d": 0.9}, "rule does not apply: method semdedup compares"),
        ({"method": "semdedup", "grid": True, "grid_epsilon": (0.9,)}, "grid_epsilon does not apply: method semdedup"),
        ({"grid": True, "name": "tenth"}, "name does not apply: --grid selects nothing"),
        ({"grid": True, "d": 0.9}, "d does not apply: --grid selects nothing"),
        ({"grid": True, "budget": 0.9}, "budget does not apply: --grid selects nothing"),
        ({"grid_d": (0.9,), "d": 0.9}, "d does not apply: a grid is for choosing thresholds"),
        ({"grid_epsilon": (0.9,), "budget": 5}, "budget does not apply: a grid is for choosing thresholds"),
        ({"grid": True, "grid_epsilon": (0.9,), "epsilon": 0.9}, "epsilon does not apply: the grid has the values"),
        ({"grid": True, "rule": "greedy"}, "rule greedy does not apply: it needs a pass for each"),
        ({"grid": True, "grid_d": (0.9, 1.1)}, "grid_d holds 1.1; it must be between -1 and 1"),
        ({"grid": True, "grid_epsilon": (-0.1,)}, "grid_epsilon holds -0.1; it must be between 0 and 2"),
    ],
)
def test_an_option_without_effect_is_refused(selection: Selection, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        selection(**chosen)


def test_a_default_that_is_given_is_the_same_selection(selection: Selection) -> None:
    open_, given_ = selection(d=0.9), selection(d=0.9, epsilon=0.9, keep="nearest", rule="any")
    assert hashed_fields(open_) == hashed_fields(given_)
    assert hashed_fields(open_)["epsilon"] == 0.9
    assert hashed_fields(selection(method="semdedup", d=0.9))["keep"] == "farthest"
    assert hashed_fields(selection(method="semdedup", d=0.9))["epsilon"] is None
    assert hashed_fields(selection(method="random", budget=9))["rule"] is None


@pytest.mark.parametrize(
    ("chosen", "folders"),
    [
        ({}, ["scores"]),
        ({"grid_epsilon": (0.1, 0.2)}, ["scores"]),
        ({"keep": "farthest"}, ["scores/farthest_any_epsilon-0.9"]),
        ({"keep": "random", "grid_epsilon": (0.1, 0.2)}, [f"scores/random_any_epsilon-{e}_seed-0" for e in (0.1, 0.2)]),
        ({"method": "semdedup"}, ["scores/farthest_any"]),
        ({"method": "semdedup", "keep": "nearest"}, ["scores"]),
    ],
)
def test_passes_of_a_grid(selection: Selection, chosen: dict[str, Any], folders: list[str]) -> None:
    assert [scoring.folder for scoring in grid.passes(selection(grid=True, **chosen))] == folders
