"""Checkpoints that a training resumes from: written, found, loaded and pruned. It knows no engine.

A checkpoint is OUTPUT/checkpoints/update-00000500/checkpoint.pt, which appears whole or not at all.
"""

import os
import re
import shutil
from pathlib import Path

import torch

from curation.store.directory import RunDirectory
from curation.store.filesystems import below
from training.pretraining.loop import State

CHECKPOINTS, CHECKPOINT = "checkpoints", "checkpoint.pt"


def name_of(update: int) -> str:
    """The folder of the checkpoint after `update` updates, below checkpoints/."""
    return f"update-{update:08d}"


def save(state: State, folder: str) -> None:
    """Write a checkpoint into a local folder, whole or not at all. OSError where the disk is full."""
    target = Path(folder) / CHECKPOINT
    temporary = target.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def upload_checkpoint(folder: str, run: RunDirectory, name: str) -> str:
    """Copy the checkpoint of a local folder to `run`, whole or not at all; return its path there."""
    with (Path(folder) / CHECKPOINT).open("rb") as local, run.create(f"{CHECKPOINTS}/{name}/{CHECKPOINT}") as stream:
        shutil.copyfileobj(local, stream, 16 << 20)
    return f"{run.root}/{CHECKPOINTS}/{name}"


def whole_updates(run: RunDirectory) -> list[int]:
    """Updates with a complete checkpoint, ascending."""
    found = (re.fullmatch(r"update-(\d+)", name) for name in run.folders(CHECKPOINTS))
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if run.exists(f"{CHECKPOINTS}/{name_of(number)}/{CHECKPOINT}")]


def last_update(run: RunDirectory) -> int:
    """The update of the newest complete checkpoint; 0 if there is none."""
    return (whole_updates(run) or [0])[-1]


def load(run: RunDirectory, update: int) -> State:
    """Read the checkpoint after `update` updates."""
    with run.open(f"{CHECKPOINTS}/{name_of(update)}/{CHECKPOINT}") as file:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
        return state


def prune(run: RunDirectory, keep: int) -> None:
    """Delete all checkpoints but the last `keep`, and the rest of incomplete ones."""
    run.clear_temporary(CHECKPOINTS)
    last = {name_of(update) for update in whole_updates(run)[-keep:]}
    for name in run.folders(CHECKPOINTS):
        if re.fullmatch(r"update-\d+", name) and name not in last:
            run.delete_folder(f"{CHECKPOINTS}/{name}")


def halt_folder(output: str, update: int) -> str:
    """The folder for the encoder of a training that halts after an update."""
    return below(output, f"halts/{name_of(update)}")
