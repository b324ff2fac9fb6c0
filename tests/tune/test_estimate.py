"""The predicted cost of a trial, by hand."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from training.segmentation.config import FinetuneConfig
from tune.estimate import Speed, hours
from tune.resources import Shares
from tune.settings import SweepSettings
from tune.space import Candidate, Point
from tune.sweep import job_of
from tune.trial import SweepJob


@pytest.mark.parametrize(("probe", "passes"), [("finetune", FinetuneConfig().passes), ("linear", 1)])
def test_hours_by_hand(
    asked: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch, probe: str, passes: float
) -> None:
    one: Any = SimpleNamespace(parts={"train": range(60), "validation": range(20), "test": range(30)})
    external: Any = SimpleNamespace(parts={"train": (), "validation": (), "test": range(10)})
    job = replace(job_of(asked(evaluation={"probe": probe}), Shares(1, 4.0, 4, 4), []), sets=(one, external))
    three_seeds = [(job.recipe, SimpleNamespace(total=1000))] * 3
    monkeypatch.setattr(SweepJob, "planned", lambda *_: three_seeds)
    found = hours(job, Candidate(Point(d=0.9)), Speed(update=0.5, image=0.01))
    seconds = 3 * 1000 * 0.5 + 3 * (passes * 80 + 40) * 0.01
    assert found == pytest.approx(4 * seconds / 3600)
