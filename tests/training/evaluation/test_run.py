"""A set made ready and a trial on it: what names a trial's file, what is left out of a test, and a GPU as a CPU."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from curation.store.directory import RunDirectory
from training.datasets import folders
from training.datasets.prepared import PreparedSet, pairs, prepare_set
from training.evaluation import benchmark, finetuned
from training.evaluation.config import EvaluateConfig
from training.evaluation.run import EvaluationRun, Subject, carry_out_run, subject_of
from training.evaluation.sets import find_sources, prepare_all
from training.segmentation.config import FinetuneConfig

CONFIG = FinetuneConfig(
    epochs=2, batch_size=4, image_size=32, precision="float32", learning_rate=4e-3, layer_decay=1.0, head_cells=8
)
COUNTS = {"train": 8, "validation": 4, "test": 6}
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(folder: Path, seed: int = 0, counts: dict[str, int] | None = None) -> Path:
    """Dark noise with a bright square, and the square's mask."""
    rng = np.random.default_rng(seed)
    for part, count in (counts or COUNTS).items():
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, mask = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), np.uint8)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + 16, left : left + 16] = 255
            image[mask > 0] += 150
            Image.fromarray(image).save(folder / part / "images" / f"{part}{number}.png")
            Image.fromarray(mask).save(folder / part / "masks" / f"{part}{number}.png")
    return folder


