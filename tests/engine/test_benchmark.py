"""`benchmark`: what it leaves, that tables and figures hold its results, that nothing is trained twice, and a real run.

Where pre-training itself is not the matter, a stand-in writes what it would: encoders drawn by subset and seed.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.store.directory import RunDirectory
from training.__main__ import main
from training.evaluation.benchmark import benchmark
from training.evaluation.config import BenchmarkConfig, EvaluateConfig, FinetuneFlags, finetune_of
from training.methods.config import Augmentation, MaeConfig
from training.metrics.intervals import paired_comparison
from training.metrics.normdel import normdel
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.recipe import Recipe
from training.pretraining.weights import export_encoder
from training.segmentation import tokens
from training.segmentation.config import FinetuneConfig

FAST: dict[str, Any] = {"learning_rate": 4e-3, "layer_decay": 1.0, "head_cells": 8, "head_width": 32, "patience": 0}
SMALL = FinetuneConfig(epochs=2, batch_size=8, image_size=32, precision="float32", **FAST)
TINY = {"encoder": "test_vit", "image_size": 32, "decoder_depth": 1, "decoder_width": 32, "decoder_heads": 2}
POOL = 150
SUBSETS = {"meddel20": ("meddel", 0.2), "random20": ("random", 0.2), "whole": ("meddel", 1.0)}
Call = tuple[str, int, float | None]


@pytest.fixture(scope="module")
def subsets(reference: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of three subsets of the phantom, by name: cut from the one that was really selected."""
    [made] = (reference[0] / "subsets").iterdir()
    kept, about = pq.read_table(made / "kept.parquet"), json.loads((made / "subset.json").read_text())
    folders = {}
    for place, (name, (method, ratio)) in enumerate(SUBSETS.items()):
        folder = tmp_path_factory.mktemp("subsets") / name
        folder.mkdir()
        rows = kept.slice(4 * place, 12) if ratio < 1 else kept
        own = {"name": name, "pool": POOL, "ratio": ratio, "config": {"method": method}, "digest": f"digest of {name}"}
        own["counts"] = {"outlier": 0, "duplicate": 0, "over budget": round((1 - ratio) * POOL)}
        pq.write_table(rows.replace_schema_metadata(None), folder / "kept.parquet")
        (folder / "subset.json").write_text(json.dumps(about | own))
        folders[name] = str(folder)
    return folders


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """(subset, seed, epochs) of each pre-training that a stand-in was asked for."""
    asked: list[Call] = []

    def pretrain(settings: Recipe) -> None:
        about = json.loads(Path(settings.what.subset, "subset.json").read_text())
        assert settings.model.seed == settings.what.seed
        asked.append((about["name"], settings.what.seed, settings.length.epochs))
        weights = tokens.load_encoder("random", 32, "test_vit", 100 * len(about["name"]) + settings.what.seed)
        data = {"subset": about["name"], "selection": about["config"]} | {
            key: about[key] for key in ("ratio", "counts")
        }
        card = {"data": data, "recipe": {"encoder": "test_vit"}, "cost": {"epochs": settings.length.epochs}}
        output = RunDirectory(settings.what.output)
        output.write_bytes("cache/part-000000.npy", b"decoded frames")
        export_encoder(weights.state_dict(), output, card)

    monkeypatch.setattr("training.evaluation.pretrainings.pretrain", pretrain)
    return asked


Run = Callable[..., pa.Table]


@pytest.fixture
def run(local_ray: None, polyps: Path, subsets: dict[str, str], calls: list[Call]) -> Run:
    """run(output, names, **changes): the benchmark of some subsets with two seeds; more_lengths passes through."""

    def call(output: Path | str, names: tuple[str, ...] = tuple(SUBSETS), **changes: Any) -> pa.Table:
        folders = tuple(subsets.get(name, name) for name in names)
        config = BenchmarkConfig(subset=folders, more_lengths=changes.pop("more_lengths", ()))
        asked = {"dataset": (f"phantom:generic={polyps}",), "seeds": 2, "decoded_size": 48}
        evaluation = EvaluateConfig(output=str(output), **asked | changes)
        recipe = Recipe(
            PretrainConfig(subset="", output=""),
            ComputeConfig(precision="float32"),
            RecordConfig(),
            LengthConfig(epochs=2.0, batch_size=4, slice_rows=4),
            OptimiserConfig(),
            MaeConfig(**TINY),
            Augmentation(),
        )
        return benchmark(config, evaluation, recipe, SMALL)

    return call


