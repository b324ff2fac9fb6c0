"""Trials run by Ray Tune: their resources, their records, and when all end. It is independent of configurations.

A trial is a driver function that starts Ray Train runs and evaluation tasks of its own, so it takes no CPU itself.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import cloudpickle
from ray import tune as ray_tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback, TBXLoggerCallback
from ray.tune.schedulers import ASHAScheduler

from curation.engine.errors import cause_of
from curation.store.directory import RunDirectory
from tune import placement
from tune.config import HalvingConfig
from tune.results import REPORTED

HEAD = {"node:__internal_head__": 0.001}  # the driver runs on the sweep's node and takes no CPU
REPORT_COLUMNS = {"ratio": "ratio", "miou": "mIoU", "standard_error": "s.e.", "normdel": "NormDEL"}
REPORT_COLUMNS |= {"unit": "rung", "updates": "updates"}
REPORT_S = 30
HELD_FILE, KEPT_S = "held.json", 5.0  # where device-hours are kept, and how often they are written
RAY_LOGGERS: tuple[Any, ...] = (CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback)
STATE_S = 3600  # Tune's own notes serve no rerun (records and study do), so they are seldom written

Note = Callable[[Mapping[str, Any], Sequence[dict[str, Any]], str], None]


class Budget(ray_tune.Stopper):
    """Ends a sweep when its trials have held devices for too long; `hours` are device-hours, None for no end.

    Each trial holds `devices` while it runs, whether they are busy or not. What all calls of one output held is kept in
    a file there.
    """

    def __init__(self, hours: float | None, devices: int, output: RunDirectory) -> None:
        self.hours, self.devices, self.output = hours, devices, output
        self.before: float = output.read_json(HELD_FILE)["device_hours"] if output.exists(HELD_FILE) else 0.0
        self.running = 0
        self.since = self.kept = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Whether to stop all trials; Ray Tune calls this several times a second."""
        if time.monotonic() - self.kept >= KEPT_S:
            self.keep()
        return self.spent

    @property
    def spent(self) -> bool:
        """Whether the budget is spent."""
        return self.hours is not None and self.held >= self.hours

    @property
    def held(self) -> float:
        """Device-hours held in this call and all before it."""
        return self.before + self.running * self.devices * (time.monotonic() - self.since) / 3600

    def change(self, running: int) -> None:
        """Count this many running trials from now on."""
        self.before, self.since, self.running = self.held, time.monotonic(), running

    def keep(self) -> None:
        """Write the device-hours to the output."""
        self.kept = time.monotonic()
        self.output.write_json(HELD_FILE, {"device_hours": self.held})


class TrialEnds(ray_tune.Callback):
    """Passes each trial that ends to `note`: its config, reports, and why it failed, or "". Not those the budget ends.

    `limit` gets the number of running trials, `loggers` the end of those that the budget ends.
    """

    def __init__(self, note: Note | None, limit: Budget | None, loggers: Sequence[LoggerCallback] = ()) -> None:
        self.note, self.limit, self.loggers = note, limit, loggers
        self.reported: dict[str, list[dict[str, Any]]] = {}
        self.running: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type["TrialEnds"], tuple[None, None]]:
        return TrialEnds, (None, None)  # Ray Tune keeps a copy of its settings on disk, which nobody reads

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called when a trial has its process."""
        del iteration, trials, info
        self.running[trial.trial_id] = trial
        self.count()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Collect what was reported."""
        del iteration, trials, info
        self.reported.setdefault(trial.trial_id, []).append({name: result[name] for name in REPORTED if name in result})

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called when a trial returned, or its scheduler stopped it."""
        del iteration, trials, info
        self.trial_ended(trial, "")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called when a trial failed."""
        del iteration, trials, info
        self.trial_ended(trial, failure_in(trial.pickled_error_file, trial.error_file))

    def trial_ended(self, trial: Any, reason: str) -> None:
        """Pass on a trial that ended and no longer holds devices."""
        assert self.note is not None
        self.running.pop(trial.trial_id, None)
        self.count()
        self.note(trial.config, self.reported.pop(trial.trial_id, []), reason)

    def count(self) -> None:
        """Pass the number of running trials to the budget."""
        assert self.limit is not None
        self.limit.change(len(self.running))

    def on_experiment_end(self, trials: Any, **info: Any) -> None:
        """Called before the loggers; W&B's would wait half an hour for a trial whose end was not reported to it."""
        del trials, info
        self.stop()

    def stop(self) -> None:
        """Close what loggers hold open for trials that the budget ended: Ray Tune does not report their end."""
        for trial in self.running.values():
            for logger in self.loggers:
                logger.on_trial_error(0, [], trial)
        self.running = {}
        self.count()


