"""What a trial tells, by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from training import results
from training.normdel import normdel
from tune.course import Sweep
from tune.driver import measured, told_of
from tune.resources import Shares
from tune.space import Candidate, Point
from tune.sweep import job_of


def test_the_mean_and_its_standard_error_over_seeds(asked: Callable[..., Sweep]) -> None:
    place = {"subset": "s", "method": "meddel", "train_dataset": "p", "test_dataset": "p", "epoch": 1, "final": True}
    values = [[0.2, 0.4], [0.4, 0.6], [0.6, 0.8]]  # means 0.3, 0.5, 0.7: standard deviation 0.2
    rows: list[dict[str, Any]] = [
        place | {"seed": seed, "images": 2, "miou": sum(ious) / 2, "image_iou": ious}
        for seed, ious in enumerate(values)
    ]
    found = measured(results.table(rows))
    assert found == {"miou": pytest.approx(0.5), "standard_error": pytest.approx(0.2 / 3**0.5)}
    assert measured(results.table(rows[:1])) == {"miou": pytest.approx(0.3), "standard_error": None}
    job = job_of(asked(), Shares(1, 1.0, 0, 1), [])
    told = told_of(job, Candidate(Point(d=0.9), 20, 0.2), found | {"unit": 1, "updates": 8, "flops": 1.0})
    assert told == found | {"unit": 1, "updates": 8, "ratio": 0.2, "normdel": pytest.approx(float(normdel(0.5, 0.2)))}
