"""`python -m training`: what it lists, which flags there are, what a wrong command is told, and that help is quick."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from curation import cli
from curation.sources.pools import POOLS
from training import __main__ as command_line
from training.__main__ import COMMANDS, main
from training.datasets import folders
from training.datasets.catalogue import LAYOUTS
from training.evaluation.config import FinetuneFlags, finetune_of
from training.metrics.normdel import normdel
from training.pretraining.config import LengthConfig
from training.segmentation.config import FinetuneConfig


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert list(COMMANDS) == ["pretrain", "evaluate", "benchmark", "normdel", "datasets", "submit", "follow", "stop"]
    for name, command in COMMANDS.items():
        assert f"{name:9} {command.about}" in told


@pytest.mark.parametrize("command", ["--help", "datasets", "normdel"])
def test_what_needs_no_pytorch_loads_none(command: str) -> None:
    arguments = [command, "--miou", "0.5", "--ratio", "0.2"] if command == "normdel" else [command]
    program = f"import sys; from training.__main__ import main; main({arguments!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["evalute"], "no command 'evalute'; did you mean evaluate?"),
        (["bench"], "no command 'bench'; did you mean benchmark?"),
        (["xyz"], "no command 'xyz'\n"),
        (["datasets", "--names"], "there is no flag --names"),
        (["normdel", "--miu", "0.5"], "there is no flag --miu; did you mean --miou?"),
        (["normdel", "--miou", "76.4", "--ratio", "0.2"], "mIoU is 76.4; it must lie within 0 and 1"),
        (["evaluate", "--output", "o", "--dataset", "generic=d"], "no encoder given"),
        (["evaluate", "--output", "o", "--encoder", "e"], "no data set given"),
        (["evaluate", "--output", "o", "--encoder", "e", "--dataset", "generic=d", "--seeds", "0"], "seeds is 0"),
        (["benchmark", "--output", "o", "--dataset", "generic=d", "--epochs", "1"], "no subset given"),
        (["benchmark", "--finetune-epoch", "1"], "there is no flag --finetune-epoch; did you mean --finetune-epochs?"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert f"error: {told}" in capsys.readouterr().err


def test_normdel_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["normdel", "--miou", "0.7637", "--ratio", "0.2"]) == 0
    assert f"NormDEL   {float(normdel(0.7637, 0.2)):.4f}" in capsys.readouterr().out


def test_datasets_are_listed_with_what_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    told = capsys.readouterr().out
    for name in ("kvasir-instrument", "kvasir-seg", "imageclefmed", "etis-larib", "polypgen2021", "cvc-300", "generic"):
        assert f"{name}: " in told
    sets, _, presets = told.partition("\nPools for pre-training")
    assert sets.count("licence: ") == sets.count("cite: ") == sets.count("split: ") == sets.count("masks: ") >= 12
    assert folders.expected(LAYOUTS["kvasir-seg"]).replace("  ", "    ") in sets
    assert "--source NAME=DIR" in presets
    for name, pool in POOLS.items():
        assert f"\n{name}: " in presets
        assert f"layout: {pool.layout}\n" in presets


def test_the_flags_of_pretraining_are_those_of_its_method() -> None:
    def flags(*arguments: str) -> set[str]:
        return set(cli.field_names(COMMANDS["pretrain"].configs(arguments)))

    assert {"subset", "output", "epochs", "workers", "mask_ratio"} <= flags()
    assert "temperature" in flags("--method", "simclr")
    assert "temperature" in flags("--method=simclr")
    assert "mask_ratio" not in flags("--method=simclr")


def test_the_benchmark_tells_pretraining_and_finetuning_apart() -> None:
    configs = COMMANDS["benchmark"].configs([])
    names = set(cli.field_names(configs))
    own = {field.name for field in dataclasses.fields(FinetuneConfig)}
    assert {"subset", "more_lengths", "dataset", "external", "seeds", "equal_compute_to", "epochs", "encoder"} <= names
    assert {f"finetune_{name}" for name in own - {"seed", "image_size", "precision"}} <= names
    given = ["--subset=a", "--subset=b", "--output=o", "--dataset=generic=d", "--epochs=5", "--finetune-epochs=7"]
    parsed = cli.parse_flags(
        "training benchmark", "", configs, [*given, "--learning-rate=1", "--image-size=64", "--seed=3"]
    )
    by_type: dict[type, Any] = {type(config): config for config in parsed}
    assert parsed[0].subset == ("a", "b")
    assert by_type[LengthConfig].epochs == 5
    tuned = finetune_of(by_type[FinetuneFlags])
    assert tuned == FinetuneConfig(epochs=7, image_size=64, seed=3)
    with pytest.raises(ValueError, match=r"--finetune-.*batch_size is 0"):
        finetune_of(FinetuneFlags(finetune_batch_size=0))


def test_what_pretraining_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = {"loss": 0.25, "cost": {"images_seen": 12}}
    seen: list[Any] = []
    real = command_line.part
    stand_in = {"pretraining.pretrain.pretrain": lambda settings: seen.append(settings) or card}
    monkeypatch.setattr(command_line, "part", lambda path: stand_in.get(path) or real(path))
    assert main(["pretrain", "--subset", "s", "--output", "o", "--steps", "3", "--method", "simclr"]) == 0
    assert capsys.readouterr().out == "loss 0.2500 after 12 images\n"
    assert (seen[0].what.subset, seen[0].length.steps, seen[0].model.temperature) == ("s", 3, 0.1)
