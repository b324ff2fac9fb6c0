"""Which trials of a sweep are due, and what is kept of those that end: of made-up records, with nothing trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from curation.options import hashed_fields
from training.reporting import results as trained
from tune.optuna_search import study
from tune.resources import Shares
from tune.settings import SweepSettings
from tune.space import Candidate, Point, shuffle_candidates
from tune.subsets import Chooser
from tune.sweep import Sweep, job_of
from tune.trial import Reported, SweepJob

Make = Callable[..., Sweep]
HALVING = {"halving": 2, "rung_count": 2}


class Trained(SweepJob):
    """A job whose records are named by what is trained."""

    def path(self, candidate: Candidate) -> str:
        return f"trials/{candidate.trained}.json"


@pytest.fixture
def course(asked: Callable[..., SweepSettings]) -> Make:
    """course(names, ...): a call of a sweep with candidates of these names, as asked(...) makes it."""

    def make(names: str = "abcd", **changes: Any) -> Sweep:
        what = asked(**changes)
        job = Trained(**vars(job_of(what, Shares(2, 1.0, 0, 1), [])))
        made = Sweep(what, job, 2, cast(Chooser, None))
        for place, name in enumerate(names):
            made.candidates[name] = Named(Point(d=0.1 * (place + 1)), 10, 0.1 * (place + 1), "R/subsets/x", name)
        return made

    return make


class Named(Candidate):
    """A candidate that is called as what is trained for it."""

    @property
    def name(self) -> str:
        return self.trained


def finish(course: Sweep, name: str, miou: float = 0.5, halts: list[Reported] | None = None) -> None:
    """Put a trial's record and results where a finished one has them."""
    place = {"subset": name, "method": "meddel", "train_dataset": "p", "test_dataset": "p"}
    measured = {"images": 2, "miou": miou, "image_iou": [miou, miou], "epoch": 1, "final": True}
    rows = [place | measured | {"seed": seed} for seed in (0, 1)]
    course.output.write_table(f"results/{name}.parquet", trained.as_table(rows))
    cost = {"updates": 8, "flops": 1.0, "pretrain_hours": 0.1, "evaluate_hours": 0.1}
    kept = {"halts": halts or [], "halving": hashed_fields(course.what.halving)}
    course.output.write_json(f"trials/{name}.json", {"results": [f"results/{name}.parquet"]} | cost | kept)


def rung(unit: int, miou: float) -> Reported:
    """What a trial tells at a rung."""
    return {"unit": unit, "miou": miou, "standard_error": 0.01, "updates": 4 * unit}


def due(course: Sweep) -> str:
    """Names of the trials that are due."""
    return "".join(one.name for one in course.ledger.due(course.trained()))


def states(course: Sweep) -> dict[str, str]:
    """States by name."""
    return {row["name"]: row["state"] for row in course.rows()}


def test_failed_trials_are_due_again_and_cost_no_allowance(course: Make) -> None:
    most = {"config": {"max_trials": 3}}
    first = course(**most)
    assert due(first) == "abc"
    first.note({"name": "a"}, [], "out of memory")
    first.note({"name": "b"}, [], "out of memory")
    assert due(first) == "abc"
    finish(first, "c")
    first.note({"name": "c"}, [], "")
    again = course(**most)
    assert due(again) == "ab"
    assert due(course(config={"max_trials": 4})) == "abd"
    finish(again, "a")
    again.note({"name": "a"}, [], "")
    assert again.ledger.ended == {"trials/b.json": {"reason": "out of memory"}}
    assert due(course(**most)) == "b"
    assert states(course()) == {"a": "finished", "b": "failed", "c": "finished", "d": "unfinished"}


def test_halted_trials_are_not_due_again_while_they_are_judged_alike(course: Make) -> None:
    first = course(halving=HALVING)
    first.note({"name": "a"}, [rung(1, 0.3)], "")
    finish(first, "b", halts=[rung(1, 0.4)])
    first.note({"name": "b"}, [rung(1, 0.4), rung(2, 0.5)], "")
    again = course(halving=HALVING, config={"max_trials": 3})
    assert states(again) == {"a": "halted", "b": "finished", "c": "unfinished", "d": "unfinished"}
    assert due(again) == "c"
    assert [[told["unit"] for told in again.ledger.rungs(one)] for one in again.trained()] == [[1], [1], [], []]
    assert again.ledger.rungs(again.candidates["a"])[0]["normdel"] > 0.5
    assert due(course(halving=HALVING, question={"alpha": 0.5})) == "acd"
    assert due(course(halving=HALVING | {"rung_count": 3})) == "acd"
    assert due(course()) == "acd"
    finish(again, "a")
    again.note({"name": "a"}, [], "")
    assert again.ledger.ended == {}


def test_what_ended_is_written_at_once(course: Make) -> None:
    swept = course(halving=HALVING)
    swept.note({"name": "a"}, [rung(1, 0.3)], "")
    table = swept.output.read_table("results.parquet").to_pylist()
    assert [row["state"] for row in table] == ["halted", "unfinished", "unfinished", "unfinished"]
    finish(swept, "b", 0.7)
    swept.note({"name": "b"}, [], "")
    table = swept.output.read_table("results.parquet").to_pylist()
    assert table[1]["miou"] == pytest.approx(0.7)
    assert swept.output.read_json("sweep.json")["results"] == {"b": ["results/b.parquet"]}


