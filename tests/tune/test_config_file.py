"""A --config file is exactly as flags: every field of every command of the three packages, and what is refused."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from curation import __main__ as curation_main
from curation import cli
from training import __main__ as training_main
from training.methods.config import SimclrAugmentation, SimclrConfig
from training.pretraining.config import OptimiserConfig, RecordConfig
from tune import __main__ as tune_main

Written = Callable[[str], str]
PACKAGES: dict[str, ModuleType] = {"curation": curation_main, "training": training_main, "tune": tune_main}
CONFIGS = {
    config.__name__: config
    for module in PACKAGES.values()
    for command in module.COMMANDS.values()
    for method in ("mae", "simclr")
    for config in command.configs(["--method", method])
}
NEEDED = {
    "BenchmarkConfig": {"subset": "s"},
    "EncoderConfig": {"encoder": "e"},
    "EvaluateConfig": {"dataset": "generic=x"},
    "LengthConfig": {"epochs": "1"},
    "NormdelConfig": {"miou": "0.5", "ratio": "0.5"},
    "SpaceConfig": {"d": "0.5", "search": "random"},
    "Question": {"question": "non-inferior"},
    "HalvingConfig": {"halving": "2"},
}
# What other fields decide, or a check of its own: refused alike from flags and from a file.
NOT_ALONE = {"epsilon", "d", "steps", "images_seen", "equal_compute_to", "rule", "subset", "low", "high", "budget"}
NOT_ALONE |= {"lineage_pattern", "link", "shard_mb", "shuffle_seed", "keep_together", "mask", "keep"}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> str:
        (tmp_path / "settings.yaml").write_text(text)
        return str(tmp_path / "settings.yaml")

    return write


def samples(hint: Any) -> Iterator[list[str]]:
    """Values of a type, each as the words that stand behind a flag."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from ([str(choice)] for choice in inner)
    elif origin is tuple and inner[-1] is Ellipsis:
        each = [words[0] for words in samples(inner[0])]
        yield from ([each[0]], each[:2])
    elif origin is tuple:
        yield [words[0] for one in inner for words in list(samples(one))[:1]]
        yield [list(samples(one))[place][0] for place, one in enumerate(inner)]
    elif inner:
        yield from (words for one in inner for words in samples(one))
    elif hint is not type(None):
        known = {int: ["7", "16", "0"], float: ["1e-3", "0.5", "2"], str: ["a text", "0123", "no", "2024-01-01", "1_0"]}
        yield from ([text] for text in known[hint])


def outcome(config: type[Any], arguments: Sequence[str]) -> Any:
    """The config, or what was refused."""
    try:
        return cli.parse_flags("x", "", [config], arguments)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_command_is_the_same_from_a_file(name: str, written: Written) -> None:
    config = CONFIGS[name]
    fields = dataclasses.fields(config)
    base = {field.name: "x" for field in fields if field.default is dataclasses.MISSING} | NEEDED.get(name, {})
    accepted = set()
    for field in fields:
        others = [f"--{key.replace('_', '-')}={value}" for key, value in base.items() if key != field.name]
        hint, flag = get_type_hints(config)[field.name], f"--{field.name.replace('_', '-')}"
        tried = [([flag], ["true"]), ([flag.replace("--", "--no-", 1)], ["off"])] if hint is bool else []
        for words in samples(hint) if hint is not bool else ():
            listed = f"[{', '.join(json.dumps(word) for word in words)}]"
            texts = [listed] if get_origin(hint) is tuple else [words[0], json.dumps(words[0])]
            tried.append(([flag, *words], texts))
        for flags, texts in tried:
            expected = outcome(config, [*others, *flags])
            for text in texts:
                assert outcome(config, [*others, f"--config={written(f'{field.name}: {text}')}"]) == expected, text
            accepted |= {field.name} if isinstance(expected, list) else set()
    left = {field.name for field in fields} - accepted
    assert left <= NOT_ALONE


