"""Pre-training on a subset with Ray Train: checks before it, progress during it, and the encoder and card after it."""

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from curation.console import progress
from curation.embeddings.encoder import about
from curation.engine import resources
from curation.engine.accelerators import gpus
from curation.engine.chips import resolve_precision
from curation.engine.connect import connect
from curation.options import changes, digest
from curation.store.directory import RunDirectory
from training.loader.cache import DECODER_CPUS, cache_frames, kept_bytes
from training.loader.subset import Subset, read_subset
from training.methods.mae import pixel_statistics
from training.pretraining import checkpoint, weights
from training.pretraining.checkpoint import halt_folder
from training.pretraining.cost import Cost, flops_per_image
from training.pretraining.loop import Plan, State
from training.pretraining.mailbox import Mailbox
from training.pretraining.plan import plan_of
from training.pretraining.rank import train_rank
from training.pretraining.recipe import RankJob, Recipe

SETTINGS = "settings.json"
REFRESH_S = 1.0
RETRIES = 8  # of a training whose node or rank was lost; nodes that announce their end count apart, without limit
POLL = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}  # Ray Train takes one checkpoint a poll, by default every 2 s
ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}  # a single node is not drained while others continue


def pretrain(settings: Recipe, until: int | None = None) -> dict[str, Any]:
    """Train an encoder on exactly the frames a subset keeps; return its card. A rerun resumes where it stopped.

    With `until`, training halts after that update, and its encoder and card are left in `halt_folder(output, until)`;
    a later call resumes there, and ends bit for bit like a training that never halted.

    Leaves in `output`: encoder.safetensors, card.json, metrics.parquet, checkpoints/, tensorboard/, pictures/, and
    cache/ with the decoded frames.
    ValueError: no such subset, missing frames, weights that do not fit, settings that changed since, an output in use,
    a full disk, a loss that is not finite.
    """
    subset = read_subset(settings.what.subset)
    run = RunDirectory(settings.what.output)
    places: dict[str, Any] = {"subset": RunDirectory(settings.what.subset).address, "output": run.address}
    places["init"] = weights.absolute_init(settings.what.init)
    settings = dataclasses.replace(settings, what=dataclasses.replace(settings.what, **places))
    connect()
    precision = training_precision(run, settings.compute.precision)
    plan = dataclasses.replace(plan_of(settings, subset), precision=precision, until=until)
    side = round(settings.model.image_size * settings.compute.cache_margin)
    method = settings.method()
    if settings.what.init != "scratch":
        print(f"init {settings.what.init}: {about(method.encoder)}", flush=True)
    flops = flops_per_image(method, side)  # what cannot be built is reported before anything starts
    with run.lock():
        record_settings(run, settings, plan, subset.about["digest"])
        checkpoint.prune(run, settings.record.keep_checkpoints)
        if checkpoint.last_update(run) < plan.last:
            frames = cache_frames(subset, run, side, settings.compute.cache_gb)
            run_ranks(
                run, RankJob(settings, plan, frames, ray.remote(Mailbox).options(**resources.beside_driver()).remote())
            )
        state = checkpoint.load(run, plan.last)
        checkpoint.prune(run, settings.record.keep_checkpoints)
        cost = Cost(
            updates=plan.last,
            images_seen=plan.last * settings.length.batch_size,
            frames=len(subset.table),
            flops_per_image=flops,
            device_seconds=state["device_seconds"],
            encoded_bytes=subset.encoded_bytes,
            decoded_bytes=kept_bytes(run),
        )
        card = card_of(settings, plan, subset, cost, state["history"])
        card["statistics"] = dict(zip(("mean", "std"), pixel_statistics(method.encoder), strict=True))
        if plan.last == plan.total:
            run.write_table("metrics.parquet", pa.Table.from_pylist(state["history"]))
        target = run if plan.last == plan.total else RunDirectory(halt_folder(run.address, plan.last))
        weights.export_encoder(encoder_of(state), target, card)
    return card


def training_precision(run: RunDirectory, requested: str) -> str:
    """The precision of a training: for `auto` the one of its first call, on whatever chips, else the best of these."""
    if requested == "auto" and run.exists(SETTINGS):
        return str(run.read_json(SETTINGS)["arithmetic"])
    return resolve_precision(requested, *resources.chips())


def shaping_of(settings: Recipe, plan: Plan) -> dict[str, Any]:
    """All settings that shape the weights, without the data; the precision in use replaces the requested one."""
    return {key: value for key, value in settings.shaping().items() if key != "precision"} | {
        "arithmetic": plan.precision
    }


