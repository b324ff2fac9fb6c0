"""One trial: pre-train on a candidate's subset with every seed, evaluate, and keep a record. It does not search.

All of it is kept by the hash of what shapes it (training/evaluation/pretrainings.py and run.py), so a trial that was
killed resumes from its checkpoints, and one that is finished is read from its record.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import tune as ray_tune

from curation.embeddings.encoder import CARD
from curation.engine.accelerators import using
from curation.engine.config import Device
from curation.options import digest, hashed_fields, require
from curation.store.directory import RunDirectory
from training.datasets.prepared import PreparedSet
from training.evaluation.config import EvaluateConfig
from training.evaluation.pretrainings import Planned, delete_cache, pretrain_once, pretrainings
from training.evaluation.run import EvaluationRun, subject_of
from training.evaluation.runs import evaluation_runs, run_all
from training.loader.subset import read_subset
from training.metrics.normdel import normdel
from training.pretraining import checkpoint
from training.pretraining.checkpoint import halt_folder
from training.pretraining.pretrain import pretrain
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from tune.config import HalvingConfig, Question
from tune.optuna_search import point_of
from tune.results import REPORTED, ious_of, ratio_read
from tune.space import Candidate

TRIALS = "trials"
Reported = dict[str, Any]


@dataclass(frozen=True)
class SweepJob:
    """What all trials of a sweep share. `devices` are a trial's GPUs, or 1; `device` is what the sweep was given."""

    output: str
    recipe: Recipe
    evaluation: EvaluateConfig
    finetune: FinetuneConfig
    sets: tuple[PreparedSet, ...]
    halving: HalvingConfig
    question: Question
    devices: int
    device: Device = field(default="auto", compare=False)
    plans: dict[str, list[Planned]] = field(default_factory=dict, compare=False)  # by a subset's folder

    def planned(self, candidate: Candidate) -> list[Planned]:
        """The pre-trainings of a candidate, one per seed, read from its subset once. ValueError for invalid ones."""
        if candidate.folder not in self.plans:
            run, lengths = RunDirectory(self.output), (self.recipe.length,)
            found = pretrainings(run, read_subset(candidate.folder), self.recipe, lengths, self.evaluation.seeds)
            self.plans[candidate.folder] = list(found)
        return self.plans[candidate.folder]

    @property
    def key(self) -> str:
        """The hash of all that shapes a trial's worth, its subset aside."""
        return digest(
            {
                "recipe": self.recipe.shaping(),
                "sets": [[one.fingerprint(rows) for rows in one.parts.values()] for one in self.sets],
                "finetune": hashed_fields(self.finetune),
                "evaluation": [self.evaluation.probe, self.evaluation.test_every, self.evaluation.seeds],
            }
        )

    def path(self, candidate: Candidate) -> str:
        """Path of a candidate's record below the output, by the hash of what is trained; it needs a subset.

        Halving does not shape what a finished trial ends with, so it is not in the hash.
        """
        pretrained = [recipe.what.output.rpartition("/")[2] for recipe, _ in self.planned(candidate)]
        return f"{TRIALS}/{candidate.trained}-{digest([self.key, pretrained])[:16]}.json"

    def record(self, candidate: Candidate) -> Reported | None:
        """The record of a finished trial, if there is one."""
        run, path = RunDirectory(self.output), self.path(candidate)
        return run.read_json(path) if run.exists(path) else None

    def rungs(self, candidate: Candidate, kept: Reported) -> list[Reported]:
        """What the trial of a record, or of an entry of the ledger, reported at its rungs; none if they were others."""
        same = kept.get("halving") == hashed_fields(self.halving)
        return [reported(self, candidate, measured) for measured in kept["halts"]] if same else []


def finished(output: RunDirectory) -> set[str]:
    """Paths of all records below an output."""
    return {f"{TRIALS}/{name}" for name in output.names(TRIALS) if name.endswith(".json")}


