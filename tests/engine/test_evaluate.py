"""`evaluate` on the phantom's masks: what it leaves, that it equals fine-tuning by hand, and goes on when cut."""

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from training.datasets import folders
from training.datasets.masks import arrays
from training.datasets.near_copies import near_pairs, small_copies
from training.datasets.prepared import Pairs
from training.evaluation.config import EncoderConfig, EvaluateConfig
from training.evaluation.evaluate import evaluate
from training.metrics import iou
from training.metrics.intervals import paired_comparison
from training.metrics.normdel import normdel
from training.segmentation import finetune, model, probes, tokens
from training.segmentation.config import FinetuneConfig

FAST: dict[str, Any] = {"learning_rate": 4e-3, "layer_decay": 1.0, "head_cells": 8, "head_width": 32, "patience": 0}
SMALL = FinetuneConfig(epochs=3, batch_size=4, image_size=32, precision="float32", **FAST)
SIZE = 48
PARTS = ("train", "validation", "test")
Ask = Callable[..., tuple[EncoderConfig, EvaluateConfig, FinetuneConfig]]


@pytest.fixture(scope="module")
def encoder(encoder_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoders") / "a")


@pytest.fixture(scope="module")
def ask(polyps: Path, encoder: Path) -> Ask:
    """ask(output, **changes): what `evaluate` is asked for; finetune={...} changes the fine-tuning."""

    def make(output: Path, **changes: Any) -> tuple[EncoderConfig, EvaluateConfig, FinetuneConfig]:
        tuned = replace(SMALL, **changes.pop("finetune", {}))
        encoders = EncoderConfig(encoder=changes.pop("encoder", (str(encoder),)), name=changes.pop("name", None))
        asked = {"dataset": (f"phantom:generic={polyps}",), "seeds": 2, "decoded_size": SIZE}
        return encoders, EvaluateConfig(output=str(output), **asked | changes), tuned

    return make


@pytest.fixture(scope="module")
def done(local_ray: None, ask: Ask, polyps: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """An undisturbed evaluation on the phantom, with all of its frames as an external set. Not to be changed."""
    output = tmp_path_factory.mktemp("done")
    return output, evaluate(*ask(output, external=(f"all:generic={polyps}",)))


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def part(folder: Path, name: str) -> Pairs:
    examples = [one for one in folders.find_dataset("generic", str(folder)).examples if one.split == name]
    return Pairs(*arrays(examples, SIZE))


def unseen(folder: Path) -> Pairs:
    """The test part without near copies of what is trained on or stopped by."""
    test, taught = part(folder, "test"), [part(folder, name).images for name in ("train", "validation")]
    near = {row for row, _ in near_pairs(small_copies(test.images), small_copies(np.concatenate(taught)))}
    rows = [row for row in range(len(test.images)) if row not in near]
    assert 0 < len(rows) < len(test.images)
    return Pairs(test.images[rows], test.masks[rows])


def files(output: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of the file of every run."""
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(output.glob("results/*"))}


def test_rows_are_those_of_fine_tuning_by_hand(done: tuple[Path, pa.Table], polyps: Path, encoder: Path) -> None:
    train, validation, test = part(polyps, "train"), part(polyps, "validation"), unseen(polyps)
    for seed in (0, 1):
        rows = {
            row["epoch"]: row for row in done[1].to_pylist() if row["seed"] == seed and row["test_dataset"] == "phantom"
        }
        assert list(rows) == [1, 2, 3]
        best, expected = -1.0, 0
        with one_thread():
            loaded = tokens.load_encoder(str(encoder), 32)
            for epoch in finetune.finetune(loaded, train, validation, replace(SMALL, seed=seed)):
                if epoch.metrics["validation_iou"] > best:
                    best, expected = epoch.metrics["validation_iou"], epoch.number
                ious = iou.image_ious(model.predict(epoch.model, test.images), test.masks)
                assert rows[epoch.number]["miou"] == pytest.approx(ious.mean(), abs=1e-12)
                if rows[epoch.number]["final"]:
                    np.testing.assert_allclose(rows[epoch.number]["image_iou"], ious, atol=1e-12)
        assert [epoch for epoch, row in rows.items() if row["final"]] == [expected]
        assert all((row["image_iou"] is None) == (not row["final"]) for row in rows.values())


def test_rows_say_what_was_evaluated(done: tuple[Path, pa.Table]) -> None:
    output, table = done
    assert pq.read_table(output / "results.parquet").equals(table)
    final = table.filter(table["final"]).to_pylist()
    assert {(row["train_dataset"], row["test_dataset"], row["seed"]) for row in final} == {
        ("phantom", test, seed) for test in ("phantom", "all") for seed in (0, 1)
    }
    for row in final:
        told = {name: row[name] for name in ("subset", "method", "ratio_nominal", "ratio_actual", "pretrain_epochs")}
        assert told == {
            "subset": "a",
            "method": "meddel",
            "ratio_nominal": 0.2,
            "ratio_actual": 0.1902,
            "pretrain_epochs": 12.5,
        }
        assert row["miou"] == pytest.approx(np.mean(row["image_iou"]))
        assert row["low"] <= row["miou"] <= row["high"]
    own = [row["image_iou"] for row in final if row["test_dataset"] == "phantom"]
    assert own[0] != own[1]
    assert max(row["miou"] for row in final) > 0


def test_no_copy_of_what_was_trained_on_is_tested_on(done: tuple[Path, pa.Table], polyps: Path) -> None:
    """Neither one of equal bytes nor one that is the same picture otherwise."""
    small = {name: small_copies(part(polyps, name).images) for name in PARTS}
    known = np.concatenate([small["train"], small["validation"]])
    expected = {"phantom": len(unseen(polyps).images)}
    every = np.concatenate([small[name] for name in PARTS])
    expected["all"] = len(every) - len({row for row, _ in near_pairs(every, known)})
    content = {name: [file.read_bytes() for file in sorted((polyps / name / "images").iterdir())] for name in PARTS}
    exact = sum(data not in {*content["train"], *content["validation"]} for name in PARTS for data in content[name])
    assert 0 < expected["all"] < exact < len(every)
    found = {(row["test_dataset"], row["images"]) for row in done[1].to_pylist()}
    assert found == set(expected.items())


def test_normdel_stands_beside_miou(done: tuple[Path, pa.Table], ask: Ask, polyps: Path) -> None:
    output, table = done
    before = files(output)
    final = table.filter(table["final"]).to_pylist()
    for reading, ratio in (("actual", 0.1902), ("nominal", 0.2)):
        again = evaluate(*ask(output, external=(f"all:generic={polyps}",), reading=reading))
        assert again.equals(table)
        with (output / "summary.csv").open() as file:
            records = list(csv.DictReader(file))
        assert {record["test_dataset"] for record in records} == {"phantom", "all"}
        for record in records:
            values = [row["miou"] for row in final if row["test_dataset"] == record["test_dataset"]]
            assert (record["seeds"], record["reading"]) == ("2", reading)
            assert float(record["miou"]) == pytest.approx(np.mean(values))
            assert float(record["std"]) == pytest.approx(np.std(values, ddof=1))
            assert float(record["low"]) <= np.mean(values) <= float(record["high"])
            for name, of in (("normdel", "miou"), ("normdel_low", "low"), ("normdel_high", "high")):
                assert float(record[name]) == pytest.approx(float(normdel(float(record[of]), ratio)))
            assert f"{100 * float(record['normdel']):.2f} [" in (output / "summary.md").read_text()
    assert files(output) == before


def test_best_and_worst_predictions_are_shown(done: tuple[Path, pa.Table]) -> None:
    pictures = sorted(done[0].glob("outlines/*.png"))
    assert [file.name.rpartition("-")[0] for file in pictures] == [
        f"a-phantom-{test}-seed{seed}" for test in ("all", "phantom") for seed in (0, 1)
    ]
    for file in pictures:
        with Image.open(file) as image:
            assert image.width == 2 * (2 * SIZE + 4) + 12


class Holder:
    """Holds a CPU."""

    def ready(self) -> None:
        """Come back once the CPU is held."""


def test_one_worker_as_two_and_only_what_is_missing(
    done: tuple[Path, pa.Table], ask: Ask, polyps: Path, tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(done[0], output)
    before = files(output)
    first, second = before
    (output / "results" / first).unlink()
    asked = ask(output, external=(f"all:generic={polyps}",))
    holder = ray.remote(Holder).options(num_cpus=1).remote()  # leaves one CPU, so one task at a time
    ray.get(holder.ready.remote())
    try:
        assert evaluate(*asked).equals(done[1])
        mended = files(output)
        assert mended[second] == before[second]
        assert mended[first][0] > before[first][0]
        assert mended[first][1] == before[first][1]
        assert evaluate(*ask(tmp_path / "anew", external=(f"all:generic={polyps}",))).equals(done[1])
    finally:
        ray.kill(holder)
    assert {name: content for name, (_, content) in files(tmp_path / "anew").items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_what_was_done_before_a_failure_stays(local_ray: None, ask: Ask, polyps: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(polyps, broken)
    train = sorted((broken / "train" / "masks").iterdir())
    whole = {file: file.read_bytes() for file in train}
    for file in train:
        with Image.open(file) as image:
            Image.new("L", image.size).save(file)
    both = (f"phantom:generic={polyps}", f"broken:generic={broken}")
    holder = ray.remote(Holder).options(num_cpus=1).remote()  # one task at a time, in order
    ray.get(holder.ready.remote())
    asked = ask(tmp_path / "out", dataset=both, seeds=1, test_every=0)
    with pytest.raises(ray.exceptions.RayTaskError, match="no lesion pixel"):
        evaluate(*asked)
    before = files(tmp_path / "out")
    assert len(before) == 1
    assert not (tmp_path / "out" / "results.parquet").exists()
    for file, content in whole.items():
        file.write_bytes(content)
    ray.kill(holder)
    table = evaluate(*asked)
    after = files(tmp_path / "out")
    assert len(after) == 2
    assert {name: after[name] for name in before} == before
    pairs = {(row["train_dataset"], row["test_dataset"]): row["miou"] for row in table.to_pylist()}
    assert pairs["phantom", "phantom"] == pairs["broken", "broken"]  # the same set by two names
    assert len(pairs) == 4


@pytest.mark.parametrize("way", ["linear", "knn"])
def test_probes_run_once_and_are_those_of_the_library(
    local_ray: None, ask: Ask, polyps: Path, encoder: Path, tmp_path: Path, way: str
) -> None:
    table = evaluate(*ask(tmp_path, probe=way))
    [row] = table.to_pylist()
    train, test = part(polyps, "train"), unseen(polyps)
    loaded = tokens.load_encoder(str(encoder), 32)
    known, asked = (torch.cat(list(tokens.encode(loaded, one.images, "float32"))) for one in (train, test))
    found = (probes.linear_probe if way == "linear" else probes.neighbour_probe)(known, train.masks, asked, SIZE)
    np.testing.assert_allclose(row["image_iou"], iou.image_ious(found, test.masks), atol=0.02)
    assert (row["seed"], row["epoch"], row["final"]) == (0, 0, True)


def test_encoders_are_compared_with_the_first(
    encoder_folder: Callable[..., Path],
    local_ray: None,
    ask: Ask,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = encoder_folder(tmp_path / "b", "b", seed=5, method="random")
    table = evaluate(*ask(tmp_path / "out", encoder=(str(encoder), str(other)), probe="linear"))
    ious = {row["subset"]: row["image_iou"] for row in table.to_pylist()}
    with (tmp_path / "out" / "comparisons.csv").open() as file:
        [record] = csv.DictReader(file)
    expected = paired_comparison(ious["b"], ious["a"])
    assert (record["subset"], record["against"], record["images"]) == ("b", "a", str(expected.images))
    for name in ("difference", "low", "high", "p_value"):
        assert float(record[name]) == pytest.approx(getattr(expected, name))
    assert f"{100 * expected.difference:+.2f} [" in capsys.readouterr().out


def test_two_encoders_of_one_name_are_refused(
    encoder_folder: Callable[..., Path], ask: Ask, encoder: Path, tmp_path: Path
) -> None:
    other = encoder_folder(tmp_path / "b", "a", seed=5)
    with pytest.raises(ValueError, match="would both be 'a' in the results"):
        evaluate(*ask(tmp_path / "out", encoder=(str(encoder), str(other))))
