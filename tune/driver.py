"""One trial: pre-train on a candidate's subset with every seed, evaluate, and keep a record. It knows no search.

All of it is kept by the hash of what shapes it (training.benchmark, training.trial), so a trial that was killed goes on
from its checkpoints, and one that is finished is read off its record.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import tune as ray_tune

from curation.config import digest, hashed_fields, require
from curation.console import Stopwatch
from curation.store import RunDirectory
from training.benchmark import pretrain_once, pretrainings
from training.evaluate import EvaluateConfig, trials, try_all
from training.normdel import normdel
from training.prepared import PreparedSet
from training.pretrain import halt_folder, plan_of, pretrain
from training.rank import Settings
from training.results import final_rows
from training.segment import FinetuneConfig
from training.subset import read_subset
from training.trial import Trial, subject_of
from tune.config import HalvingConfig, Question
from tune.search import point_of
from tune.space import Candidate

FOLDER = "trials"
Told = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share. `devices` are a trial's GPUs, or 1."""

    output: str
    recipe: Settings
    evaluation: EvaluateConfig
    finetune: FinetuneConfig
    sets: tuple[PreparedSet, ...]
    halving: HalvingConfig
    question: Question
    devices: int

    def planned(self, candidate: Candidate) -> list[Settings]:
        """The pre-trainings of a candidate, one a seed. ValueError for ones that cannot be."""
        run, lengths = RunDirectory(self.output), (self.recipe.length,)
        subset = read_subset(candidate.folder)
        return list(pretrainings(run, subset, self.recipe, lengths, self.evaluation.seeds))

    def path(self, candidate: Candidate) -> str:
        """Where a candidate's record is kept below the output, by the hash of all that shapes it."""
        shaping = {
            "pretrained": [settings.what.output.rpartition("/")[2] for settings in self.planned(candidate)],
            "sets": [[one.mark(rows) for rows in one.parts.values()] for one in self.sets],
            "finetune": hashed_fields(self.finetune),
            "evaluation": [self.evaluation.probe, self.evaluation.test_every],
            "halving": hashed_fields(self.halving) if candidate.point.baseline is None else None,
        }
        return f"{FOLDER}/{candidate.trained}-{digest(shaping)[:16]}.json"

    def record(self, candidate: Candidate) -> Told | None:
        """The record of a finished trial, if there is one."""
        run, path = RunDirectory(self.output), self.path(candidate)
        return run.read_json(path) if run.exists(path) else None


def carry_out(job: Job, candidate: Candidate, tell: Callable[[Told], None]) -> Told:
    """Do a trial, `tell` its progress at each rung and its end, and return its record; a finished one is told again.

    ValueError, OSError: what the user has to mend.
    """
    run = RunDirectory(job.output)
    record = job.record(candidate)
    if record is None:
        planned = job.planned(candidate)
        halts = list(halted(job, candidate, planned, tell))
        for settings in planned:
            pretrain_once(settings)
        watch = Stopwatch()
        wanted = [trial for settings in planned for trial in trials_of(job, settings, job.evaluation)]
        table = try_all(run, wanted)
        cards = [RunDirectory(settings.what.output).read_json("card.json") for settings in planned]
        record = {
            "subset": candidate.trained,
            "results": [trial.path for trial in wanted],
            "miou": mean_iou(table),
            "halts": halts,
            "updates": sum(card["cost"]["updates"] for card in cards),
            "flops": sum(card["cost"]["flops"] for card in cards),
            "pretrain_hours": sum(card["cost"]["device_hours"] for card in cards),
            "evaluate_hours": watch.seconds * job.devices / 3600,
        }
        run.write_json(job.path(candidate), record)
    else:
        for told in record["halts"]:
            tell(told)
    tell(told_of(job, candidate, job.halving.units, record["miou"], record["updates"]))
    return record


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


def halted(job: Job, candidate: Candidate, planned: list[Settings], tell: Callable[[Told], None]) -> Iterator[Told]:
    """Pre-train to each rung but the last, probe the encoders there, and tell and yield it."""
    quick = replace(job.evaluation, probe=job.halving.rung_probe, test_every=0)
    for unit in job.halving.rungs[:-1] if candidate.point.baseline is None else ():
        wanted: list[Trial] = []
        updates = 0
        for settings in planned:
            total = plan_of(settings, read_subset(settings.what.subset)).total
            until = max(1, round(total * unit / job.halving.units))
            folder = halt_folder(settings.what.output, until)
            if not RunDirectory(folder).exists("encoder.safetensors"):
                pretrain(settings, until)
            wanted += trials_of(job, replace(settings, what=replace(settings.what, output=folder)), quick)
            updates += until
        told = told_of(job, candidate, unit, mean_iou(try_all(RunDirectory(job.output), wanted)), updates)
        tell(told)
        yield told


def trials_of(job: Job, settings: Settings, evaluation: EvaluateConfig) -> list[Trial]:
    """The evaluation of the encoder of one seed, on all sets."""
    seeded = replace(job.finetune, seed=settings.what.seed)
    return trials([subject_of(settings.what.output, None)], job.sets, replace(evaluation, seeds=1), seeded)


def mean_iou(table: pa.Table) -> float:
    """Return mIoU over all images tested, seeds and sets, each image alike."""
    final = final_rows(table).to_pylist()
    return float(np.mean(np.concatenate([row["image_iou"] for row in final])))


def told_of(job: Job, candidate: Candidate, unit: int, miou: float, updates: int) -> Told:
    """What the search and the terminal are told of a trial."""
    value = float(normdel(miou, candidate.ratio, job.question.alpha))
    objective = value if job.question.question == "normdel" else miou
    ratio = candidate.ratio
    return {"unit": unit, "ratio": ratio, "miou": miou, "normdel": value, "objective": objective, "updates": updates}
