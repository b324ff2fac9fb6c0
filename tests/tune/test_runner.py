"""What Ray Tune is handed: the budget's clock, trials that end, halving that remembers, callbacks. No cluster."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import cloudpickle
from ray.tune.logger import LoggerCallback
from ray.tune.schedulers import TrialScheduler

from curation.store.directory import RunDirectory
from tune.config import HalvingConfig
from tune.runner import HELD_FILE, Budget, TrialEnds, callbacks, failure_in, halving_scheduler

HALVING = HalvingConfig(halving=2, rung_count=3)  # rungs 1, 2, 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """clock.now: what the clock shows, in seconds."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: found.now)
    return found


def test_the_budget_is_of_all_calls_together(clock: SimpleNamespace, tmp_path: Path) -> None:
    output = RunDirectory(str(tmp_path))
    first = Budget(2.0, 2, output)
    first.change(2)
    clock.now += 900  # a quarter of an hour on two devices each
    assert not first.stop_all()
    first.change(0)
    clock.now += 5000  # nothing runs
    assert first.held == pytest.approx(1.0)
    first.change(1)
    clock.now += 900
    assert not first.stop_all()
    again = Budget(2.0, 4, output)
    assert again.held == pytest.approx(1.5)
    again.change(1)
    clock.now += 449
    assert not again.stop_all()
    clock.now += 2
    assert again.stop_all()
    assert not Budget(None, 4, output).spent


def test_devices_count_while_a_trial_has_its_process(clock: SimpleNamespace, tmp_path: Path) -> None:
    limit = Budget(None, 2, RunDirectory(str(tmp_path)))
    ends = TrialEnds(lambda *_: None, limit)
    for started in ("a", "b"):
        ends.on_trial_start(0, [], trial(started))
        clock.now += 1800
    ends.on_trial_complete(0, [], trial("a"))
    clock.now += 1800
    ends.on_trial_error(0, [], trial("b", pickled_error_file=None, error_file=None))
    clock.now += 1800
    assert limit.held == pytest.approx(2 * (0.5 + 1.0 + 0.5))


def test_loggers_are_told_of_trials_that_the_budget_ends(tmp_path: Path) -> None:
    told = list[str]()
    logger = cast(LoggerCallback, SimpleNamespace(on_trial_error=lambda _, __, one: told.append(one.trial_id)))
    ends = TrialEnds(lambda *_: None, Budget(None, 1, RunDirectory(str(tmp_path))), [logger])
    for started in ("a", "b", "c"):
        ends.on_trial_start(0, [], trial(started))
    ends.on_trial_complete(0, [], trial("b"))
    ends.on_experiment_end([])
    assert told == ["a", "c"]
    ends.stop()
    assert told == ["a", "c"]


def test_a_killed_call_loses_seconds_of_the_count_at_most(clock: SimpleNamespace, tmp_path: Path) -> None:
    output = RunDirectory(str(tmp_path))
    killed = Budget(None, 1, output)
    killed.change(1)
    for _ in range(3600):
        clock.now += 1
        killed.stop_all()
    assert 3595 / 3600 <= output.read_json(HELD_FILE)["device_hours"] <= 1


def trial(name: str, **more: Any) -> Any:
    """A trial as Ray Tune hands it to callbacks."""
    return SimpleNamespace(trial_id=name, config={"name": name}, **more)


def test_trials_are_handed_on_with_all_they_told_as_they_end(tmp_path: Path) -> None:
    ended: list[Any] = []
    ends = TrialEnds(lambda *each: ended.append(each), Budget(None, 1, RunDirectory(str(tmp_path))))
    rung = {"miou": 0.5, "standard_error": None, "updates": 4, "normdel": 0.6, "time_total_s": 9.0}
    for name, unit in (("a", 1), ("b", 1), ("a", 2)):
        ends.on_trial_result(0, [], trial(name), rung | {"unit": unit})
    ends.on_trial_complete(0, [], trial("a"))
    (tmp_path / "error").write_bytes(cloudpickle.dumps(RuntimeError("first line\nout of memory")))
    ends.on_trial_error(0, [], trial("b", pickled_error_file=str(tmp_path / "error"), error_file=None))
    kept = {"miou": 0.5, "standard_error": None, "updates": 4}
    assert [(config["name"], reason) for config, _, reason in ended] == [("a", ""), ("b", "out of memory")]
    assert ended[0][1] == [kept | {"unit": 1}, kept | {"unit": 2}]
    assert cloudpickle.loads(cloudpickle.dumps(ends)).note is None


def test_a_failure_without_an_error_to_read_has_its_text(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("Failure # 1\n\nthe worker died\n")
    assert failure_in(str(tmp_path / "missing"), str(tmp_path / "error.txt")) == "the worker died"
    assert failure_in(None, None) == "it failed without a reason"


def arrive(scheduler: Any, name: str, *worths: float) -> list[str]:
    """What is decided of a trial at each of its rungs."""
    one = trial(name)
    scheduler.on_trial_add(None, one)
    return [
        scheduler.on_trial_result(None, one, {"unit": unit, "normdel": worth})
        for unit, worth in zip(HALVING.rungs, worths, strict=False)
    ]


def test_halving_remembers_what_earlier_calls_were_told() -> None:
    told = {"good": [{"unit": 1, "normdel": 0.6}, {"unit": 2, "normdel": 0.7}], "poor": [{"unit": 1, "normdel": 0.4}]}
    go, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    assert arrive(halving_scheduler(HALVING, {}), "new", 0.45) == [go]
    known = halving_scheduler(HALVING, told)
    assert arrive(known, "new", 0.45) == [stop]  # the median of 0.6 and 0.4 is 0.5
    assert arrive(known, "better", 0.55, 0.65) == [go, stop]
    assert arrive(known, "best", 0.7, 0.8, 0.9) == [go, go, stop]  # the end


def test_a_rerun_decides_as_one_call_would() -> None:
    worths = {name: (0.3 + 0.07 * (place * 5 % 7), 0.5, 0.6) for place, name in enumerate("abcdefg")}
    whole = halving_scheduler(HALVING, {})
    once = {name: arrive(whole, name, *values) for name, values in worths.items()}
    early = {name: worths[name] for name in "abc"}
    told = {
        name: [
            {"unit": unit, "normdel": worth}
            for unit, worth, _ in zip(HALVING.rungs[:-1], values, once[name], strict=False)
        ]
        for name, values in early.items()
    }
    reached = {name: found[: once[name].index("STOP") + 1] for name, found in told.items()}
    later = halving_scheduler(HALVING, reached)
    for name in "defg":
        assert arrive(later, name, worths[name][0])[0] == once[name][0]


def test_other_trackers_by_name() -> None:
    own = ["CSVLoggerCallback", "JsonLoggerCallback", "TBXLoggerCallback"]
    assert [type(one).__name__ for one in callbacks(())] == own
    pytest.importorskip("mlflow")
    assert [type(one).__name__ for one in callbacks(("mlflow",))] == [*own, "MLflowLoggerCallback"]
