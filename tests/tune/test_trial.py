"""What a trial tells, and where its rungs are trained, by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from curation.embeddings.encoder import CARD
from curation.store.directory import RunDirectory
from training.metrics.normdel import normdel
from training.pretraining.checkpoint import halt_folder, last_update, name_of
from training.reporting import results
from tune.resources import Shares
from tune.settings import SweepSettings
from tune.space import Candidate, Point
from tune.sweep import job_of
from tune.trial import at_rung, mean_over_tests, recorded, reported


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Folder and last update of what was pre-trained, each with a checkpoint there, an encoder and its card."""
    made: list[tuple[str, int]] = []

    def pretrain(settings: Any, until: int) -> None:
        run = RunDirectory(settings.what.output)
        assert last_update(run) <= until
        run.write_bytes(f"checkpoints/{name_of(until)}/checkpoint.pt", b"")
        RunDirectory(halt_folder(settings.what.output, until)).write_json(CARD, {})
        made.append((settings.what.output.rpartition("/")[2], until))

    monkeypatch.setattr("tune.trial.pretrain", pretrain)
    return made


def test_a_rung_is_trained_once_and_beside_what_went_further(
    asked: Callable[..., SweepSettings], trained: list[tuple[str, int]], tmp_path: Path
) -> None:
    recipe = asked().recipe
    settings = replace(recipe, what=replace(recipe.what, output=str(tmp_path / "one")))
    for until in (60, 50, 50, 11, 60, 100):
        assert RunDirectory(at_rung(settings, until)).exists(CARD)
    assert trained == [("one", 60), ("one-rungs", 50), ("one-rungs-rungs", 11), ("one", 100)]


def test_a_record_has_the_cost_of_all_calls(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    recipe = SimpleNamespace(what=SimpleNamespace(output=str(tmp_path / "seed")))
    cost = {"updates": 8, "flops": 2.0, "device_hours": 0.5}
    RunDirectory(recipe.what.output).write_json(CARD, {"cost": cost})
    tried = [SimpleNamespace(results_path=f"{name}.parquet", cost_path=f"costs/{name}.json") for name in "ab"]
    for one, hours in zip(tried, (0.25, 0.125), strict=True):
        run.write_json(one.cost_path, {"device_hours": hours})
    assert recorded(run, cast(Any, [recipe, recipe]), cast(Any, tried)) == {
        "results": ["a.parquet", "b.parquet"],
        "updates": 16,
        "flops": 4.0,
        "pretrain_hours": 1.0,
        "evaluate_hours": 0.375,
    }


def test_the_mean_and_its_standard_error_over_seeds(asked: Callable[..., SweepSettings]) -> None:
    place = {"subset": "s", "method": "meddel", "train_dataset": "p", "test_dataset": "p", "epoch": 1, "final": True}
    values = [[0.2, 0.4], [0.4, 0.6], [0.6, 0.8]]  # means 0.3, 0.5, 0.7: standard deviation 0.2
    rows: list[dict[str, Any]] = [
        place | {"seed": seed, "images": 2, "miou": sum(ious) / 2, "image_iou": ious}
        for seed, ious in enumerate(values)
    ]
    found = mean_over_tests(results.as_table(rows))
    assert found == {"miou": pytest.approx(0.5), "standard_error": pytest.approx(0.2 / 3**0.5)}
    assert mean_over_tests(results.as_table(rows[:1])) == {"miou": pytest.approx(0.3), "standard_error": None}
    job = job_of(asked(), Shares(1, 1.0, 0, 1), [])
    told = reported(job, Candidate(Point(d=0.9), 20, 0.2), found | {"unit": 1, "updates": 8, "flops": 1.0})
    assert told == found | {"unit": 1, "updates": 8, "ratio": 0.2, "normdel": pytest.approx(float(normdel(0.5, 0.2)))}
