"""Which configurations a sweep tries: the grid by hand, draws, names, and what cannot be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.subsets.config import SelectConfig
from tune.space import Point, SpaceConfig, applied, baselines_of, full_pool, grid_points, listed_points, random_points


def test_the_papers_grid() -> None:
    points = listed_points(SpaceConfig(search="paper"), 0)
    assert [(point.epsilon, point.d) for point in points] == [(0.9, d) for d in (0.7, 0.75, 0.8, 0.85, 0.9)]
    assert points[1].name == "meddel-epsilon0.9-d0.75"
    assert points[1].config("RUN") == SelectConfig(
        run_dir="RUN", name="sweep-meddel-epsilon0.9-d0.75", method="meddel", epsilon=0.9, d=0.75
    )


def test_a_grid_by_hand_drops_what_a_method_does_not_have() -> None:
    config = SpaceConfig(
        select=("meddel", "semdedup", "random"), epsilon=(0.5, 0.9), budget=(0.1, 200), keep=("random",)
    )
    names = [point.name for point in grid_points(config)]
    assert names == [
        "meddel-epsilon0.5-budget0.1-random",
        "meddel-epsilon0.5-budget200-random",
        "meddel-epsilon0.9-budget0.1-random",
        "meddel-epsilon0.9-budget200-random",
        "semdedup-budget0.1-random",
        "semdedup-budget200-random",
        "random-budget0.1",
        "random-budget200",
    ]


def test_equal_points_have_one_name_and_others_have_others() -> None:
    assert applied({"d": 0.9, "rule": "any"}) == applied({"d": 0.9})
    config = SpaceConfig(d=(0.8, 0.9), epsilon=(0.5, 0.9), rule=("any", "greedy"), clusters=(2, 4))
    points = list(grid_points(config))
    assert len(points) == len({point.name for point in points}) == 16
    assert {point.rule for point in points} == {None, "greedy"}
    assert points[-1].name == "meddel-epsilon0.9-d0.9-greedy-k4"


def test_large_counts_keep_all_their_digits_in_the_name() -> None:
    assert Point(select="random", budget=1234567.0).name == "random-budget1234567"


@given(st.integers(0, 1000))
def test_draws_lie_between_the_ends_and_repeat(seed: int) -> None:
    config = SpaceConfig(search="random", epsilon=(0.4, 0.8), d=(0.6, 0.7, 0.9), rule=("any", "greedy"), samples=5)
    points = list(random_points(config, seed))
    assert points == list(random_points(config, seed))
    assert len(points) == 5
    for point in points:
        assert 0.4 <= (point.epsilon or 0) <= 0.8
        assert 0.6 <= (point.d or 0) <= 0.9
        assert point.config("RUN").d == point.d


def test_counts_of_frames_are_drawn_whole() -> None:
    config = SpaceConfig(search="random", select=("random",), budget=(2, 5), samples=60)
    points = list(random_points(config, 0))
    assert {point.budget for point in points} == {2.0, 3.0, 4.0, 5.0}
    assert [point.config("RUN").budget for point in points] == [point.budget for point in points]
    shares = SpaceConfig(search="random", select=("random",), budget=(0.1, 1.0), samples=3)
    assert all(0.1 <= (point.budget or 0) <= 1 for point in random_points(shares, 0))


def test_a_baseline_has_no_name_of_the_search() -> None:
    searched = Point(select="semdedup", budget=200.0)
    [beside_it] = baselines_of(("semdedup",), 200, 0.5)
    assert beside_it.name != searched.name
    assert beside_it.config("RUN").name != searched.config("RUN").name
    assert (beside_it.select, beside_it.budget) == (searched.select, searched.budget)


def test_seeds_draw_differently_and_optuna_lists_nothing() -> None:
    config: dict[str, Any] = {"d": (0.6, 0.9), "samples": 3}
    assert listed_points(SpaceConfig(search="random", **config), 0) != listed_points(
        SpaceConfig(search="random", **config), 1
    )
    assert listed_points(SpaceConfig(search="optuna", **config), 0) == []


def test_baselines() -> None:
    assert [point.name for point in baselines_of(SpaceConfig(d=(0.9,)).baselines, 26, 0.1)] == [
        "baseline-random-budget26",
        "baseline-semdedup-budget26",
    ]
    assert {point.budget for point in baselines_of(("random", "semdedup"), 1, 1 / 368)} == {
        1 / 368
    }  # not 1: that is all
    assert SpaceConfig(d=(0.9,), baseline=("none",)).baselines == ()
    assert SpaceConfig(d=(0.9,), baseline=("full",)).baselines == ("full",)
    whole = full_pool().config("RUN")
    assert (full_pool().name, whole.epsilon, whole.d, whole.budget) == ("full", 2.0, 1.0, None)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "give values of d or of budget, not neither"),
        ({"d": (0.9,), "budget": (0.1,)}, "not both"),
        ({"budget": (1.5,)}, "budget is 1.5"),
        ({"d": (0.9,), "same": 0.0}, "same is 0.0"),
        ({"search": "random", "d": (0.9,), "samples": 0}, "samples is 0"),
        ({"d": (0.9,), "clusters": (0,)}, "clusters holds 0"),
        ({"search": "paper", "d": (0.9,)}, "leave out --epsilon, --d and --budget"),
        ({"search": "paper", "budget": (0.2,)}, "leave out --epsilon, --d and --budget"),
        ({"search": "paper", "epsilon": (0.5,)}, "leave out --epsilon, --d and --budget"),
        ({"search": "random", "budget": (0.5, 200)}, "budget holds 0.5, 200; draws lie between them"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SpaceConfig(**values)
