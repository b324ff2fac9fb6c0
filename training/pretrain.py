"""Pre-training on a subset with Ray Train: ranks, checkpoints and restarts around the loop of loop.py."""

import dataclasses
import json
import tempfile
import time
from typing import Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from curation import engine
from curation.config import digest, hashed_fields
from curation.encoder import resolve_precision
from curation.store import RunDirectory
from curation.vectors import limit_threads
from training import checkpoint
from training.cache import cache, cached_frames, read_subset
from training.config import LengthConfig, OptimiserConfig, PretrainConfig
from training.loop import Plan, Rank, train
from training.methods import METHODS
from training.schedule import equal_compute_epochs, total_steps


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a rank needs to know."""

    config: PretrainConfig
    plan: Plan
    model: Any
    augmentation: Any


def pretrain(
    config: PretrainConfig, length: LengthConfig, optimiser: OptimiserConfig, model: Any, augmentation: Any
) -> dict[str, Any]:
    """Train an encoder on exactly the frames a subset keeps; return its card. A rerun goes on where it stopped.

    Leaves in `output`: encoder.safetensors and card.json, metrics.parquet, checkpoints, the cache of decoded frames.
    ValueError: no such subset, frames that have gone, weights that do not fit, settings that changed since, a loss
    that is no number.
    """
    subset = read_subset(config.subset)
    run = RunDirectory(config.output)
    places: dict[str, Any] = {"subset": RunDirectory(config.subset).address, "output": run.address}
    config = dataclasses.replace(config, **places)  # ranks run in other working directories
    frames, pool = len(subset.table), subset.about["pool"]
    epochs = length.epochs
    if length.equal_compute_to is not None:
        epochs = equal_compute_epochs(length.equal_compute_to, frames / pool)
    total = total_steps(frames, length.batch_size, epochs=epochs, steps=length.steps, images_seen=length.images_seen)
    gpus = engine_gpus()
    precision = resolve_precision(config.precision, gpu=gpus > 0)
    plan = Plan(total, config.seed, length, optimiser, precision)
    plan.check(config.workers)
    job = Job(config, plan, model, augmentation)
    method_of(job)  # what cannot be built is told before anything starts
    claim(run, job, subset.about["digest"])
    side = round(model.image_size * config.cache_margin)
    cache(subset, run, side)
    began = time.perf_counter()
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=gpus > 0),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=run.root,
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    result = trainer.fit()
    if result.error is not None:
        raise result.error
    assert result.checkpoint is not None, "training ended without a checkpoint"
    with result.checkpoint.as_directory() as folder:
        state = checkpoint.load(folder)
    run.write_table("metrics.parquet", pa.Table.from_pylist(state["history"]))
    method = method_of(job)
    method.module.load_state_dict(state["model"])
    card = card_of(job, subset.about, frames, state["history"], time.perf_counter() - began)
    checkpoint.export_encoder(method.encoder, run.root, card)
    return card


def engine_gpus() -> int:
    """Connect, and count the cluster's GPUs."""
    engine.connect()
    return engine.count("GPU")


def method_of(job: Job) -> Any:
    """Make the job's method with its first weights."""
    method = METHODS[job.config.method].make(job.model, job.augmentation)
    if job.config.init != "scratch":
        checkpoint.initialise_from(method, job.config.init)
    return method


def settings_of(job: Job) -> dict[str, Any]:
    """All settings that shape the weights, by name."""
    parts = (job.config, job.plan.length, job.plan.optimiser, job.model, job.augmentation)
    return {key: value for part in parts for key, value in hashed_fields(part).items()}


def claim(run: RunDirectory, job: Job, subset_digest: str) -> None:
    """Record the settings in settings.json; ValueError where the folder holds another training."""
    wanted = settings_of(job) | {"subset_digest": subset_digest, "arithmetic": job.plan.precision}
    if run.exists("settings.json"):
        found = run.read_json("settings.json")
        changes = [
            f"{key} was {found.get(key)!r}, now {wanted.get(key)!r}"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != json.loads(json.dumps(wanted.get(key)))
        ]
        if changes:
            raise ValueError(
                f"{run.uri} holds a training with other settings: {'; '.join(changes)}. Use the old settings, or "
                "another --output"
            )
    run.write_json("settings.json", wanted)


def train_rank(given: dict[str, Job]) -> None:
    """Train as one rank of Ray Train, from the last checkpoint where there is one."""
    job = given["job"]
    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), engine.device())
    if rank.device == "cpu":
        limit_threads(engine.granted_cpus())
    frames = cached_frames(read_subset(job.config.subset), job.config.output)
    kept = ray.train.get_checkpoint()
    state, history = None, []
    if kept is not None:
        with kept.as_directory() as folder:
            state = checkpoint.load(folder)
        history = state.pop("history")
    window: list[dict[str, float]] = []
    for update, metrics, snapshot in train(method_of(job), frames, job.plan, rank, wrapper(rank), state):
        window.append(metrics)
        last = update == job.plan.total
        if update % job.config.log_steps == 0 or last:
            history.append(row_of(update, window, job.plan.length.batch_size))
            window = []
            if rank.number == 0:
                print(line_of(history[-1], job.plan.total), flush=True)
        if update % job.config.checkpoint_steps == 0 or last:
            report(rank, snapshot() | {"history": history}, history[-1] if history else {})


def wrapper(rank: Rank) -> Any:
    """How a rank wraps its module: DDP where there are several ranks."""

    def wrap(module: nn.Module) -> nn.Module:
        return prepare_model(module) if rank.ranks > 1 else module

    return wrap


def report(rank: Rank, state: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Hand metrics, and rank 0's checkpoint, to Ray Train."""
    if rank.number > 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(state, folder)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def row_of(update: int, window: list[dict[str, float]], batch: int) -> dict[str, float]:
    """A row of metrics.parquet: means over the updates since the last row."""
    seconds = sum(metrics["seconds"] for metrics in window)
    return {
        "update": update,
        "loss": sum(metrics["loss"] for metrics in window) / len(window),
        "learning_rate": window[-1]["learning_rate"],
        "images_per_second": batch * len(window) / seconds,
        "data_wait_share": sum(metrics["data_s"] for metrics in window) / seconds,
    }


def line_of(row: dict[str, float], total: int) -> str:
    """The progress line of a row."""
    return (
        f"update {row['update']} of {total}: loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s, "
        f"data {row['data_wait_share']:.0%}"
    )


def card_of(
    job: Job, about: dict[str, Any], frames: int, history: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """The model card: data, recipe and cost."""
    images = job.plan.total * job.plan.length.batch_size
    return {
        "data": {
            "subset": about["name"],
            "frames": frames,
            "pool": about["pool"],
            "ratio": about["ratio"],
            "selection": about["config"],
            "digest": about["digest"],
        },
        "recipe": settings_of(job),
        "recipe_hash": digest(settings_of(job)),
        "cost": {"updates": job.plan.total, "images_seen": images, "epochs": images / frames, "seconds": seconds},
        "loss": history[-1]["loss"],
    }
