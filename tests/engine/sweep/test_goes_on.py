"""Sweeps that stop and go on: failures, budgets, halving, random draws, Optuna, a kill."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.store.directory import RunDirectory
from training.pretraining.checkpoint import last_update
from training.pretraining.config import LengthConfig, RecordConfig
from tune.results import front
from tune.settings import SweepSettings
from tune.sweep import sweep

Make = Callable[..., SweepSettings]
Stamps = Callable[[Path], dict[str, int]]
Twice = Callable[[SweepSettings], pa.Table]


def lengthened(what: SweepSettings, steps: int, logger: tuple[Any, ...] = ()) -> SweepSettings:
    """A sweep of longer pre-trainings, with a checkpoint every ten updates."""
    record = RecordConfig(picture_steps=0, checkpoint_steps=10, keep_checkpoints=1000, logger=logger)
    length = LengthConfig(steps=steps, batch_size=8, slice_rows=8)
    return replace(what, recipe=replace(what.recipe, record=record, length=length))


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(
    make: Make, begun: Callable[..., Path], tmp_path: Path, stamps: Stamps
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    sweep(make(run_dir, output, config={"plan_only": True}, space={"baseline": ("none",)}))
    spoilt = run_dir / "subsets/sweep-meddel-epsilon0.9-d0.7/kept.parquet"
    kept = pq.read_table(spoilt)
    gone = pa.array(["/nowhere.jpg", *kept["uri"].to_pylist()[1:]])
    pq.write_table(kept.set_column(kept.schema.get_field_index("uri"), "uri", gone), spoilt)
    what = make(run_dir, output, config={"max_trials": 2}, space={"baseline": ("none",)})
    table = sweep(what)
    rows = {row["d"]: row for row in table.to_pylist()}
    assert (rows[0.7]["state"], rows[0.9]["state"]) == ("failed", "finished")
    assert "1 of " in rows[0.7]["reason"]
    assert "nowhere.jpg" in rows[0.7]["reason"]
    before = {name: at for name, at in stamps(output).items() if name.startswith(("results/", "trials/meddel"))}
    pq.write_table(kept, spoilt)
    again = {row["d"]: row for row in sweep(what).to_pylist()}
    assert again[0.9] == rows[0.9] | {mark: again[0.9][mark] for mark in ("on_ratio_front", "on_cost_front")}
    assert again[0.7]["state"] == "finished"
    assert stamps(output).items() >= before.items()
    assert RunDirectory(str(output)).read_json("ended.json") == {}


@pytest.mark.slow
def test_a_spent_budget_stops_and_more_goes_on(
    make: Make, begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    stopped = sweep(make(run_dir, output, config={"max_gpu_hours": 1e-9}))
    assert set(stopped["state"].to_pylist()) == {"unfinished"}
    assert "it resumes" in capsys.readouterr().out
    one = sweep(make(run_dir, output, config={"max_trials": 1}))
    assert sorted(one["state"].to_pylist()) == ["finished", "unfinished", "unfinished"]
    shutil.rmtree(output / "best")
    held = RunDirectory(str(output)).read_json("held.json")["device_hours"]
    soon = held + 4 / 3600  # amid a training's start
    assert sweep(make(run_dir, output, config={"max_gpu_hours": soon})).equals(one)
    assert (output / "best/kept.parquet").exists()


@pytest.mark.slow
def test_a_budget_that_ends_within_a_trial_keeps_its_checkpoints(
    make: Make, begun: Callable[..., Path], tmp_path: Path, stamps: Stamps
) -> None:
    run_dir, output, hours = begun("clusters"), tmp_path / "out", 45 / 3600

    def until(budget: float) -> tuple[int, float]:
        """The last update that is kept, and the hours held, once a budget is spent."""
        what = make(run_dir, output, config={"max_gpu_hours": budget}, space={"d": (0.9,), "baseline": ("none",)})
        assert sweep(lengthened(what, 10**6))["state"].to_pylist() == ["unfinished"]
        held = RunDirectory(str(output)).read_json("held.json")["device_hours"]
        return sum(last_update(RunDirectory(str(folder))) for folder in (output / "pretrain").iterdir()), held

    reached, held = until(hours)
    assert reached > 0
    assert hours <= held < 2 * hours
    before = stamps(output)
    assert until(hours) == (reached, held)
    assert stamps(output) == before
    further, more = until(held + hours)
    assert further > reached
    assert more >= held + hours


@pytest.mark.slow
def test_a_budget_that_ends_within_a_trial_does_not_wait_for_other_trackers(
    make: Make,
    begun: Callable[..., Path],
    spelled: Callable[[SweepSettings], list[str]],
    python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    config, space = {"max_gpu_hours": 40 / 3600}, {"d": (0.9,), "baseline": ("none",)}
    what = make(begun("clusters"), tmp_path / "out", config=config, space=space)
    given = spelled(lengthened(what, 10**6, ("mlflow", "wandb")))
    where = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "MLFLOW_TRACKING_URI": f"{tmp_path.as_uri()}/mlruns"}
    ended = python("-m", "tune", "sweep", *given, **where, MLFLOW_ALLOW_FILE_STORE="true")
    assert ended.returncode == 0, ended.stderr
    assert "budget is spent" in ended.stdout
    names = [file.read_text() for file in tmp_path.glob("mlruns/*/*/tags/trial_name")]
    [trial] = {name.removeprefix("trial_") for name in names}
    assert list(tmp_path.glob(f"wandb/offline-run-*-{trial}/run-{trial}.wandb"))


@pytest.mark.slow
def test_random_draws_and_the_baselines_of_the_sizes_on_the_front(
    make: Make, begun: Callable[..., Path], tmp_path: Path, twice: Twice
) -> None:
    chosen = {"search": "random", "samples": 2, "d": (0.5, 0.95), "baseline": ("random",)}
    what = make(begun("clusters"), tmp_path / "out", space=chosen)
    rows = twice(what).to_pylist()
    assert {row["state"] for row in rows} == {"finished"}
    searched = [row for row in rows if row["baseline"] is None]
    assert len(searched) == 2
    on_front = front(*(np.array([row[name] for row in searched]) for name in ("ratio", "miou")))
    sizes = {row["frames"] for row, kept in zip(searched, on_front, strict=True) if kept}
    assert {row["frames"] for row in rows if row["baseline"] == "random"} == sizes


@pytest.mark.slow
def test_halving_stops_some_and_a_rerun_tells_the_same(
    make: Make, begun: Callable[..., Path], tmp_path: Path, twice: Twice
) -> None:
    what = make(
        begun("clusters"),
        tmp_path / "out",
        space={"d": (0.5, 0.7, 0.9, 0.95), "baseline": ("random",)},
        halving={"halving": 2, "rung_count": 2},
    )
    rows = twice(what).to_pylist()
    searched = [row for row in rows if row["baseline"] is None]
    assert {row["state"] for row in searched} == {"finished", "halted"}
    assert {row["updates"] for row in searched} == {2, 4}
    assert all(row["state"] == "finished" for row in rows if row["baseline"])


@pytest.mark.slow
def test_halving_in_two_calls_ends_as_in_one(
    make: Make, begun: Callable[..., Path], tmp_path: Path, stamps: Stamps
) -> None:
    run_dir = begun("clusters")
    asked: dict[str, Any] = {"halving": {"halving": 2, "rung_count": 2}}
    asked["space"] = {"d": (0.5, 0.7, 0.9, 0.95), "baseline": ("none",)}
    whole = sweep(make(run_dir, tmp_path / "whole", **asked))
    half = sweep(make(run_dir, tmp_path / "out", config={"max_trials": 2}, **asked))
    assert sorted(half["state"].to_pylist())[-2:] == ["unfinished", "unfinished"]
    before = stamps(tmp_path / "out")
    rest = sweep(make(run_dir, tmp_path / "out", **asked))
    assert stamps(tmp_path / "out").items() >= before.items()
    columns = ["name", "state", "miou", "updates"]
    assert rest.select(columns).equals(whole.select(columns))


@pytest.mark.slow
def test_halving_after_a_grid_takes_what_it_finished_and_goes_back_to_rungs_for_the_rest(
    make: Make, begun: Callable[..., Path], tmp_path: Path, stamps: Stamps
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    none: dict[str, Any] = {"space": {"baseline": ("none",)}}
    whole = sweep(make(run_dir, output, **none))
    before = stamps(output)
    halved = make(run_dir, output, halving={"halving": 2, "rung_count": 2}, **none)
    assert sweep(halved).equals(whole)
    assert stamps(output) == before
    for record in (output / "trials").glob("*.json"):  # as if it had been killed before the end of its trials
        record.unlink()
    halving = sweep(halved)
    assert "failed" not in halving["state"].to_pylist()
    finished = {row["name"]: row["miou"] for row in halving.to_pylist() if row["state"] == "finished"}
    assert finished.items() <= {row["name"]: row["miou"] for row in whole.to_pylist()}.items()


@pytest.mark.slow
@pytest.mark.parametrize("question", ["normdel", "pareto"])
def test_optuna_goes_on_with_its_study(
    make: Make, begun: Callable[..., Path], tmp_path: Path, question: str, stamps: Stamps, twice: Twice
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    chosen: dict[str, Any] = {"search": "optuna", "d": (0.5, 0.95), "baseline": ("none",)}
    asked = {"question": question}
    first = sweep(make(run_dir, output, space=chosen | {"samples": 2}, question=asked))
    assert first["state"].to_pylist() == ["finished", "finished"]
    before = stamps(output)
    more = twice(make(run_dir, output, space=chosen | {"samples": 3}, question=asked))
    assert len(more) == 3
    assert more["name"].to_pylist()[:2] == first["name"].to_pylist()
    after = stamps(output)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_a_killed_sweep_goes_on(
    make: Make,
    begun: Callable[..., Path],
    spelled: Callable[[SweepSettings], list[str]],
    started: Callable[..., Any],
    tmp_path: Path,
    stamps: Stamps,
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    what = lengthened(make(run_dir, output), 400)

    def under_way() -> list[Path]:
        """Trainings with some checkpoints and no card yet."""
        begun = {file.parents[2] for file in output.glob("pretrain/*/checkpoints/update-*/checkpoint.pt")}
        return [folder for folder in begun if not (folder / "card.json").exists()]

    with started(tmp_path / "log", "tune", "sweep", *spelled(what)) as driver:
        deadline = time.monotonic() + 300
        while not (list(output.glob("trials/*.json")) and under_way()):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = stamps(output)
    assert "finished" in pq.read_table(output / "results.parquet")["state"].to_pylist()
    assert RunDirectory(str(output)).read_json("held.json")["device_hours"] > 0
    [half] = under_way()
    checkpoints = f"pretrain/{half.name}/checkpoints/update-"
    kept = [name for name in before if name.startswith(checkpoints) or (name.endswith(".json") and "trials/" in name)]
    assert len(kept) >= 2
    table = sweep(what)
    after = stamps(output)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    undisturbed = sweep(replace(what, evaluation=replace(what.evaluation, output=str(tmp_path / "whole"))))
    assert [(row["name"], row["state"], row["miou"]) for row in table.to_pylist()] == [
        (row["name"], "finished", row["miou"]) for row in undisturbed.to_pylist()
    ]
