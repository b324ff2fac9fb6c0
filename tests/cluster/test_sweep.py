"""A sweep of small trainings: what it leaves, nothing done twice, failures, budgets, halving, Optuna, a kill."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.augment import Augmentation
from training.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.evaluate import EvaluateConfig
from training.mae import MaeConfig
from training.rank import Settings
from training.segment import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.course import Sweep
from tune.space import SpaceConfig
from tune.sweep import sweep

TINY = MaeConfig(encoder="test_vit", image_size=32, decoder_depth=1, decoder_width=32, decoder_heads=2)
RECIPE = Settings(
    PretrainConfig(subset="", output=""),
    ComputeConfig(precision="float32"),
    RecordConfig(picture_steps=0),
    LengthConfig(steps=4, batch_size=8, draw_rows=8),
    OptimiserConfig(),
    TINY,
    Augmentation(),
)
FINETUNE = FinetuneConfig(
    epochs=2,
    batch_size=8,
    image_size=32,
    precision="float32",
    head_cells=8,
    head_width=32,
    patience=0,
    layer_decay=1.0,
    learning_rate=4e-3,
)
GRID: dict[str, Any] = {"epsilon": (0.9,), "d": (0.7, 0.9), "baseline": ("full",)}
Make = Callable[..., Sweep]


@pytest.fixture(scope="module")
def make(local_ray: None, polyps: Path) -> Make:
    """make(run_dir, output, space={...}, ...): a small sweep, with changes to some of its configs."""

    def changed(run_dir: Path, output: Path, **changes: dict[str, Any]) -> Sweep:
        evaluation: dict[str, Any] = {"seeds": 1, "decoded_size": 48, "test_every": 0}
        return Sweep(
            SweepConfig(run_dir=str(run_dir), **changes.get("config", {})),
            SpaceConfig(**GRID | changes.get("space", {})),
            Question(**changes.get("question", {})),
            HalvingConfig(**changes.get("halving", {})),
            EvaluateConfig(output=str(output), dataset=(f"generic={polyps}",), **evaluation),
            RECIPE,
            FINETUNE,
        )

    return changed


@pytest.fixture(scope="module")
def swept(
    make: Make, reference: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Sweep, pa.Table]:
    """The output of a sweep, not to be changed, with its configs and table."""
    output = tmp_path_factory.mktemp("sweep")
    what = make(reference[0], output, space={"epsilon": (0.9, 1e-6), "d": (0.7, 1.0)})
    return output, what, sweep(what)


def stamps(output: Path) -> dict[str, int]:
    """When every checkpoint, encoder and result below an output was written."""
    folders = (output / "pretrain", output / "results", output / "trials")
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in files}


def test_what_a_sweep_leaves(swept: tuple[Path, Sweep, pa.Table]) -> None:
    output, _, table = swept
    rows = {row["name"]: row for row in table.to_pylist()}
    assert pq.read_table(output / "results.parquet").equals(table)
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "full": "finished",
        "meddel-epsilon0.9-d0.7": "finished",
        "meddel-epsilon0.9-d1": "finished",
        "meddel-epsilon1e-06-d0.7": "failed",
        "meddel-epsilon1e-06-d1": "failed",
    }
    assert "keep none of" in rows["meddel-epsilon1e-06-d0.7"]["reason"]
    own = {row["trained"] for row in rows.values()} - {None}
    assert len(list((output / "trials").glob("*.json"))) == len(own)
    assert len({row["miou"] for row in rows.values() if row["name"] == row["trained"]}) == len(own)
    best = max((row for row in rows.values() if row["state"] == "finished"), key=lambda row: row["normdel"])
    subset = json.loads((output / "best/subset.json").read_text())
    assert subset["kept"] == best["frames"]
    assert "image" in pq.read_schema(output / "best/kept.parquet").names
    for name in ("summary.md", "summary.csv", "summary.html", "pareto.svg", "map.png", "sweep.json"):
        assert (output / name).stat().st_size > 0
    assert list((output / "tune").rglob("events.out.tfevents*"))


def test_the_same_command_again_trains_nothing(swept: tuple[Path, Sweep, pa.Table]) -> None:
    output, what, table = swept
    before = stamps(output)
    assert sweep(what).equals(table)
    assert stamps(output) == before


def test_a_plan_trains_nothing(
    make: Make, begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = sweep(make(begun("clusters"), tmp_path / "out", config={"plan_only": True}, space={"baseline": ()}))
    told = capsys.readouterr().out
    assert set(table["state"].to_pylist()) == {"unfinished"}
    assert not (tmp_path / "out/pretrain").exists()
    assert "random-budget" in told
    assert "device-hours" in told


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(
    make: Make, begun: Callable[..., Path], tmp_path: Path
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    sweep(make(run_dir, output, config={"plan_only": True}, space={"baseline": ("none",)}))
    spoilt = run_dir / "subsets/sweep-meddel-epsilon0.9-d0.7/kept.parquet"
    kept = pq.read_table(spoilt)
    gone = pa.array(["/nowhere.jpg", *kept["uri"].to_pylist()[1:]])
    pq.write_table(kept.set_column(kept.schema.get_field_index("uri"), "uri", gone), spoilt)
    table = sweep(make(run_dir, output, space={"baseline": ("none",)}))
    rows = {row["d"]: row for row in table.to_pylist()}
    assert (rows[0.7]["state"], rows[0.9]["state"]) == ("failed", "finished")
    assert "1 of " in rows[0.7]["reason"]
    assert "nowhere.jpg" in rows[0.7]["reason"]


@pytest.mark.slow
def test_a_spent_budget_stops_and_more_goes_on(
    make: Make, begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    stopped = sweep(make(run_dir, output, config={"max_gpu_hours": 1e-9}))
    assert set(stopped["state"].to_pylist()) == {"unfinished"}
    assert "goes on" in capsys.readouterr().out
    one = sweep(make(run_dir, output, config={"max_trials": 1}))
    assert sorted(one["state"].to_pylist()) == ["finished", "unfinished", "unfinished"]


@pytest.mark.slow
def test_halving_stops_some_and_a_rerun_tells_the_same(make: Make, begun: Callable[..., Path], tmp_path: Path) -> None:
    what = make(
        begun("clusters"),
        tmp_path / "out",
        space={"d": (0.5, 0.7, 0.9, 0.95), "baseline": ("random",)},
        halving={"halving": 2, "rung_count": 2},
    )
    table = sweep(what)
    rows = table.to_pylist()
    searched = [row for row in rows if row["baseline"] is None]
    assert {row["state"] for row in searched} == {"finished", "halted"}
    assert {row["updates"] for row in searched} == {2, 4}
    assert all(row["state"] == "finished" for row in rows if row["baseline"])
    before = stamps(tmp_path / "out")
    assert sweep(what).equals(table)
    assert stamps(tmp_path / "out") == before


@pytest.mark.slow
def test_halving_after_a_grid_goes_back_to_its_rungs(make: Make, begun: Callable[..., Path], tmp_path: Path) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    none: dict[str, Any] = {"space": {"baseline": ("none",)}}
    whole = sweep(make(run_dir, output, **none))
    halving = sweep(make(run_dir, output, halving={"halving": 2, "rung_count": 2}, **none))
    assert "failed" not in halving["state"].to_pylist()
    finished = {row["name"]: row["miou"] for row in halving.to_pylist() if row["state"] == "finished"}
    assert finished.items() <= {row["name"]: row["miou"] for row in whole.to_pylist()}.items()


@pytest.mark.slow
@pytest.mark.parametrize("question", ["normdel", "pareto"])
def test_optuna_goes_on_with_its_study(make: Make, begun: Callable[..., Path], tmp_path: Path, question: str) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    chosen: dict[str, Any] = {"search": "optuna", "d": (0.5, 0.95), "baseline": ("none",)}
    asked = {"question": question}
    first = sweep(make(run_dir, output, space=chosen | {"samples": 2}, question=asked))
    assert first["state"].to_pylist() == ["finished", "finished"]
    before = stamps(output)
    more = sweep(make(run_dir, output, space=chosen | {"samples": 3}, question=asked))
    assert len(more) == 3
    assert more["name"].to_pylist()[:2] == first["name"].to_pylist()
    after = stamps(output)
    assert {name: after[name] for name in before} == before
    assert sweep(make(run_dir, output, space=chosen | {"samples": 3}, question=asked)).equals(more)
    assert stamps(output) == after


@pytest.mark.slow
def test_a_killed_sweep_goes_on(
    make: Make, begun: Callable[..., Path], flags: Callable[..., list[str]], started: Callable[..., Any], tmp_path: Path
) -> None:
    run_dir, output = begun("clusters"), tmp_path / "out"
    long = replace(
        RECIPE,
        record=RecordConfig(picture_steps=0, checkpoint_steps=10, keep_checkpoints=1000),
        length=LengthConfig(steps=400, batch_size=8, draw_rows=8),
    )
    what = replace(make(run_dir, output), recipe=long)
    _, *recipe = vars(long).values()
    given = flags(what.config, what.space, what.question, what.halving, what.evaluation, *recipe)
    names = ("epochs", "batch_size", "head_cells", "head_width", "patience", "layer_decay", "learning_rate")
    given += [f"--finetune-{name.replace('_', '-')}={getattr(FINETUNE, name)}" for name in names]

    def under_way() -> list[Path]:
        """Trainings with some checkpoints and no card yet."""
        begun = {file.parents[2] for file in output.glob("pretrain/*/checkpoints/update-*/checkpoint.pt")}
        return [folder for folder in begun if not (folder / "card.json").exists()]

    with started(tmp_path / "log", "tune", "sweep", *given) as driver:
        deadline = time.monotonic() + 300
        while not (list(output.glob("trials/*.json")) and under_way()):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = stamps(output)
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
