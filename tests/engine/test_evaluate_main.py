"""`evaluate` on the command line: what it tells of an encoder and its results, and what stops it at once."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from training.__main__ import main
from training.evaluation.run import subject_of
from training.reporting import results


@pytest.fixture(scope="module")
def encoder(encoder_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoders") / "a")


def test_an_encoder_tells_its_pretraining(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    def about(name: str, **values: Any) -> dict[str, Any]:
        return subject_of(str(encoder_folder(tmp_path / name, name, **values)), None).about

    none = {"outlier": 0, "duplicate": 0, "over budget": 0}
    assert about("budget", counts=none | {"over budget": 9})["method"] == "meddel"
    assert about("epsilon", ratio=0.5, counts=none | {"outlier": 9})["method"] == "meddel"
    assert about("thresholds", ratio=0.21, counts=none | {"duplicate": 9})["method"] == "meddel"
    assert about("copies-alone", ratio=0.94, counts=none | {"exact copy": 9}) == {
        "subset": "copies-alone",
        "method": "full",
        "ratio_nominal": 1.0,
        "ratio_actual": 0.94,
        "pretrain_epochs": 12.5,
    }
    assert about("all", ratio=1.0, method="random", counts=none)["method"] == "full"
    weights = subject_of(str(tmp_path / "all" / "encoder.safetensors"), "test_vit")
    assert weights.about["method"] == "weights"
    assert weights.about["ratio_actual"] is None
    assert weights.sha256 == subject_of(str(tmp_path / "all"), None).sha256
    assert subject_of("random", "test_vit").about["subset"] == "untrained test_vit"


def test_the_command_line_evaluates(
    local_ray: None, polyps: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--encoder={encoder}", f"--dataset=generic={polyps}", f"--output={tmp_path}", "--probe=linear"]
    assert main(["evaluate", *flags, "--image-size=32", "--decoded-size=48"]) == 0
    told = capsys.readouterr().out
    [row] = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert row["train_dataset"] == row["test_dataset"] == "generic"
    assert f"| generic | a | meddel | 20.00 % | {100 * row['miou']:.2f} [" in told
    assert math.isfinite(row["miou"])
    assert results.checked(pq.read_table(tmp_path / "results.parquet")).num_rows == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": "generic={there}/nothing"}, "nothing is not a folder"),
        ({"dataset": "generik={polyps}"}, "no segmentation set is named 'generik'; did you mean generic?"),
        ({"dataset": "kvasir-seg={polyps}"}, "kvasir-seg in"),
        ({"dataset": "{polyps}"}, "is not NAME=DIR"),
        ({"dataset": ":generic={polyps}"}, "has no label before the colon"),
        ({"dataset": "endotect={endotect}"}, "all of endotect is test, so nothing can be trained on it"),
        ({"external": "phantom:generic={polyps}"}, "several sets are called phantom"),
        ({"dataset": "generic={polyps}/test/images"}, "is incomplete, is another set, or is packed in another way"),
        ({"encoder": "{there}/nothing"}, "nothing is neither a folder, nor a file, nor `random`"),
        ({"encoder": "{there}"}, "has no encoder.safetensors with a card.json"),
        ({"encoder": "random"}, "the encoder of random is not named"),
        ({"image_size": 33}, "image_size"),
    ],
)
def test_what_cannot_be_stops_before_anything_is_trained(
    polyps: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    endotect = tmp_path / "endotect"
    for kind in ("images", "masks"):
        (endotect / kind).mkdir(parents=True)
        for number in range(200):
            (endotect / kind / f"{number}.jpg").touch()
    places = {"there": tmp_path, "polyps": polyps, "endotect": endotect}
    given = {"dataset": f"phantom:generic={polyps}", "encoder": str(encoder), "image_size": 32} | changes
    flags = [f"--{name.replace('_', '-')}={str(value).format(**places)}" for name, value in given.items()]
    assert main(["evaluate", *flags, f"--output={tmp_path / 'out'}"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
