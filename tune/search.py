"""Optuna as the search of a sweep: its space from the axes, its study kept in the output. It knows no engine's tasks.

The study is a journal file: a rerun sees all finished trials, and begins with those that were under way.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from tune.space import Point, SpaceConfig, applied, axes, continuous

GOALS = {  # what is reported of a trial, and whether less or more of it is better
    "normdel": (["normdel"], ["max"]),
    "pareto": (["ratio", "miou"], ["min", "max"]),
    "non-inferior": (["ratio", "miou"], ["min", "max"]),
}


def distributions(config: SpaceConfig) -> dict[str, BaseDistribution]:
    """The axes as Optuna knows them: numbers between the lowest and the highest value, other values one of those."""
    made: dict[str, BaseDistribution] = {}
    for name, values in axes(config).items():
        if continuous(name) and min(values) < max(values):
            made[name] = FloatDistribution(min(values), max(values))
        else:
            made[name] = CategoricalDistribution(values)
    return made


def point_of(values: Mapping[str, Any]) -> Point:
    """The point that Optuna drew; numbers are rounded, so that names are readable."""
    return applied({name: round(v, 6) if isinstance(v, float) else v for name, v in values.items()})


def study(config: SpaceConfig, question: str, storage: str, name: str, seed: int) -> tuple[OptunaSearch, optuna.Study]:
    """Return the search, and its study in the journal file `storage`: new, or with all trials of earlier calls.

    `name` stands for all that a trial's worth depends on. A trial that was under way when an earlier call ended is
    drawn first, and goes on from its checkpoints. The sampler's seed counts on from the trials that there are, so that
    a rerun does not repeat its first draws.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric, mode = GOALS[question]
    journal = JournalStorage(JournalFileBackend(storage))
    directions = [StudyDirection.MINIMIZE if one == "min" else StudyDirection.MAXIMIZE for one in mode]
    known = optuna.create_study(storage=journal, study_name=name, directions=directions, load_if_exists=True)
    trials = known.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            known.tell(trial.number, state=TrialState.FAIL)
            known.enqueue_trial(trial.params)
    single = len(metric) == 1
    search = OptunaSearch(
        distributions(config),
        metric=metric[0] if single else metric,
        mode=mode[0] if single else mode,
        sampler=optuna.samplers.TPESampler(seed=seed + len(trials)),
        study_name=name,
        storage=journal,
    )
    return search, known


def drawn(known: optuna.Study) -> list[Point]:
    """The points that were drawn and are over, each once: not those that wait to be drawn again."""
    trials = known.get_trials(deepcopy=False)
    waiting = {point_of(one.system_attrs["fixed_params"]) for one in trials if one.state == TrialState.WAITING}
    over = (point_of(one.params) for one in trials if one.state in (TrialState.COMPLETE, TrialState.FAIL))
    return [point for point in dict.fromkeys(over) if point not in waiting]
