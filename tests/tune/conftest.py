"""What tests of a sweep share: all its configs, as small as can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.config import EvaluateConfig
from training.methods.config import Augmentation, MaeConfig
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.settings import SweepSettings
from tune.space import SpaceConfig


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., SweepSettings]:
    """asked(config={...}, space={...}, ...): a sweep over d, with changes to some of its configs."""

    def make(**changes: dict[str, Any]) -> SweepSettings:
        evaluation: dict[str, Any] = {"output": str(tmp_path / "out"), "dataset": ("generic=polyps",), "seeds": 2}
        recipe = Recipe(
            PretrainConfig(subset="", output="", **changes.get("what", {})),
            ComputeConfig(precision="float32"),
            RecordConfig(),
            LengthConfig(steps=4),
            OptimiserConfig(),
            MaeConfig(encoder="test_vit", image_size=32),
            Augmentation(),
        )
        return SweepSettings(
            SweepConfig(run_dir="RUN", **changes.get("config", {})),
            SpaceConfig(**{"d": (0.7, 0.8, 0.9)} | changes.get("space", {})),
            Question(**changes.get("question", {})),
            HalvingConfig(**changes.get("halving", {})),
            EvaluateConfig(**evaluation | changes.get("evaluation", {})),
            recipe,
            FinetuneConfig(),
        )

    return make