def record_settings(run: RunDirectory, settings: Recipe, plan: Plan, subset_digest: str) -> None:
    """Record the settings in settings.json; ValueError where the folder holds another training."""
    current = json.loads(json.dumps(shaping_of(settings, plan) | {"subset_digest": subset_digest}))
    if run.exists(SETTINGS):
        found = run.read_json(SETTINGS)
        other = changes(found, current)
        if other:
            raise ValueError(
                f"{run.uri} holds a training with other settings: {'; '.join(other)}. Use the old settings, or "
                "another --output"
            )
    run.write_json(SETTINGS, current)


class InterruptibleTrainer(TorchTrainer):
    """Ray Train's trainer, without its handler of Ctrl-C: it would wait for its controller, and exit with 1."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave the interruption to the command line."""


def run_ranks(run: RunDirectory, job: RankJob) -> None:
    """Run the ranks to the end. ValueError for what the user has to correct."""
    variables = POLL | (ALONE if len(resources.nodes()) == 1 else {})
    os.environ.update({name: value for name, value in variables.items() if name not in os.environ})
    for name in run.names(checkpoint.CHECKPOINTS):  # Ray Train's files of an earlier call: checkpoints are enough
        run.delete(f"{checkpoint.CHECKPOINTS}/{name}")
    trainer = InterruptibleTrainer(
        train_rank,
        train_loop_config={"job": ray.put(job)},  # by reference: Ray Train's controller need not import it
        scaling_config=scaling(job),
        run_config=RunConfig(
            name=checkpoint.CHECKPOINTS,
            storage_path=run.root,
            storage_filesystem=run.filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=job.settings.record.keep_checkpoints),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
    with showing_progress(job):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError:
            if ray.get(job.mailbox.stop_reason.remote()) is None:
                raise
    if reason := ray.get(job.mailbox.stop_reason.remote()):
        raise ValueError(reason)


def scaling(job: RankJob) -> ScalingConfig:
    """The ranks, each with a GPU or an equal share of the CPUs; some are left for decoding if frames are streamed."""
    compute = job.settings.compute
    workers: Any = (compute.min_workers, compute.workers) if compute.min_workers else compute.workers
    if gpus():
        return ScalingConfig(num_workers=workers, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": 1})
    streamed = not (job.frames.files or job.frames.blocks)
    cpus = (compute.cpus or resources.count("CPU")) - (4 * DECODER_CPUS if streamed else 0)
    share = min(max(0.5, cpus / compute.workers), resources.largest("CPU"))
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": int(share) if share >= 1 else share})


@contextmanager
def showing_progress(job: RankJob) -> Iterator[None]:
    """Show the mailbox's last row on a progress line until the block ends."""
    finished = threading.Event()
    done = checkpoint.last_update(RunDirectory(job.settings.what.output))

    def refresh() -> None:
        with progress("pretrain", job.plan.total, "update", done=done) as bar:
            while not finished.wait(REFRESH_S):
                show_row(bar, ray.get(job.mailbox.last_row.remote()))
            show_row(bar, ray.get(job.mailbox.last_row.remote()))

    watcher = threading.Thread(target=refresh, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join(timeout=10)


def show_row(bar: Any, row: dict[str, float]) -> None:
    """Update a progress bar to a row of metrics."""
    if row and row["update"] != bar.n:
        bar.set_postfix_str(progress_line(row), refresh=False)
        bar.update(row["update"] - bar.n)


def progress_line(row: dict[str, float]) -> str:
    """A row of metrics as text of the progress line."""
    return (
        f"loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s, data {row['data_wait_share']:.0%}, "
        f"{row['memory_gb']:.1f} GB"
    )


def encoder_of(state: State) -> dict[str, Any]:
    """The encoder's tensors by timm's names: the moving average if there is one."""
    prefix, tensors = "encoder.", state["model"]
    if "average" in state:
        prefix, tensors = "module.encoder.", state["average"]
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def card_of(
    settings: Recipe, plan: Plan, subset: Subset, cost: Cost, history: list[dict[str, float]]
) -> dict[str, Any]:
    """The model card: data, recipe and cost."""
    about, shaping = subset.about, shaping_of(settings, plan)
    return {
        "data": {
            "subset": about["name"],
            "frames": cost.frames,
            "pool": about["pool"],
            "ratio": about["ratio"],
            "selection": about["config"],
            "counts": about["counts"],
            "digest": about["digest"],
        },
        "recipe": shaping,
        "recipe_hash": digest(shaping),
        "device": resources.device_names(),
        "cost": cost.card(),
        "against_full_pool": cost.saved(about["pool"], about["pool_bytes"], settings.length.reference_epochs),
        "loss": history[-1]["loss"] if history else None,
    }