def records(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def final(table: pa.Table) -> list[dict[str, Any]]:
    return table.filter(table["final"]).to_pylist()


def stamps(output: Path, *folders: str) -> dict[str, int]:
    """Time of change of every file of the runs."""
    files = [file for folder in folders for file in (output / folder).rglob("*") if file.is_file()]
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in files}


def test_results_tables_and_figures(
    run: Run, calls: list[Call], polyps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    external = (f"other:generic={polyps / 'test'}",)
    table = run(tmp_path, external=external)
    assert calls == [(name, seed, 2.0) for name in SUBSETS for seed in (0, 1)]
    assert pq.read_table(tmp_path / "results.parquet").equals(table)
    found = {
        (row["subset"], row["method"], row["ratio_nominal"], row["test_dataset"], row["seed"]) for row in final(table)
    }
    methods = {"meddel20": ("meddel", 0.2), "random20": ("random", 0.2), "whole": ("full", 1.0)}
    assert found == {
        (name, *methods[name], test, seed) for name in SUBSETS for test in ("phantom", "other") for seed in (0, 1)
    }
    assert len(final(table)) == len(found)
    means = {}
    for record in records(tmp_path / "table3.csv"):
        key = record["subset"], record["test_dataset"]
        values = [row["miou"] for row in final(table) if (row["subset"], row["test_dataset"]) == key]
        means[key] = float(np.mean(values))
        ratio = methods[key[0]][1]
        assert float(record["miou"]) == pytest.approx(means[key])
        assert float(record["normdel"]) == pytest.approx(float(normdel(means[key], ratio)))
        text = f"{100 * means[key]:.2f} ± {100 * np.std(values, ddof=1):.2f} ["
        assert text in (tmp_path / "table3.md").read_text()
        assert text in (tmp_path / "summary.md").read_text()
    assert len(means) == 6
    counts = {part: len(list((polyps / part / "images").iterdir())) for part in ("train", "validation", "test")}
    [second] = [record for record in records(tmp_path / "table2.csv") if record["name"] == "phantom"]
    assert {part: int(second[part]) for part in counts} == counts
    assert {record["subset"] for record in records(tmp_path / "table4.csv")} == set(SUBSETS)
    for number in (3, 4, 6):
        with Image.open(tmp_path / f"figure{number}.png") as image:
            assert min(image.size) > 100
    drawn_values = (tmp_path / "figure6.svg").read_text()
    assert all(f">{100 * mean:.1f}</text>" in drawn_values for mean in means.values())
    assert all(name in (tmp_path / "figure3.svg").read_text() for name in SUBSETS)
    assert "no table" not in capsys.readouterr().out


def test_subsets_are_compared_with_random_and_full(run: Run, tmp_path: Path) -> None:
    table = run(tmp_path, test_every=0)
    ious: dict[str, list[list[float]]] = {}
    for row in final(table):
        ious.setdefault(row["subset"], []).append(row["image_iou"])
    compared = records(tmp_path / "comparisons.csv")
    pairs = [("meddel20", "random20"), ("meddel20", "whole"), ("random20", "whole")]
    assert [(record["subset"], record["against"]) for record in compared] == pairs
    for record in compared:
        expected = paired_comparison(ious[record["subset"]], ious[record["against"]])
        for name in ("difference", "low", "high", "p_value", "images"):
            assert float(record[name]) == pytest.approx(getattr(expected, name))


def test_nothing_is_trained_twice(run: Run, calls: list[Call], tmp_path: Path) -> None:
    names = ("meddel20", "random20")
    first = run(tmp_path, names)
    before = stamps(tmp_path, "results", "pretrain")
    assert len(calls) == 4
    assert not list(tmp_path.glob("pretrain/*/cache"))
    calls.clear()
    assert run(tmp_path, names[::-1]).sort_by("subset").equals(first.sort_by("subset"))
    assert calls == []
    assert stamps(tmp_path, "results", "pretrain") == before
    lost = min((tmp_path / "results").iterdir())
    lost.unlink()
    assert run(tmp_path, names).equals(first)
    assert calls == []
    changed = {name for name, time in stamps(tmp_path, "results", "pretrain").items() if time != before[name]}
    assert changed == {f"results/{lost.name}"}
    before = stamps(tmp_path, "results", "pretrain")
    lengthened = run(tmp_path, names, more_lengths=(1,))
    assert calls == [(name, seed, 1.0) for name in names for seed in (0, 1)]
    after = stamps(tmp_path, "results", "pretrain")
    assert {name: after[name] for name in before} == before
    kept = lengthened.filter(pa.compute.equal(lengthened["pretrain_epochs"], 2.0))
    assert kept.equals(first)
    lengths = {(record["subset"], record["pretrain_epochs"]) for record in records(tmp_path / "table4.csv")}
    assert lengths == {(name, length) for name in names for length in ("1.0", "2.0")}
    assert {record["pretrain_epochs"] for record in records(tmp_path / "table3.csv")} == {"2.0"}


def test_what_the_results_do_not_allow_is_told(
    run: Run, polyps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, ("whole",), probe="linear")
    told = capsys.readouterr().out
    assert "no table4: no subset's nominal ratio is 20 % or 33 %" in told
    assert "no figure6: it compares data sets, and there is only one" in told
    assert not (tmp_path / "table4.md").exists()
    assert not (tmp_path / "comparisons.md").exists()


@pytest.mark.parametrize(
    ("names", "changes", "told"),
    [
        (("meddel20",), {"dataset": ("generic=nothing",)}, "nothing is not a folder"),
        (("meddel20",), {"dataset": ("generc=nothing",)}, "did you mean generic?"),
        (("nothing",), {}, "nothing holds no exported subset"),
        (("meddel20", "meddel20"), {}, "several subsets are called meddel20"),
        (("meddel20",), {"output": "memory://bench"}, "encoders are kept as files"),
    ],
)
def test_what_cannot_be_stops_before_anything_is_trained(
    run: Run, calls: list[Call], tmp_path: Path, names: tuple[str, ...], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        run(changes.pop("output", tmp_path / "out"), names, **changes)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_a_bad_model_or_length_stops_before_anything_is_trained(
    run: Run, calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "image_size", 40)
    with pytest.raises(ValueError, match="40"):
        run(tmp_path / "out", ("meddel20",))
    assert calls == []
    with pytest.raises(ValueError, match="more_lengths"):
        BenchmarkConfig(subset=("a",), more_lengths=(0.0,))


def test_seeds_differ_and_do_not_depend_on_each_other(run: Run, tmp_path: Path) -> None:
    two = final(run(tmp_path / "two", ("random20",)))
    [one] = final(run(tmp_path / "one", ("random20",), seeds=1))
    assert [row["seed"] for row in two] == [0, 1]
    assert two[0] == one
    assert two[0]["image_iou"] != two[1]["image_iou"]


@pytest.mark.slow
def test_the_command_line_with_real_pretraining(
    local_ray: None,
    polyps: Path,
    subsets: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = {"epochs": 1, "batch_size": 4, "slice_rows": 4, "precision": "float32", "decoded_size": 48, "seeds": 1}
    tuned = {f"finetune_{name}": value for name, value in FAST.items()} | {"finetune_epochs": 1}
    values = TINY | small | tuned | {"output": tmp_path, "dataset": f"generic={polyps}"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    flags += [f"--subset={subsets[name]}" for name in ("meddel20", "random20")]
    assert main(["benchmark", *flags]) == 0
    table = pq.read_table(tmp_path / "results.parquet")
    before = stamps(tmp_path, "results", "pretrain")
    assert {(row["subset"], row["seed"], row["pretrain_epochs"]) for row in final(table)} == {
        ("meddel20", 0, 1.0),
        ("random20", 0, 1.0),
    }
    cards = [json.loads(file.read_text()) for file in tmp_path.glob("pretrain/*/card.json")]
    assert {card["data"]["subset"] for card in cards} == {"meddel20", "random20"}
    assert {card["recipe"]["epochs"] for card in cards} == {1.0}
    assert "meddel20 | random20 |" in (tmp_path / "comparisons.md").read_text()
    assert main(["benchmark", *flags]) == 0
    assert stamps(tmp_path, "results", "pretrain") == before
    assert pq.read_table(tmp_path / "results.parquet").equals(table)
    told = capsys.readouterr().out
    assert "pretrain 2 of 2: " in told
    assert "| generic | meddel20 | meddel | 20.00 % |" in told


def test_flags_of_fine_tuning_reach_it() -> None:
    flags = FinetuneFlags(finetune_epochs=3, finetune_frozen=True, seed=4)
    assert finetune_of(flags) == replace(FinetuneConfig(), epochs=3, frozen=True, seed=4)
