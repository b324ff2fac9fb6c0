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

STUDY, JOURNAL = "sweep", "optuna.log"
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


def study(config: SpaceConfig, question: str, output: str, seed: int) -> tuple[OptunaSearch, int, optuna.Study]:
    """Return the search, how many of `samples` are left to draw, and the study itself.

    A trial that was under way when an earlier call ended is drawn first, and goes on from its checkpoints. The
    sampler's seed counts on from the trials that there are, so that a rerun does not repeat its first draws.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric, mode = GOALS[question]
    storage = JournalStorage(JournalFileBackend(f"{output}/{JOURNAL}"))
    directions = [StudyDirection.MINIMIZE if one == "min" else StudyDirection.MAXIMIZE for one in mode]
    known = optuna.create_study(storage=storage, study_name=STUDY, directions=directions, load_if_exists=True)
    done = 0
    for trial in known.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING:
            known.tell(trial.number, state=TrialState.FAIL)
            known.enqueue_trial(trial.params, skip_if_exists=False)
        done += trial.state == TrialState.COMPLETE
    sampler = optuna.samplers.TPESampler(seed=seed + len(known.get_trials(deepcopy=False)))
    single = len(metric) == 1
    search = OptunaSearch(
        distributions(config),
        metric=metric[0] if single else metric,
        mode=mode[0] if single else mode,
        sampler=sampler,
        study_name=STUDY,
        storage=storage,
    )
    return search, config.samples - done, known