@dataclass(frozen=True)
class Tuning:
    """How trials are run: `at_once` of them, until `limit`, with records below `output` and other trackers by name.

    `note` is called with each trial that ended.
    """

    output: str
    at_once: int
    limit: Budget
    note: Note
    loggers: tuple[str, ...] = ()


def run_trials(tuning: Tuning, work: Any, space: dict[str, Any], **searching: Any) -> None:
    """Run Ray Tune over `space` to the end, or until the budget is spent.

    `work` is a trial's driver function, which takes no CPU itself; `searching` are TuneConfig's scheduler, search_alg
    and num_samples.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(STATE_S))
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # else an interrupted search continues with the baselines
    reporter = ray_tune.CLIReporter(
        metric_columns=REPORT_COLUMNS, max_report_frequency=REPORT_S, print_intermediate_tables=True
    )
    loggers = callbacks(tuning.loggers)
    ends = TrialEnds(tuning.note, tuning.limit, loggers)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(work, HEAD),
        param_space=space,
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=tuning.at_once, reuse_actors=True, **searching),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=tuning.output,
            stop=tuning.limit,
            progress_reporter=reporter,
            verbose=1,
            callbacks=[ends, *loggers],
        ),
    )
    groups = placement.placement_groups()
    try:
        tuner.fit()
    finally:
        ends.stop()  # where fit() raised, the end was not reported
        tuning.limit.keep()
    if tuning.limit.spent:  # Ray Tune killed the trials, not what their trainings hold
        placement.free_placement_groups(groups)


def halving_scheduler(config: HalvingConfig, reported: Mapping[str, Sequence[Mapping[str, Any]]]) -> ASHAScheduler:
    """Return ASHA (arXiv 1810.05934), which has seen what trials of earlier calls reported at their rungs, by name.

    It compares a trial with those that reached its rung before it, so what it saves depends on their order: with
    falling NormDEL it stops most, with rising NormDEL nothing. Hence trials must be passed in shuffled order.
    """
    top, factor = config.units, config.halving
    scheduler = ASHAScheduler("unit", "normdel", "max", grace_period=1, max_t=top, reduction_factor=factor)
    controller: Any = None  # ASHA does not use it
    for name, rungs in reported.items():
        past: Any = SimpleNamespace(trial_id=f"past {name}")
        scheduler.on_trial_add(controller, past)
        for result in rungs:
            scheduler.on_trial_result(controller, past, dict(result))
    return scheduler


def failure_in(pickled: str | None, text: str | None) -> str:
    """Why a trial failed, from the files that Ray Tune left of its error: the error itself, or its text."""
    if pickled is not None and Path(pickled).exists():
        return failure_line(cloudpickle.loads(Path(pickled).read_bytes()))
    lines = Path(text).read_text().strip().splitlines() if text is not None and Path(text).exists() else []
    return lines[-1] if lines else "it failed without a reason"


def failure_line(error: BaseException) -> str:
    """Why a trial failed, in a line."""
    cause = cause_of(error)
    lines = str(cause).strip().splitlines()
    return lines[-1] if lines else type(cause).__name__


def callbacks(names: Sequence[str]) -> list[LoggerCallback]:
    """Ray Tune's own loggers, TensorBoard's among them, which are always on, and those of other trackers."""
    made: list[LoggerCallback] = [logger() for logger in RAY_LOGGERS]
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: PLC0415 - an optional package

        made.append(MLflowLoggerCallback(experiment_name="endosieve"))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback  # noqa: PLC0415 - an optional package

        made.append(WandbLoggerCallback(project="endosieve"))
    return made