def test_what_a_method_adds_is_known_from_the_file(written: Written) -> None:
    path = written("method: simclr\nscale: [0.3, 1.0]\ntemperature: 2e-1\nlearning_rate: 1e-3\nloggers: [mlflow]\n")
    arguments = ["--subset=s", "--output=o", "--epochs=1", "--config", path]
    found = cli.parse_flags("x", "", training_main.recipe_configs(arguments), arguments)
    by_type = {type(config): config for config in found}
    assert by_type[SimclrConfig].temperature == 0.2
    assert by_type[SimclrAugmentation].scale == (0.3, 1.0)
    assert by_type[OptimiserConfig].learning_rate == 0.001
    assert by_type[RecordConfig].logger == ("mlflow",)
    assert training_main.recipe_configs([*arguments, "--method", "mae"])[-1] is not SimclrAugmentation


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: many", "steps is 'many'; expected a whole number or null"),
        ("scale: 0.3", "scale is '0.3'; expected a list of 2: a number"),
        ("scale: [0.3]", "scale is [0.3]; expected a list of 2: a number"),
        ("steps: [3]", "steps is [3]; expected a whole number or null"),
        ("steps: {a: 3}", "steps is names with values; expected a whole number or null"),
        ("compile: 1", "compile is '1'; expected true or false"),
        ("compile: 'true'", "compile is 'true'; expected true or false"),
        ("method: simcrl", "method is 'simcrl'; expected mae or simclr"),
        ("logger: [[wandb]]", "logger is [...]; expected a list of mlflow or wandb"),
        ("logger: [null]", "logger is [null]; expected a list of mlflow or wandb"),
        ("seed: 1\nseed: 2", "has seed more than once"),
        ("batch-size: 16\nbatch_size: 32", "has batch_size more than once"),
        ("logger: mlflow\nloggers: [wandb]", "has logger more than once"),
        ("sed: 1", "has an unknown name 'sed'; did you mean seed?"),
        ("1: 2", "has an unknown name '1'"),
        ("? [a]\n: 2", "has an unknown name"),
        ("a: 1\n---\nb: 2", "cannot be read"),
        ("just words", "holds a single value, expected names with values"),
    ],
)
def test_a_wrong_file_is_told_by_name_and_type(text: str, told: str, written: Written) -> None:
    arguments = ["--subset=s", "--output=o", "--epochs=1", f"--config={written(text)}"]
    with pytest.raises(ValueError, match=r"--config .*settings\.yaml") as caught:
        cli.parse_flags("x", "", training_main.recipe_configs(arguments), arguments)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n", "{}\n", "steps:\nseed: null\nlogger: ~\ncompile:\n"])
def test_nothing_in_a_file_is_the_defaults(text: str, written: Written) -> None:
    arguments = ["--subset=s", "--output=o", "--epochs=1"]
    configs = training_main.recipe_configs(arguments)
    assert cli.parse_flags("x", "", configs, [*arguments, "--config", written(text)]) == cli.parse_flags(
        "x", "", configs, arguments
    )


def test_merged_names_give_way_to_own_ones(written: Written) -> None:
    path = written("<<: {seed: 4, batch_size: 32}\nseed: 5\n")
    arguments = ["--subset=s", "--output=o", "--epochs=1", "--config", path]
    found = cli.parse_flags("x", "", training_main.recipe_configs(arguments), arguments)
    assert found[0].seed == 5
    assert found[3].batch_size == 32


def test_one_file_that_can_be_read(written: Written, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(ValueError, match="--config") as caught:
            cli.parse_flags("x", "", training_main.recipe_configs(arguments), arguments)
        return str(caught.value)

    path = written("seed: 1")
    assert "is given 2 times" in refused("--config", path, f"--config={path}")
    assert "needs the name" in refused("--config")
    assert "needs the name" in refused("--config=")
    assert "needs the name" in refused("--config", "--seed=1")
    assert "cannot be read" in refused("--config", str(tmp_path))
    (tmp_path / "bytes.yaml").write_bytes(b"seed: \xff\xfe\x00")
    assert "cannot be read" in refused("--config", str(tmp_path / "bytes.yaml"))
