"""How many pre-trainings run at once, and what happens where one fails. No Ray."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from training.evaluation import pretrainings


def planned(count: int) -> Any:
    return [SimpleNamespace(what=SimpleNamespace(subset="s", seed=seed)) for seed in range(count)]


def test_as_many_run_at_once_as_gpus_and_cpus_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"GPU": 8, "CPU": 9}
    monkeypatch.setattr(pretrainings.resources, "count", resources.__getitem__)
    monkeypatch.setattr(pretrainings, "gpus", lambda: resources["GPU"])
    assert [pretrainings.at_once(workers) for workers in (1, 2, 4, 8)] == [4, 3, 1, 1]
    resources["GPU"] = 0
    assert pretrainings.at_once(1) == 1


def test_two_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both, done = threading.Barrier(2), list[int]()

    def stand_in(settings: Any) -> None:
        both.wait(timeout=60)
        done.append(settings.what.seed)

    monkeypatch.setattr(pretrainings, "pretrain_once", stand_in)
    pretrainings.pretrain_all(planned(4), 2)
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.parametrize("together", [1, 2])
def test_after_a_failure_no_other_begins(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    done = []

    def stand_in(settings: Any) -> None:
        if settings.what.seed == 0:
            raise OSError("no space")
        time.sleep(0.02)
        done.append(settings.what.seed)

    monkeypatch.setattr(pretrainings, "pretrain_once", stand_in)
    with pytest.raises(OSError, match="no space"):
        pretrainings.pretrain_all(planned(500), together)
    assert len(done) < 400