def test_a_twin_whose_owner_is_of_another_call_is_trained_under_its_name(course: Make) -> None:
    swept = course("a")
    twin = Candidate(Point(d=0.5), 9, 0.09, "R/subsets/x", "z", 0.995)
    other = replace(twin, point=Point(d=0.51))
    swept.candidates |= {twin.name: twin, other.name: other}
    assert [one.trained for one in swept.trained()] == ["a", "z"]
    finish(swept, "z")
    assert [row["state"] for row in swept.rows()] == ["unfinished", "finished", "finished"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Sweep], str]:
    """told(course): the forecast's line on cost, where a candidate takes as many hours as its d is high."""

    def line(course: Sweep) -> str:
        course.output.write_json("begun.json", {})
        course.forecast()
        lines = capsys.readouterr().out.splitlines()
        return next((line for line in lines if "subsets to train" in line), "")

    monkeypatch.setattr("tune.estimate.speed", lambda *_: None)
    monkeypatch.setattr("tune.estimate.hours", lambda _job, one, _found: one.point.d)
    monkeypatch.setattr(Sweep, "chosen", lambda _, point: Named(point, 100, 1.0, "R/subsets/full", "full"))
    return line


def test_the_forecast_is_of_what_is_due(course: Make, told: Callable[[Sweep], str]) -> None:
    first = course()
    assert told(first).startswith("4 subsets to train, 2 seeds each, 2 at once: about 1.00 device-hours, 30 minutes")
    finish(first, "d")
    assert told(course()).startswith("3 subsets to train, 2 seeds each, 2 at once: about 0.60 device-hours")
    assert told(course(config={"max_trials": 2})).startswith("1 subsets to train, 2 seeds each, 2 at once: about 0.10")
    for name in "abc":
        finish(first, name)
    assert told(course()) == ""


def test_the_forecast_of_optuna_counts_the_draws_that_are_left(course: Make, told: Callable[[Sweep], str]) -> None:
    drawing = {"space": {"search": "optuna", "samples": 4}}
    first = course("", **drawing)
    assert told(first).startswith("4 subsets to train, 2 seeds each, 2 at once: about 4.00 device-hours")  # d is 1
    search = study(first.what.space, *first.studied, 0)
    search.suggest("one")
    search.on_trial_complete("one", {"normdel": 0.5})
    finish(first, "a")
    assert told(course("a", **drawing)).startswith("3 subsets to train, 2 seeds each, 2 at once: about 0.30")
    assert "1 subsets to train" in told(course("a", **drawing, config={"max_trials": 2}))
    assert "2 subsets to train" in told(course("ab", **drawing, config={"max_trials": 3}))  # b and one draw


def test_a_study_is_of_what_a_draw_is_worth(course: Make) -> None:
    space = {"search": "optuna", "samples": 4}

    def name(**changes: dict[str, Any]) -> str:
        return course("", **{"space": space} | changes).studied[2]

    assert name() == name(question={"more_alphas": (0.5,)})
    assert name() == name(space=space | {"samples": 9, "baseline": ("random",)})
    assert name() != name(question={"alpha": 0.5})
    assert name() != name(space=space | {"d": (0.5, 0.9)})
    assert name(question={"question": "pareto"}) == name(question={"question": "pareto", "alpha": 0.5})


@pytest.mark.parametrize("halving", [{}, HALVING])
def test_baselines_of_the_front_follow_what_is_searched(
    course: Make, monkeypatch: pytest.MonkeyPatch, halving: dict[str, int]
) -> None:
    def chosen(_: Sweep, point: Point) -> Candidate:
        return Named(point, 10, 0.1, "R/subsets/x", point.name)

    fitted: list[list[str]] = []

    def fit(self: Sweep, wanted: list[Candidate], *, halve: bool = False) -> None:
        assert halve == bool(halving and not fitted)
        fitted.append(sorted(one.name for one in wanted))
        finish(self, "b")

    monkeypatch.setattr(Sweep, "chosen", chosen)
    monkeypatch.setattr(Sweep, "fit", fit)
    swept = course("ab", space={"search": "random", "samples": 2, "baseline": ("random", "full")}, halving=halving)
    swept.candidates["full"] = Named(Point(baseline="full"), 100, 1.0, "R/subsets/full", "full")
    swept.search()
    assert fitted == [["a", "b", "full"], ["baseline-random-budget10"]]


def test_searched_candidates_are_shuffled_alike_for_one_seed() -> None:
    ordered = [Candidate(Point(d=place / 100)) for place in range(1, 30)]
    mixed = shuffle_candidates(ordered, 3)
    assert mixed == shuffle_candidates(ordered, 3) != ordered
    assert sorted(mixed, key=lambda one: one.name) == sorted(ordered, key=lambda one: one.name)
    assert shuffle_candidates(ordered, 4) != mixed


def test_a_record_is_of_what_is_trained(asked: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(job: SweepJob, candidate: Candidate) -> list[Any]:
        return [(replace(job.recipe, what=replace(job.recipe.what, output=f"out/pretrain/{candidate.folder}")), None)]

    monkeypatch.setattr(SweepJob, "planned", planned)
    job = job_of(asked(), Shares(1, 1.0, 0, 1), [])
    full = Candidate(Point(baseline="full"), 100, 1.0, "f", "full")
    twin = Candidate(Point(d=0.999), 99, 0.99, "f", "full")
    assert job.path(full) == job.path(twin)
    assert job.path(full) != job.path(replace(full, folder="g"))
    halved = job_of(asked(halving=HALVING), Shares(1, 1.0, 0, 1), [])
    assert halved.path(twin) == job.path(full)
