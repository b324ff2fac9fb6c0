"""Tracking of a training: TensorBoard always, MLflow and Weights & Biases by option, and pictures.

It takes numbers and pixels; it knows neither the loop nor the engine.
"""

import io
import os
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from curation.store.directory import RunDirectory

PICTURE_GAP = 4  # pixels between the frames of a picture
PROJECT = "endosieve"


class Trackers:
    """Writes rows of numbers and pictures by update; a context. After a restart it continues after update `start`."""

    def __init__(self, run: RunDirectory, loggers: Sequence[str], settings: dict[str, Any], start: int) -> None:
        self.run = run
        local = run.filesystem.type_name == "local"
        self.folder = Path(run.root) / "tensorboard" if local else Path(tempfile.mkdtemp())
        self.writer = SummaryWriter(str(self.folder), purge_step=start + 1)
        self.loggers = [TRACKERS[name](run, settings) for name in loggers]

    def row(self, row: dict[str, float]) -> None:
        """Write the numbers of one update, all but its number by their names."""
        numbers = {name: value for name, value in row.items() if name != "update"}
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, int(row["update"]))
        self.writer.flush()
        for logger in self.loggers:
            logger.row(numbers, int(row["update"]))

    def picture(self, panels_BCHW: Tensor, update: int) -> None:
        """Write pictures/update-N.png, the images uint8 [B, 3, H, W] one below the other; and into TensorBoard."""
        sheet_CHW = stacked(panels_BCHW.cpu())
        sink = io.BytesIO()
        Image.fromarray(sheet_CHW.permute(1, 2, 0).numpy()).save(sink, "PNG")
        self.run.write_bytes(f"pictures/update-{update:08d}.png", sink.getvalue())
        self.writer.add_image("pictures", sheet_CHW, update)

    def publish(self) -> None:
        """Copy TensorBoard's files to where the output is, if that is not a local directory."""
        self.writer.flush()
        if self.run.filesystem.type_name != "local":
            for path in self.folder.iterdir():
                self.run.write_bytes(f"tensorboard/{path.name}", path.read_bytes())

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *error: object) -> None:
        self.publish()
        self.writer.close()
        for logger in self.loggers:
            logger.close()


def stacked(panels_BCHW: Tensor) -> Tensor:
    """Put images uint8 [B, 3, H, W] one below the other with a white gap: [3, B (H + GAP) - GAP, W]."""
    padded = torch.nn.functional.pad(panels_BCHW, (0, 0, 0, PICTURE_GAP), value=255)
    return padded.permute(1, 0, 2, 3).flatten(1, 2)[:, :-PICTURE_GAP]


class Mlflow:
    """One MLflow run per output, found again by its name; MLFLOW_TRACKING_URI says where it goes."""

    def __init__(self, run: RunDirectory, settings: dict[str, Any]) -> None:
        import mlflow  # noqa: PLC0415 (an optional dependency)

        self.client: Any = mlflow.MlflowClient()
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        found = self.client.search_runs([number], f"tags.output = '{run.address}'", max_results=1)
        made = found[0] if found else self.client.create_run(number, tags={"output": run.address})
        self.number = made.info.run_id
        if not found:
            for name, value in settings.items():
                self.client.log_param(self.number, name, value)

    def row(self, numbers: dict[str, float], update: int) -> None:
        """Log the numbers of an update."""
        for name, value in numbers.items():
            self.client.log_metric(self.number, name, value, step=update)

    def close(self) -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.number)


class Wandb:
    """One Weights & Biases run per output, continued after a restart; WANDB_MODE and WANDB_PROJECT apply."""

    def __init__(self, run: RunDirectory, settings: dict[str, Any]) -> None:
        import wandb  # noqa: PLC0415 (an optional dependency)

        if not run.exists("wandb.json"):
            run.write_json("wandb.json", {"id": uuid.uuid4().hex})
        place = run.root if run.filesystem.type_name == "local" else tempfile.mkdtemp()
        number = run.read_json("wandb.json")["id"]
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.wandb: Any = wandb
        self.run: Any = wandb.init(project=project, dir=place, id=number, resume="allow", config=settings)

    def row(self, numbers: dict[str, float], update: int) -> None:
        """Log the numbers of an update."""
        self.run.log(numbers, step=update)

    def close(self) -> None:
        """Send what is left, and wait for it: finish() returns before W&B's own process has written its file."""
        self.run.finish()
        self.wandb.teardown()


TRACKERS: dict[str, type[Mlflow] | type[Wandb]] = {"mlflow": Mlflow, "wandb": Wandb}
