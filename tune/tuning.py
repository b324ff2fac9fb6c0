"""Trials handed to Ray Tune: what one is to it, what it may take, when all end. It knows no configurations.

A trial is a driver function that starts Ray Train runs and evaluation tasks of its own, so it takes no CPU itself.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune as ray_tune

from curation.cli import cause_of

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
    """How trials are run: `at_once` of them, until `limit`, with records below `output` and other trackers by name."""

    output: str
    at_once: int
    limit: Limit
    loggers: tuple[str, ...] = ()


def run_trials(tuning: Tuning, work: Any, space: dict[str, Any], **searching: Any) -> list[Any]:
    """Run Ray Tune over `space` to the end, or to that of the budget; return its results.

    `work` is a trial's driver function, which takes no CPU itself; `searching` are TuneConfig's scheduler, search_alg
    and num_samples.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(STATE_S))
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # else an interrupted search goes on to the baselines
    reporter = ray_tune.CLIReporter(
        metric_columns=COLUMNS, max_report_frequency=REPORT_S, print_intermediate_tables=True
    )
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
            callbacks=callbacks(tuning.loggers),
        ),
    )
    found = tuner.fit()
    return [found[place] for place in range(len(found))]


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