def ready(run: RunDirectory, folder: Path, label: str = "squares", **changes: Any) -> PreparedSet:
    values = {"size": 40, "split_seed": 0} | changes
    return prepare_set(run, label, folders.find_dataset("generic", str(folder)), values["size"], values["split_seed"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def trial(folder: Path, tmp_path: Path) -> EvaluationRun:
    one = ready(RunDirectory(str(tmp_path)), folder)
    return EvaluationRun(subject_of("random", "test_vit"), one, (one,), CONFIG, "finetune", 1)


def test_a_set_is_split_and_decoded_once(folder: Path, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    one = ready(run, folder)
    assert {part: len(rows) for part, rows in one.parts.items()} == COUNTS
    files = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert ready(run, folder) == one
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == files
    test = pairs(run, one, one.parts["test"])
    for place, row in enumerate(one.parts["test"]):
        name = one.names[row].rpartition("/")[2]
        with Image.open(folder / "test" / "images" / f"{name}.png") as image:
            np.testing.assert_array_equal(test.images[place], np.asarray(image))
        with Image.open(folder / "test" / "masks" / f"{name}.png") as mask:
            np.testing.assert_array_equal(test.masks[place], np.asarray(mask) // 255)
    whole = ready(run, folder, split_seed=None)
    assert whole.parts == {"train": (), "validation": (), "test": tuple(range(18))}
    assert whole.stem == one.stem
    assert ready(run, folder, size=32).stem != one.stem
    (tmp_path / "cache" / f"{one.stem.removeprefix('cache/')}.json").unlink()  # what stands for the arrays
    ready(run, folder)
    assert set(files) <= {file.name for file in (tmp_path / "cache").iterdir()}


def test_what_is_in_no_part_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two training images are exact copies of one that is tested on and one that is stopped by."""
    here, other = draw(tmp_path / "here"), draw(tmp_path / "other", seed=1)
    for number, part in enumerate(("test", "validation")):
        copy = here / "train" / "images" / f"train{number}.png"
        copy.write_bytes((here / part / "images" / f"{part}0.png").read_bytes())
    monkeypatch.setattr(
        "training.evaluation.sets.stream", lambda _, calls, **__: [prepare_set(*call) for call in calls]
    )
    config = EvaluateConfig(
        output="unused", dataset=(f"here:generic={here}", f"other:generic={other}"), decoded_size=40
    )
    sets = prepare_all(RunDirectory(str(tmp_path / "run")), find_sources(config), config)
    assert [sets[0].names[row] for row in sets[0].left_out] == ["train/train0", "train/train1"]
    rows = [benchmark.dataset_row(one) for one in sets]
    assert [(row.train, row.validation, row.test, row.left_out) for row in rows] == [(6, 4, 6, 2), (8, 4, 6, 0)]
    assert all(row.train + row.validation + row.test + row.left_out == row.images for row in rows)
    told = capsys.readouterr().out
    assert "here: 2 (train/train0, train/train1) of 18 images are in no part" in told
    assert "here: masks: 0 is background, 255 foreground" in told
    assert [line for line in told.splitlines() if line.startswith("other: ") and "masks: " not in line] == []


def test_arrays_of_other_rules_are_not_used_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(str(tmp_path))
    one = ready(run, folder)
    monkeypatch.setattr("training.datasets.prepared.READING_VERSION", 0)
    other = ready(run, folder)
    assert other.stem != one.stem
    assert other.fingerprints == one.fingerprints


def test_an_object_store_holds_the_decoded_images_too(folder: Path, tmp_path: Path) -> None:
    local, far = RunDirectory(str(tmp_path)), RunDirectory("memory://trial")
    here, there = ready(local, folder), ready(far, folder)
    assert here == there
    rows = here.parts["train"]
    np.testing.assert_array_equal(pairs(local, here, rows).images, pairs(far, there, rows).images)


def test_copies_of_what_was_trained_on_are_not_tested_on(folder: Path, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    other = draw(tmp_path / "other", seed=1)
    for number, part in enumerate(("train", "validation", "test")):
        data = (folder / part / "images" / f"{part}0.png").read_bytes()
        (other / "test" / "images" / f"test{number}.png").write_bytes(data)
    one, two = ready(run, folder), ready(run, other, "other")
    left = {two.names[row].rpartition("/")[2] for row in two.test_rows(one)}
    assert left == {"test2", "test3", "test4", "test5"}
    assert one.test_rows(one) == one.parts["test"]


def test_a_file_is_named_by_all_that_shapes_it(trial: EvaluationRun, folder: Path, tmp_path: Path) -> None:
    run, subject, one = RunDirectory(str(tmp_path)), trial.subject, trial.train
    again = draw(tmp_path / "again")
    (again / "test" / "masks" / "test0.png").write_bytes((again / "test" / "masks" / "test1.png").read_bytes())
    other_test, same = ready(run, again), ready(run, draw(tmp_path / "same"))
    external = ready(run, folder, "external", split_seed=None)
    small = ready(run, folder, size=32)
    changed = [
        replace(trial, subject=replace(subject, sha256="other weights")),
        replace(trial, subject=replace(subject, about=subject.about | {"subset": "other"})),
        replace(trial, train=replace(one, name="other"), tests=(one,)),
        replace(trial, train=replace(one, parts=one.parts | {"train": one.parts["train"][1:]})),
        replace(trial, train=replace(one, parts=one.parts | {"validation": one.parts["validation"][1:]})),
        replace(trial, train=small, tests=(small,)),
        replace(trial, tests=(other_test,)),
        replace(trial, tests=(one, external)),
        replace(trial, config=replace(CONFIG, seed=1)),
        replace(trial, config=replace(CONFIG, learning_rate=1e-3)),
        replace(trial, config=replace(CONFIG, precision="bfloat16")),
        replace(trial, probe="linear"),
        replace(trial, test_every=0),
    ]
    paths = [trial.results_path, *(each.results_path for each in changed)]
    assert len(set(paths)) == len(paths)
    assert replace(trial, train=same, tests=(same,)).results_path == trial.results_path  # the same files elsewhere
    assert (
        replace(trial, subject=Subject("elsewhere", subject.name, subject.sha256, subject.about)).results_path
        == trial.results_path
    )


def test_a_set_named_later_is_tested_without_fine_tuning_again(
    trial: EvaluationRun, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(str(tmp_path))
    first = run.read_table(carry_out_run(run, trial, "cpu")).to_pylist()
    assert 0 < run.read_json(trial.cost_path)["device_hours"] < 0.1
    more = replace(trial, tests=(trial.train, ready(run, draw(tmp_path / "other", seed=1), "later", split_seed=None)))
    with monkeypatch.context() as patch:
        patch.setattr(finetuned, "finetune", None)
        both = run.read_table(carry_out_run(run, more, "cpu"))
    assert [row for row in both.to_pylist() if row["test_dataset"] == trial.train.name] == first
    shutil.rmtree(tmp_path / finetuned.MODELS)
    assert run.read_table(carry_out_run(run, replace(more, keep_model=False), "cpu")).equals(both)  # from the beginning
    assert not (tmp_path / finetuned.MODELS).exists()


def test_names_that_are_no_file_names_make_pictures_too(trial: EvaluationRun) -> None:
    named = replace(trial, subject=replace(trial.subject, about=trial.subject.about | {"subset": "hub:a/b c"}))
    assert re.fullmatch(r"outlines/hub_a_b_c-squares-squares-seed0-[0-9a-f]{8}\.png", named.picture_path(trial.train))
    alike = [replace(trial.train, name=name) for name in ("a b", "a_b", "a/b", "../a_b", "x" * 300, "x" * 301)]
    pictures = {named.picture_path(test) for test in alike}
    assert len(pictures) == len(alike)
    assert all(re.fullmatch(r"outlines/[A-Za-z0-9._-]{1,251}\.png", picture) for picture in pictures)


def test_the_curve_has_a_row_each_few_epochs_and_the_final_one(trial: EvaluationRun, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    five = replace(trial, config=replace(CONFIG, epochs=5), test_every=2)
    rows = run.read_table(carry_out_run(run, five, "cpu")).to_pylist()
    final = [row["epoch"] for row in rows if row["final"]]
    assert len(final) == 1
    assert [row["epoch"] for row in rows] == sorted({2, 4, *final})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("probe", ["finetune", "linear", "knn"])
def test_a_gpu_as_the_cpu(trial: EvaluationRun, tmp_path: Path, probe: Any) -> None:
    run, asked = RunDirectory(str(tmp_path)), replace(trial, probe=probe)
    tables = [run.read_table(carry_out_run(run, asked, device)).to_pylist() for device in ("cpu", "cuda")]
    assert torch.cuda.max_memory_allocated() > 0
    for here, there in zip(*tables, strict=True):
        assert there["miou"] == pytest.approx(here["miou"], abs=0.05)
        assert (there["epoch"], there["images"], there["seed"]) == (here["epoch"], here["images"], here["seed"])
