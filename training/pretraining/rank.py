"""One rank of Ray Train: the loop with its checkpoints, records and progress. pretrain.py starts it."""

from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import prepare_model
from torch import nn

from curation.embeddings.vectors import limit_threads
from curation.engine import resources
from curation.engine.errors import cause_of
from curation.store.directory import RunDirectory
from training.loader.order import Rank
from training.loader.subset import read_subset
from training.methods.method import NotFiniteError
from training.pretraining import checkpoint
from training.pretraining.log import Log
from training.pretraining.loop import State, train
from training.pretraining.recipe import RankJob


def train_rank(config: dict[str, Any]) -> None:
    """Train as one rank, from the last checkpoint where there is one; `config["job"]` refers to a RankJob.

    What only the user can correct (ValueError, OSError) is reported to the mailbox, so that the ranks that Ray Train
    starts in place of the failed ones return at once.
    """
    job: RankJob = ray.get(config["job"])
    if ray.get(job.mailbox.stop_reason.remote()):
        return
    try:
        train_to_the_end(job)
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, (ValueError, OSError)):
            ray.get(job.mailbox.stop.remote(str(cause)))
        raise


def train_to_the_end(job: RankJob) -> None:
    """Train, record and save checkpoints."""
    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), resources.device())
    if rank.device == "cpu":
        limit_threads(resources.granted_cpus())
    run = RunDirectory(job.settings.what.output)
    source = job.frames.source(read_subset(job.settings.what.subset), gpu=rank.device != "cpu")
    method = job.settings.method()
    job.plan.order(len(source)).check(rank.ranks, even=method.compares_images)
    state = last_state(run)
    log = Log(job, rank, run, state)
    with log:
        saved = log.done
        try:
            for update, metrics, snapshot in train(
                method, source, job.plan, rank, wrapper(rank, job.settings.compute.compile), state
            ):
                log.add(update, metrics)
                if log.due_for_picture(update):
                    log.picture(method, source, update)
                if update % job.settings.record.checkpoint_steps == 0 or update == job.plan.last:
                    log.save_checkpoint(snapshot, last=update == job.plan.last)
                    saved = update
        except NotFiniteError as error:  # the same on every rank
            if log.done > saved:
                log.save_checkpoint(snapshot, last=True)
            ray.get(job.mailbox.stop.remote(f"{error}. The checkpoint of update {log.done} is from before that"))


def last_state(run: RunDirectory) -> State | None:
    """The state of the newest complete checkpoint: the one Ray Train names after a restart, else the output's."""
    named = ray.train.get_checkpoint()
    updates = [int(named.path.rpartition("-")[2])] if named is not None else checkpoint.whole_updates(run)[-1:]
    return checkpoint.load(run, updates[0]) if updates else None


def wrapper(rank: Rank, compiled: bool) -> Callable[[nn.Module], nn.Module]:
    """How a rank wraps its module: torch.compile if `compiled`, DDP if there are several ranks."""

    def wrap(module: nn.Module) -> nn.Module:
        whole: Any = torch.compile(module) if compiled else module
        return prepare_model(whole) if rank.ranks > 1 else whole

    return wrap
