"""Optuna's part: the axes as it knows them, and a study that goes on where an earlier call ended."""

from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from tune.optuna_search import distributions, drawn_points, open_study, point_of, spent, study
from tune.space import Point, SpaceConfig

SPACE = SpaceConfig(search="optuna", epsilon=(0.5, 0.9), d=(0.6, 0.95), rule=("any", "greedy"), samples=4)


def test_numbers_are_spans_and_the_rest_choices() -> None:
    assert distributions(SPACE) == {
        "select": CategoricalDistribution(("meddel",)),
        "epsilon": FloatDistribution(0.5, 0.9),
        "d": FloatDistribution(0.6, 0.95),
        "rule": CategoricalDistribution(("any", "greedy")),
    }
    fixed = distributions(SpaceConfig(search="optuna", budget=(0.2,)))
    assert fixed["budget"] == CategoricalDistribution((0.2,))
    counts = distributions(SpaceConfig(search="optuna", budget=(100, 201)))
    assert counts["budget"] == FloatDistribution(100, 201, step=1.0)
    shares = distributions(SpaceConfig(search="optuna", budget=(0.1, 0.5)))
    assert shares["budget"] == FloatDistribution(0.1, 0.5)


def test_a_draw_is_a_point_with_a_readable_name() -> None:
    drawn = {"select": "meddel", "epsilon": 0.51234567, "d": 0.9, "rule": "any"}
    assert point_of(drawn) == Point(select="meddel", epsilon=0.512346, d=0.9)


def test_a_rerun_begins_with_what_was_under_way_and_does_not_repeat_draws(tmp_path: Path) -> None:
    journal = str(tmp_path / "optuna.log")
    known = open_study("normdel", journal, "one")
    first = study(SPACE, "normdel", journal, "one", 0)
    assert drawn_points(known) == []
    suggested = [first.suggest(name) for name in ("a", "b", "c")]
    first.on_trial_complete("a", {"normdel": 0.6})
    first.on_trial_complete("b", {"normdel": 0.5})
    assert drawn_points(open_study("normdel", journal, "one")) == [point_of(values) for values in suggested[:2]]
    assert spent(known) == 2
    again = study(SPACE, "normdel", journal, "one", 0)
    assert spent(known) == 2
    assert drawn_points(known) == [point_of(values) for values in suggested[:2]]
    assert [trial.state for trial in known.get_trials()] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.WAITING,
    ]
    assert known.best_trial.params == suggested[0]
    assert again.suggest("d") == suggested[2]
    assert drawn_points(known) == [point_of(values) for values in suggested[:2]]  # it is under way again
    assert again.suggest("e") not in suggested
    assert spent(known) == 2
    again.on_trial_complete("d", error=True)
    assert spent(known) == 3
    assert drawn_points(known) == [point_of(values) for values in suggested]
    assert drawn_points(open_study("normdel", journal, "another")) == []


def test_equal_draws_count_each(tmp_path: Path) -> None:
    few = SpaceConfig(search="optuna", select=("random",), budget=(50.0, 51.0), samples=5)
    search = study(few, "normdel", str(tmp_path / "optuna.log"), "few", 0)
    for name in "abcde":
        search.suggest(name)
        search.on_trial_complete(name, {"normdel": 0.5})
    known = open_study("normdel", str(tmp_path / "optuna.log"), "few")
    assert len(drawn_points(known)) <= 2
    assert spent(known) == 5


def test_two_goals(tmp_path: Path) -> None:
    journal = str(tmp_path / "optuna.log")
    known = open_study("pareto", journal, "two")
    search = study(SPACE, "pareto", journal, "two", 0)
    search.suggest("a")
    search.on_trial_complete("a", {"ratio": 0.2, "miou": 0.7})
    assert known.directions == [optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE]
    assert known.best_trials[0].values == [0.2, 0.7]
