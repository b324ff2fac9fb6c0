"""What a sweep hands to its trials."""

from pathlib import Path

import pytest

from training.augment import Augmentation
from training.checkpoint import located
from training.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.evaluate import EvaluateConfig
from training.mae import MaeConfig
from training.rank import Settings
from training.segment import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.driver import Job
from tune.resources import Shares
from tune.space import SpaceConfig
from tune.sweep import Sweep, job_of


def job(init: str = "scratch") -> Job:
    """What the trials of a sweep share; its output is the folder `out` of the working directory."""
    recipe = Settings(
        PretrainConfig(subset="", output="", init=init),
        ComputeConfig(precision="float32"),
        RecordConfig(),
        LengthConfig(steps=4),
        OptimiserConfig(),
        MaeConfig(encoder="test_vit", image_size=32),
        Augmentation(),
    )
    what = Sweep(
        SweepConfig(run_dir="RUN"),
        SpaceConfig(d=(0.9,)),
        Question(),
        HalvingConfig(),
        EvaluateConfig(output="out", dataset=("generic=polyps",)),
        recipe,
        FinetuneConfig(),
    )
    return job_of(what, Shares(2, 3.0, 0, 1), [])


def test_weights_to_begin_with_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    made = job("weights.safetensors")
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path / "trial")
    assert located(made.recipe.what.init) == str(tmp_path / "weights.safetensors")
    assert made.output == str(tmp_path / "out")
    assert (made.recipe.compute.cpus, made.devices) == (3.0, 1)