def carry_out_trial(job: SweepJob, candidate: Candidate, report: Callable[[Reported], None]) -> Reported:
    """Do a trial, `report` at each rung and at the end, and return its record; a finished one reports its end.

    ValueError, OSError: what the user has to fix.
    """
    run = RunDirectory(job.output)
    with exclusive(f"{run.root}/{TRIALS}/.{candidate.trained}.lock"):
        record = job.record(candidate)
        if record is None:
            recipes = [one.recipe for one in job.planned(candidate)]
            halts = list(report_rungs(job, candidate, report))
            for settings in recipes:
                pretrain_once(settings)
            evaluations = [one for settings in recipes for one in trials_of(job, settings, job.evaluation)]
            table = run_all(run, evaluations)
            record = mean_over_tests(table) | recorded(run, recipes, evaluations)
            record |= {"halts": halts, "halving": hashed_fields(job.halving)}
            run.write_json(job.path(candidate), record)
    report(reported(job, candidate, record | {"unit": job.halving.units}))
    return record


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Wait until no other trial holds `path`: two configurations may be trained as one. All drivers run on one node."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recorded(run: RunDirectory, recipes: list[Recipe], evaluations: list[EvaluationRun]) -> Reported:
    """The record of a finished trial besides what was measured: where its rows are, and what it cost in all calls."""
    costs = [RunDirectory(settings.what.output).read_json(CARD)["cost"] for settings in recipes]
    return {
        "results": [one.results_path for one in evaluations],
        "updates": sum(cost["updates"] for cost in costs),
        "flops": sum(cost["flops"] for cost in costs),
        "pretrain_hours": sum(cost["device_hours"] for cost in costs),
        "evaluate_hours": sum(run.read_json(one.cost_path)["device_hours"] for one in evaluations),
    }


def trial(
    config: dict[str, Any], job: SweepJob, candidates: Mapping[str, Candidate] | None = None, chooser: Any = None
) -> None:
    """Carry out one trial of Ray Tune: of a named candidate, or of one that Optuna drew."""
    if candidates is not None:
        candidate = candidates[config["name"]]
    else:
        candidate = ray.get(chooser.candidate.remote(point_of(config)))
        require(bool(candidate.folder), candidate.reason)
    with using(job.device):
        carry_out_trial(job, candidate, ray_tune.report)


def report_rungs(job: SweepJob, candidate: Candidate, report: Callable[[Reported], None]) -> Iterator[Reported]:
    """Pre-train to each rung but the last, probe the encoders there, `report` and yield what was measured."""
    quick = replace(job.evaluation, probe=job.halving.rung_probe, test_every=0)
    for unit in job.halving.rungs[:-1] if candidate.point.baseline is None else ():
        evaluations: list[EvaluationRun] = []
        updates = 0
        for settings, plan in job.planned(candidate):
            until = max(1, round(plan.total * unit / job.halving.units))
            folder = at_rung(settings, until)
            evaluations += trials_of(job, replace(settings, what=replace(settings.what, output=folder)), quick)
            updates += until
        found = mean_over_tests(run_all(RunDirectory(job.output), evaluations)) | {"unit": unit, "updates": updates}
        report(reported(job, candidate, found))
        yield found


def at_rung(settings: Recipe, until: int) -> str:
    """Pre-train up to an update, unless that was done; return the folder of its encoder.

    Where trainings without this rung went further already, it is trained from scratch next to them. Decoded frames are
    deleted here, since a trial that halving stops cannot do so.
    """
    output = settings.what.output
    while not (done := RunDirectory(halt_folder(output, until)).exists(CARD)):
        if checkpoint.last_update(RunDirectory(output)) <= until:
            break
        output += "-rungs"
    if not done:
        pretrain(replace(settings, what=replace(settings.what, output=output)), until)
        delete_cache(RunDirectory(output))
    return halt_folder(output, until)


def trials_of(job: SweepJob, settings: Recipe, evaluation: EvaluateConfig) -> list[EvaluationRun]:
    """The evaluation of the encoder of one seed, on all sets."""
    seeded = replace(job.finetune, seed=settings.what.seed)
    return evaluation_runs([subject_of(settings.what.output, None)], job.sets, replace(evaluation, seeds=1), seeded)


def mean_over_tests(table: pa.Table) -> Reported:
    """Return mIoU over all images tested, seeds and sets, each alike, and its standard error over seeds (one: None).

    `table` is of training/reporting/results.py.
    """
    miou_S = np.array([np.mean(ious) for ious in ious_of(table)])
    error = float(miou_S.std(ddof=1) / len(miou_S) ** 0.5) if len(miou_S) > 1 else None
    return {"miou": float(miou_S.mean()), "standard_error": error}


def reported(job: SweepJob, candidate: Candidate, found: Mapping[str, Any]) -> Reported:
    """What is reported of a trial to the search and the terminal: mIoU, and NormDEL by the candidate's own ratio."""
    value = float(normdel(found["miou"], ratio_read(candidate, job.question), job.question.alpha))
    known = {name: found[name] for name in REPORTED}
    return known | {"ratio": candidate.ratio, "normdel": value}
