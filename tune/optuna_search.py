"""Optuna as the search of a sweep: its space from the axes, its study kept in the output. It starts no Ray task.

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

from tune.space import Point, SpaceConfig, applied, axes, continuous, counts_frames

GOALS = {  # what is reported of a trial, and whether it is minimised or maximised
    "normdel": (["normdel"], ["max"]),
    "pareto": (["ratio", "miou"], ["min", "max"]),
    "non-inferior": (["ratio", "miou"], ["min", "max"]),
}


def distributions(config: SpaceConfig) -> dict[str, BaseDistribution]:
    """The axes as Optuna knows them: numbers between the lowest and the highest value, other values one of those."""
    made: dict[str, BaseDistribution] = {}
    for name, values in axes(config).items():
        if continuous(name) and min(values) < max(values):
            made[name] = FloatDistribution(min(values), max(values), step=1.0 if counts_frames(name, values) else None)
        else:
            made[name] = CategoricalDistribution(values)
    return made


def point_of(values: Mapping[str, Any]) -> Point:
    """The point that Optuna drew; numbers are rounded, so that names are readable."""
    return applied({name: round(v, 6) if isinstance(v, float) else v for name, v in values.items()})


def open_study(question: str, storage: str, name: str) -> optuna.Study:
    """Return the study of a name in the journal file `storage`: new, or with all trials of earlier calls."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _, mode = GOALS[question]
    directions = [StudyDirection.MINIMIZE if one == "min" else StudyDirection.MAXIMIZE for one in mode]
    journal = JournalStorage(JournalFileBackend(storage))
    return optuna.create_study(storage=journal, study_name=name, directions=directions, load_if_exists=True)


def study(config: SpaceConfig, question: str, storage: str, name: str, seed: int) -> OptunaSearch:
    """Return the search that continues a study (see `open_study`).

    `name` stands for all that a trial's worth depends on. A trial that was under way when an earlier call ended is
    drawn first, and resumes from its checkpoints. The sampler's seed is offset by the number of trials, so that a rerun
    does not repeat its first draws.
    """
    metric, mode = GOALS[question]
    known = open_study(question, storage, name)
    trials = known.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            known.tell(trial.number, state=TrialState.FAIL)
            known.enqueue_trial(trial.params)
    single = len(metric) == 1
    return OptunaSearch(
        distributions(config),
        metric=metric[0] if single else metric,
        mode=mode[0] if single else mode,
        sampler=optuna.samplers.TPESampler(seed=seed + len(trials)),
        study_name=name,
        storage=JournalStorage(JournalFileBackend(storage)),
    )


def spent(known: optuna.Study) -> int:
    """How many draws are over, equal ones too; one that was under way when a call ended counts once it is done."""
    trials = known.get_trials(deepcopy=False)
    own = [one for one in trials if "fixed_params" not in one.system_attrs]
    again = [one for one in trials if "fixed_params" in one.system_attrs]
    over = sum(one.state in (TrialState.COMPLETE, TrialState.FAIL) for one in own)
    return over - sum(one.state in (TrialState.WAITING, TrialState.RUNNING) for one in again)


def drawn_points(known: optuna.Study) -> list[Point]:
    """The points that were drawn and are over, each once: not those under way, or that wait to be drawn again."""
    trials = known.get_trials(deepcopy=False)
    waiting = {point_of(one.system_attrs["fixed_params"]) for one in trials if one.state == TrialState.WAITING}
    waiting |= {point_of(one.params) for one in trials if one.state == TrialState.RUNNING}
    over = (point_of(one.params) for one in trials if one.state in (TrialState.COMPLETE, TrialState.FAIL))
    return [point for point in dict.fromkeys(over) if point not in waiting]
