"""What a sweep hands to its trials."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.pretraining.weights import absolute_init
from tune.resources import Shares
from tune.settings import SweepSettings
from tune.sweep import job_of


def test_weights_to_begin_with_are_found_from_any_folder(
    asked: Callable[..., SweepSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path)
    what = asked(what={"init": "weights.safetensors"}, evaluation={"output": "out"})
    made = job_of(what, Shares(2, 3.0, 0, 1), [])
    monkeypatch.chdir(tmp_path / "trial")
    assert absolute_init(made.recipe.what.init) == str(tmp_path / "weights.safetensors")
    assert made.output == str(tmp_path / "out")
    assert (made.recipe.compute.cpus, made.devices) == (3.0, 1)
