"""Rows and pictures in TensorBoard's files, MLflow and Weights & Biases, before and after a restart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curation.store.directory import RunDirectory
from training.pretraining.trackers import PICTURE_GAP, Trackers, stacked


def row(update: int, loss: float) -> dict[str, float]:
    return {"update": update, "loss": loss}


def scalars(folder: Path) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars("loss")]


def test_a_restart_goes_on_behind_its_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with Trackers(run, (), {}, 0) as records:
        for update, loss in ((1, 4.0), (2, 3.0), (3, 9.0)):
            records.row(row(update, loss))
    with Trackers(run, (), {}, 2) as records:
        records.row(row(3, 2.0))
    assert scalars(tmp_path / "tensorboard") == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_pictures_stand_one_below_the_other(tmp_path: Path) -> None:
    panels = torch.stack([torch.full((3, 5, 8), value, dtype=torch.uint8) for value in (10, 20)])
    sheet = stacked(panels)
    assert sheet.shape == (3, 5 + PICTURE_GAP + 5, 8)
    assert sheet[0, :, 0].tolist() == [10] * 5 + [255] * PICTURE_GAP + [20] * 5
    with Trackers(RunDirectory(str(tmp_path)), (), {}, 0) as records:
        records.picture(panels, 7)
    shown = np.asarray(Image.open(tmp_path / "pictures" / "update-00000007.png"))
    assert np.array_equal(shown, sheet.permute(1, 2, 0).numpy())


def test_an_output_in_object_storage_gets_its_files_when_published() -> None:
    run = RunDirectory("memory://records")
    with Trackers(run, (), {}, 0) as records:
        records.row(row(1, 4.0))
    [name] = run.names("tensorboard")
    assert "tfevents" in name
    assert len(run.read_bytes(f"tensorboard/{name}")) > 50


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the smallest of MLflow's stores
    mlflow.set_tracking_uri(tmp_path.as_uri() + "/mlruns")
    yield tmp_path
    mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend.*:FutureWarning")
def test_mlflow_has_one_run_an_output(store: Path) -> None:
    output = RunDirectory(str(store / "output"))
    for start in (0, 2):
        with Trackers(output, ("mlflow",), {"steps": 4}, start) as records:
            records.row(row(start + 1, 4.0 - start))
            records.row(row(start + 2, 3.0 - start))
    client = mlflow.MlflowClient()
    experiment: Any = client.get_experiment_by_name("endosieve")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"steps": "4"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]


def test_wandb_keeps_one_run_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    output = RunDirectory(str(tmp_path))
    for start in (0, 2):
        with Trackers(output, ("wandb",), {"steps": 4}, start) as records:
            records.row(row(start + 1, 4.0))
    number = output.read_json("wandb.json")["id"]
    written = list((tmp_path / "wandb").rglob(f"run-{number}.wandb"))
    assert written
    assert all(b"loss" in path.read_bytes() for path in written)
