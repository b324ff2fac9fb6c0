"""What tests of sweeps share: a small sweep, and when its files were written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from training.evaluation.config import EvaluateConfig
from training.methods.config import Augmentation, MaeConfig
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.settings import SweepSettings
from tune.space import SpaceConfig
from tune.sweep import sweep

TINY = MaeConfig(encoder="test_vit", image_size=32, decoder_depth=1, decoder_width=32, decoder_heads=2)
RECIPE = Recipe(
    PretrainConfig(subset="", output=""),
    ComputeConfig(precision="float32"),
    RecordConfig(picture_steps=0),
    LengthConfig(steps=4, batch_size=8, slice_rows=8),
    OptimiserConfig(),
    TINY,
    Augmentation(),
)
FINETUNE = FinetuneConfig(
    epochs=2,
    batch_size=8,
    image_size=32,
    precision="float32",
    head_cells=8,
    head_width=32,
    patience=0,
    layer_decay=1.0,
    learning_rate=4e-3,
)
GRID: dict[str, Any] = {"epsilon": (0.9,), "d": (0.7, 0.9), "baseline": ("full",)}


@pytest.fixture(scope="session")
def make(local_ray: None, polyps: Path) -> Callable[..., SweepSettings]:
    """make(run_dir, output, space={...}, ...): a small sweep, with changes to some of its configs."""

    def changed(run_dir: Path, output: Path, **changes: dict[str, Any]) -> SweepSettings:
        evaluation: dict[str, Any] = {"seeds": 1, "decoded_size": 48, "test_every": 0}
        return SweepSettings(
            SweepConfig(run_dir=str(run_dir), **changes.get("config", {})),
            SpaceConfig(**GRID | changes.get("space", {})),
            Question(**changes.get("question", {})),
            HalvingConfig(**changes.get("halving", {})),
            EvaluateConfig(output=str(output), dataset=(f"generic={polyps}",), **evaluation),
            RECIPE,
            FINETUNE,
        )

    return changed


@pytest.fixture(scope="session")
def spelled(flags: Callable[..., list[str]]) -> Callable[[SweepSettings], list[str]]:
    """spelled(what): the command line that stands for a sweep."""

    def spell(what: SweepSettings) -> list[str]:
        _, *recipe = vars(what.recipe).values()
        given = flags(what.config, what.space, what.question, what.halving, what.evaluation, *recipe)
        names = ("epochs", "batch_size", "head_cells", "head_width", "patience", "layer_decay", "learning_rate")
        return given + [f"--finetune-{name.replace('_', '-')}={getattr(what.finetune, name)}" for name in names]

    return spell


@pytest.fixture(scope="session")
def stamps() -> Callable[[Path], dict[str, int]]:
    """stamps(output): when every checkpoint, encoder and result below an output was written."""

    def read(output: Path) -> dict[str, int]:
        folders = (output / "pretrain", output / "results", output / "trials")
        files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in files}

    return read


@pytest.fixture(scope="session")
def twice(stamps: Callable[[Path], dict[str, int]]) -> Callable[[SweepSettings], pa.Table]:
    """twice(what): the table of a sweep; the same command again gives it again and writes nothing."""

    def call(what: SweepSettings) -> pa.Table:
        output = Path(what.evaluation.output)
        table = sweep(what)
        before = stamps(output)
        assert sweep(what).equals(table)
        assert stamps(output) == before
        return table

    return call
