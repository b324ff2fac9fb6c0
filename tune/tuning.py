"""Trials handed to Ray Tune: what one is to it, what it may take, when all end. It knows no configurations.

A trial is a driver function that starts Ray Train runs and evaluation tasks of its own, so it takes no CPU itself.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune as ray_tune

from curation.cli import cause_of
from curation.config import require
from tune.driver import Job, carry_out
from tune.search import point_of
from tune.space import Candidate

HEAD = {"node:__internal_head__": 0.001}  # the driver's place: beside the sweep, on no CPU
COLUMNS = {"ratio": "ratio", "miou": "mIoU", "normdel": "NormDEL", "unit": "rung", "updates": "updates"}
REPORT_S = 30
STATE_S = 3600  # Tune's own notes serve no rerun (records and study do), so they are seldom written


class Limit(ray_tune.Stopper):
    """Ends a sweep when its trials have held `devices` for too long; `spent` and `hours` are device-hours."""

    def __init__(self, hours: float | None, spent: float, devices: int) -> None:
        self.hours, self.spent, self.devices, self.start = hours, spent, devices, time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Whether all are; devices count while trials run, whether busy or not."""
        held = self.devices * (time.monotonic() - self.start) / 3600
        return self.hours is not None and self.spent + held >= self.hours


@dataclass(frozen=True)
class Tuning:
    """How trials are run: `at_once` of them, until `limit`, with other trackers by name."""

    job: Job
    at_once: int
    limit: Limit
    loggers: Sequence[str] = ()


def run_trials(tuning: Tuning, space: dict[str, Any], given: dict[str, Any], **searching: Any) -> list[Any]:
    """Run Ray Tune to the end, or to that of the budget; return its results.

    `given` reaches each trial; `searching` are TuneConfig's scheduler, search_alg and num_samples.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(STATE_S))
    reporter = ray_tune.CLIReporter(
        metric_columns=COLUMNS, parameter_columns=list(space) or None, max_report_frequency=REPORT_S
    )
    trainable = ray_tune.with_parameters(trial, job=tuning.job, **given)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, HEAD),
        param_space=space,
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=tuning.at_once, **searching),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=tuning.job.output,
            stop=tuning.limit,
            progress_reporter=reporter,
            verbose=1,
            callbacks=callbacks(tuning.loggers),
        ),
    )
    found = tuner.fit()
    return [found[place] for place in range(len(found))]


def trial(
    config: dict[str, Any], job: Job, candidates: Mapping[str, Candidate] | None = None, chooser: Any = None
) -> None:
    """Carry out one trial of Ray Tune: of a named candidate, or of one that Optuna drew."""
    if candidates is not None:
        candidate = candidates[config["name"]]
    else:
        candidate = ray.get(chooser.candidate.remote(point_of(config)))
        require(bool(candidate.folder), candidate.reason)
    carry_out(job, candidate, ray_tune.report)


def reason_of(error: BaseException) -> str:
    """What a trial failed of, in a line."""
    cause = cause_of(error)
    lines = str(cause).strip().splitlines()
    return lines[-1] if lines else type(cause).__name__


def callbacks(names: Sequence[str]) -> list[Any]:
    """Ray Tune's own callbacks for other trackers; TensorBoard's is always on."""
    made: list[Any] = []
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: PLC0415 - an optional package

        made.append(MLflowLoggerCallback(experiment_name="endosieve"))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback  # noqa: PLC0415 - an optional package

        made.append(WandbLoggerCallback(project="endosieve"))
    return made
