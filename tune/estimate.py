"""What a sweep will cost, from a timed step of pre-training and of fine-tuning on the machine that will run them."""

import time
from dataclasses import dataclass, replace

import numpy as np
import ray

from curation.embeddings.vectors import limit_threads
from curation.engine import resources
from curation.engine.tasks import arithmetic_task
from curation.store.directory import RunDirectory
from training.datasets.prepared import PreparedSet, load_array, pairs
from training.loader.decoded import DecodedFrames
from training.loader.order import Rank
from training.pretraining.loop import Plan, train
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from training.segmentation.finetune import finetune
from training.segmentation.tokens import load_encoder
from tune.space import Candidate
from tune.trial import SweepJob

UPDATES = 4  # timed; the first is not counted


@dataclass(frozen=True)
class Speed:
    """Seconds of one update of pre-training on all ranks of a trial, and of fine-tuning on one image."""

    update: float
    image: float


def speed(job: SweepJob, candidate: Candidate) -> Speed:
    """Time both on the device of a trial, with made-up frames and some images of the first set."""
    [(settings, plan), *_] = job.planned(candidate)
    cpus = max(1, int(min(settings.compute.cpus, resources.largest("CPU"))))
    one = next(one for one in job.sets if one.parts["train"])
    timed = arithmetic_task(time_steps, "timing", num_cpus=cpus)
    found: Speed = ray.get(timed.remote(settings, plan, RunDirectory(job.output), one, job.finetune))
    return found


def time_steps(settings: Recipe, plan: Plan, run: RunDirectory, one: PreparedSet, finetuning: FinetuneConfig) -> Speed:
    """Time updates and fine-tuning on the device that this task was granted: of one rank's share, on one rank."""
    limit_threads(resources.granted_cpus())
    length, device = plan.length, resources.device()
    slices = max(1, length.batch_size // length.slice_rows // settings.compute.workers)
    share = length.micro_batch or slices * length.slice_rows
    side = round(settings.model.image_size * settings.compute.cache_margin)
    pixels = np.random.default_rng(0).integers(0, 256, (share, side, side, 3), np.uint8)
    frames = DecodedFrames([pixels], [str(number) for number in range(share)])
    short = replace(plan, until=UPDATES, length=replace(length, batch_size=share, micro_batch=0))
    method = settings.method()
    spent = [each["seconds"] for _, each, _ in train(method, frames, short, Rank(device=device), lambda module: module)]
    update = float(np.median(spent[1:] or spent)) * length.batch_size / settings.compute.workers / share
    rows = np.asarray(one.parts["train"])
    shown = load_array(run, f"{one.stem}.masks.npy")[rows].any(axis=(1, 2))
    few = pairs(run, one, rows[shown][: 2 * finetuning.batch_size].tolist())
    encoder = load_encoder("random", finetuning.image_size, settings.model.encoder)
    start = time.perf_counter()
    list(finetune(encoder, few, few, replace(finetuning, epochs=1), device))
    return Speed(update, (time.perf_counter() - start) / len(few.images))


def hours(job: SweepJob, candidate: Candidate, found: Speed) -> float:
    """Predicted device-hours of one trial, evaluation included."""
    passes = job.finetune.passes if job.evaluation.probe == "finetune" else 1
    train_images = sum(len(one.parts["train"]) + len(one.parts["validation"]) for one in job.sets)
    test_images = sum(len(one.parts["test"]) for one in job.sets)
    planned = job.planned(candidate)
    updates = sum(plan.total for _, plan in planned)
    seconds = updates * found.update + len(planned) * (passes * train_images + test_images) * found.image
    return seconds * job.devices / 3600
