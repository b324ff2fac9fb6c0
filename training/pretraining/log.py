"""What a rank records: rows of metrics, pictures and checkpoints."""

import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from curation.store.directory import RunDirectory
from training.loader.order import Rank, slice_generator
from training.methods.method import Method
from training.pretraining import checkpoint
from training.pretraining.loop import State
from training.pretraining.recipe import RankJob
from training.pretraining.trackers import Trackers

PICTURE_SLICE = 2**31  # a slice number that no update has: crops and masks are the same in every picture


class Log:
    """A rank's records: rows of metrics on all ranks, so that any can resume; only rank 0 writes."""

    def __init__(self, job: RankJob, rank: Rank, run: RunDirectory, state: State | None) -> None:
        self.job, self.rank, self.run = job, rank, run
        self.done: int = state["update"] if state else 0
        self.history: list[dict[str, float]] = state.pop("history") if state else []
        self.device_seconds: float = state.pop("device_seconds") if state else 0.0
        self.window: list[dict[str, float]] = state.pop("window") if state else []
        settings, record = job.settings.shaping(), job.settings.record
        self.trackers = Trackers(run, record.logger, settings, self.done) if rank.number == 0 else None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self.trackers is not None:
            self.trackers.__exit__(*error)

    def add(self, update: int, metrics: dict[str, float]) -> None:
        """Record an update; every few, a row."""
        self.done = update
        self.window.append(metrics)
        self.device_seconds += metrics["seconds"] * self.rank.ranks
        if update % self.job.settings.record.log_steps and update != self.job.plan.total:
            return
        row = metrics_row(update, self.window, self.job.plan.length.batch_size)
        self.history.append(row)
        self.window = []
        if self.trackers is not None:
            self.trackers.row(row)
            self.job.mailbox.put_row.remote(row)

    def due_for_picture(self, update: int) -> bool:
        """Whether this rank draws a picture after this update."""
        steps = self.job.settings.record.picture_steps
        return self.trackers is not None and steps > 0 and (update % steps == 0 or update == self.job.plan.total)

    def picture(self, method: Method, source: Any, update: int) -> None:
        """Draw the model's output for the first frames of the first epoch, always with the same crops and masks."""
        assert self.trackers is not None
        count = min(self.job.settings.record.pictures, len(source))
        order = self.job.plan.order(len(source))
        places = iter([(0, number) for number in range(-(-count // order.size))])
        pixels = torch.cat(list(source.images(order, places)))[:count].to(self.rank.device)
        generator = slice_generator(self.job.plan.seed, 0, PICTURE_SLICE)
        method.module.eval()
        self.trackers.picture(method.picture(pixels, generator), update)
        method.module.train()

    def save_checkpoint(self, snapshot: Callable[[], State], *, last: bool) -> None:
        """Save a checkpoint: to local disk here, then uploaded to the output while training continues."""
        metrics = self.history[-1] if self.history else {}
        name, mode = checkpoint.name_of(self.done), CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC
        if self.rank.number > 0:
            ray.train.report(metrics, checkpoint_dir_name=name, checkpoint_upload_mode=mode)
            return
        assert self.trackers is not None
        self.trackers.publish()
        folder = tempfile.mkdtemp()
        own = {"history": self.history, "window": self.window, "device_seconds": self.device_seconds}
        try:
            checkpoint.save(snapshot() | own, folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self.report_failure(name, error)
            raise
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=self.upload,
        )

    def upload(self, local: Checkpoint, name: str) -> Checkpoint:
        """Upload a checkpoint to the output; called by Ray Train, in parallel to the training."""
        try:
            path = checkpoint.upload_checkpoint(local.path, self.run, name)
        except OSError as error:
            self.report_failure(name, error)
            raise
        return Checkpoint(path=path, filesystem=self.run.filesystem)

    def report_failure(self, name: str, error: OSError) -> None:
        """Report to the driver that a checkpoint could not be written, and what to do."""
        reason = f"checkpoint {name} could not be written: {error}. The ones before it are complete; free some space"
        ray.get(self.job.mailbox.stop.remote(f"{reason}, and rerun the same command"))


def metrics_row(update: int, window: list[dict[str, float]], batch: int) -> dict[str, float]:
    """A row of metrics.parquet: means over the updates since the last row; memory in GB, of the rank's process."""
    seconds = sum(metrics["seconds"] for metrics in window)
    return {
        "update": update,
        "loss": float(np.mean([metrics["loss"] for metrics in window])),
        "gradient_norm": float(np.mean([metrics["gradient_norm"] for metrics in window])),
        "learning_rate": window[-1]["learning_rate"],
        "images_per_second": batch * len(window) / seconds,
        "data_wait_share": sum(metrics["data_s"] for metrics in window) / seconds,
        "memory_gb": memory_gb(),
    }


def memory_gb() -> float:
    """The peak memory of this process so far, in GB: the GPU's if it has one."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
