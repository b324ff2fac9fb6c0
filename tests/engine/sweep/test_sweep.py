"""A sweep of small trainings: what it leaves, nothing done twice, a plan."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.phantom import colonoscopy
from tune.settings import SweepSettings
from tune.sweep import sweep

Make = Callable[..., SweepSettings]
Stamps = Callable[[Path], dict[str, int]]


@pytest.fixture(scope="module")
def swept(
    make: Make, reference: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SweepSettings, pa.Table]:
    """The output of a sweep, not to be changed, with its configs and table."""
    output = tmp_path_factory.mktemp("sweep")
    run_dir = Path(shutil.copytree(reference[0], tmp_path_factory.mktemp("selected") / "run"))
    space = {"epsilon": (0.9, 1e-6), "d": (0.7, 1.0)}
    what = make(run_dir, output, config={"cpus_per_trial": 1}, space=space)
    return output, what, sweep(what)


def test_what_a_sweep_leaves(swept: tuple[Path, SweepSettings, pa.Table]) -> None:
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
    assert len({file.read_bytes() for file in output.glob("pretrain/*/encoder.safetensors")}) == len(own)
    best = max((row for row in rows.values() if row["state"] == "finished"), key=lambda row: row["normdel"])
    subset = json.loads((output / "best/subset.json").read_text())
    assert subset["kept"] == best["frames"]
    assert "image" in pq.read_schema(output / "best/kept.parquet").names
    for name in ("summary.md", "summary.csv", "summary.html", "pareto.svg", "map.png", "sweep.json"):
        assert (output / name).stat().st_size > 0
    assert list((output / "tune").rglob("events.out.tfevents*"))


def test_a_sweep_prefers_thresholds_that_remove_what_was_planted(
    swept: tuple[Path, SweepSettings, pa.Table], drawn: tuple[Path, pa.Table]
) -> None:
    rows = [row for row in swept[2].to_pylist() if row["state"] == "finished"]
    best = max(rows, key=lambda row: row["normdel"])
    assert best["name"] == "meddel-epsilon0.9-d0.7"
    root, truth = drawn
    removed = {}
    for row in rows:
        kept = pq.read_table(f"{row['folder']}/kept.parquet")["uri"].to_pylist()
        paths = [str(Path(uri).relative_to(root)) for uri in kept]
        removed[row["name"]] = colonoscopy.compare_with_truth(truth, paths)["duplicates_found"]
    assert removed[best["name"]] > 0.9
    assert removed["full"] < 0.5


def test_the_same_command_again_trains_nothing(swept: tuple[Path, SweepSettings, pa.Table], stamps: Stamps) -> None:
    output, what, table = swept
    before = stamps(output)
    assert sweep(what).equals(table)
    assert stamps(output) == before


def test_a_plan_trains_nothing(
    make: Make, begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, space = begun("clusters"), {"baseline": (), "clusters": (2,)}
    table = sweep(make(run_dir, tmp_path / "out", config={"plan_only": True}, space=space))
    told = capsys.readouterr().out
    assert set(table["state"].to_pylist()) == {"unfinished"}
    assert not (tmp_path / "out/pretrain").exists()
    assert "baseline-random-budget" in told
    assert "device-hours" in told
    folders = {row["name"]: row["folder"] for row in table.to_pylist() if row["baseline"] is None}
    assert len(folders) == 2
    clustered = tmp_path / "out/clusters-2"
    assert folders == {name: f"{clustered}/subsets/sweep-{name}" for name in folders}
    steps = [json.loads((each / "run.json").read_text())["steps"] for each in (clustered, run_dir)]
    asked, own = (each["clusters"]["config"]["clusters"] for each in steps)
    assert asked == 2 != own
