import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data.exceptions import UserCodeException

from curation import __main__ as program
from curation import cli
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.engine import errors
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig

EVERY = (IngestConfig, EmbedConfig, ClusterConfig, SelectConfig)


def parse(*arguments: str, configs: tuple[type[Any], ...] = (IngestConfig,)) -> Any:
    parsed = cli.parse_flags("step", "What it is for.", configs, arguments)
    return parsed if len(parsed) > 1 else parsed[0]


@pytest.fixture
def yaml(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        (tmp_path / "settings.yaml").write_text(text)
        return str(tmp_path / "settings.yaml")

    return write


def exit_code(*arguments: str, configs: tuple[type[Any], ...] = (IngestConfig,)) -> Any:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments, configs=configs)
    return caught.value.code


def test_flags_fill_a_config_and_the_rest_has_its_defaults() -> None:
    parsed = parse("--run-dir", "r", "--source", "a", "--max-rejected", "0.5", "--lineage-pattern", "(?P<patient>p)")
    assert parsed == IngestConfig(run_dir="r", source=("a",), max_rejected=0.5, lineage_pattern="(?P<patient>p)")


def test_repeated_flags_add_up_in_their_order() -> None:
    flags = ("--include", "*.png", "--source", "b", "--include", "*.jpg", "--source", "a", "--run-dir", "r")
    assert parse(*flags) == IngestConfig(run_dir="r", source=("b", "a"), include=("*.png", "*.jpg"))
    parsed = parse("--run-dir", "r", "--grid-d", "0.9", "--grid-d", "-0.5", configs=(SelectConfig,))
    assert parsed.grid_d == (0.9, -0.5)


def test_repeated_flags_take_several_values_and_have_a_plural() -> None:
    flags = ("--sources", "b", "a=1", "--run-dir", "r", "--include=*.png", "*.jpg", "--sources=c")
    assert parse(*flags) == IngestConfig(run_dir="r", source=("b", "a=1", "c"), include=("*.png", "*.jpg"))
    parsed = parse("--run-dir", "r", "--grid-d", "0.9", "-0.5", configs=(SelectConfig,))
    assert parsed.grid_d == (0.9, -0.5)
    assert exit_code("--run-dir", "r", "--source") == 2
    assert exit_code("--run-dir", "r", "s", "--source", "a") == 2
    with pytest.raises(ValueError, match="there is no flag --run-dirs"):
        parse("--run-dirs", "r", "--source", "a")


def test_every_spelling_of_a_flag() -> None:
    expected = IngestConfig(run_dir="r", source=("a",), part_rows=7)
    assert parse("--run-dir=r", "--source=a", "--part-rows=7") == expected
    assert parse("--run_dir", "r", "--source", "a", "--part_rows", "7") == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--center",), {"center": True}),
        (("--no-center",), {"center": False}),
        (("--clusters", "auto"), {"clusters": "auto"}),
        (("--clusters", "7"), {"clusters": 7}),
    ],
)
def test_switches_and_alternatives(flags: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert parse("--run-dir", "r", *flags, configs=(ClusterConfig,)) == ClusterConfig(run_dir="r", **expected)


def test_numbers_choices_and_what_may_be_none() -> None:
    flags = ("--d", "-0.5", "--keep", "farthest", "--budget", "0.05", "--method", "semdedup")
    assert parse("--run-dir", "r", *flags, configs=(SelectConfig,)) == SelectConfig(
        run_dir="r", d=-0.5, keep="farthest", budget=0.05, method="semdedup"
    )


def test_configs_share_one_line_and_flags_of_one_name() -> None:
    flags = (
        "--run-dir",
        "r",
        "--source",
        "a",
        "--seed",
        "3",
        "--clusters",
        "9",
        "--max-rejected",
        "0.25",
        "--d",
        "0.9",
    )
    assert parse(*flags, configs=EVERY) == [
        IngestConfig(run_dir="r", source=("a",), max_rejected=0.25),
        EmbedConfig(run_dir="r", seed=3, max_rejected=0.25),
        ClusterConfig(run_dir="r", seed=3, clusters=9),
        SelectConfig(run_dir="r", seed=3, d=0.9),
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--source", "a"), "--run-dir"),
        (("--source", "a", "--run-dir", "r", "extra"), "extra"),
        (("--run-dir", "r", "--source", "a", "--part-rows", "many"), "--part-rows"),
        (("--run-dir", "r", "--source"), "--source"),
    ],
)
def test_a_wrong_line_exits_with_2(flags: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*flags) == 2
    assert told in capsys.readouterr().err


def test_a_wrong_choice_exits_with_2_and_names_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--run-dir", "r", "--rule", "all", configs=(SelectConfig,)) == 2
    told = capsys.readouterr().err
    assert all(choice in told for choice in ("all", "any", "greedy"))


def test_what_a_config_refuses_is_an_error() -> None:
    with pytest.raises(ValueError, match="no source given"):
        parse("--run-dir", "r")
    with pytest.raises(ValueError, match=r"budget is -1\.0"):
        parse("--run-dir", "r", "--budget", "-1", configs=(SelectConfig,))


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--soruce", "there is no flag --soruce; did you mean --source?"),
        ("--run-dri=x", "there is no flag --run-dri; did you mean --run-dir?"),
        ("--part_row", "there is no flag --part_row; did you mean --part-rows?"),
        ("--qqq", "there is no flag --qqq; expected one of --exclude, --include"),
    ],
)
def test_a_misspelt_flag_stops_with_the_nearest(flag: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="there is no flag") as caught:
        parse("--run-dir", "r", "--source", "a", flag, "x")
    assert told in str(caught.value)
    assert program.main(["ingest", "--run-dir", "r", "--source", "a", flag, "x"]) == 2
    assert f"error: {told}" in capsys.readouterr().err


SETTINGS = """
run-dir: r
source: [b, a]
max_rejected: 0.5
max-pixels: 1000
lineage_pattern: '(?P<patient>p\\d)'
exclude: '**/masks/*'
include:
"""


def test_yaml_by_the_same_names_with_dash_or_underscore(yaml: Any) -> None:
    expected = IngestConfig(
        run_dir="r",
        source=("b", "a"),
        max_rejected=0.5,
        max_pixels=1000,
        lineage_pattern=r"(?P<patient>p\d)",
        exclude=("**/masks/*",),
    )
    path = yaml(SETTINGS)
    assert parse("--config", path) == parse(f"--config={path}") == expected


def test_flags_win_over_yaml_wherever_they_stand(yaml: Any) -> None:
    path = yaml(SETTINGS)
    for arguments in (("--source", "z", "--config", path), ("--config", path, "--source", "z")):
        assert parse(*arguments).source == ("z",)
    parsed = parse("--run_dir=q", "--config", path, "--max-rejected", "0.25")
    assert (parsed.run_dir, parsed.max_rejected, parsed.source) == ("q", 0.25, ("b", "a"))


def test_lists_booleans_numbers_and_null_in_yaml(yaml: Any) -> None:
    path = yaml("run_dir: r\ncenter: true\nclusters: 5\n")
    assert parse("--config", path, configs=(ClusterConfig,)) == ClusterConfig(run_dir="r", center=True, clusters=5)
    assert parse("--config", path, "--no-center", configs=(ClusterConfig,)).center is False
    assert parse("--config", yaml("run_dir: r\ncenter: no\n"), configs=(ClusterConfig,)).center is False
    assert parse("--config", path, "--center", configs=(ClusterConfig,)).center is True
    path = yaml("run_dir: r\nd:\nepsilon: 0.5\nbudget:\ngrid_d: [-0.5, 0.3]\ngrid: false\nkeep: null\n")
    expected = SelectConfig(run_dir="r", epsilon=0.5, grid_d=(-0.5, 0.3))
    assert parse("--config", path, configs=(SelectConfig,)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("soruce: a\n", "has an unknown name 'soruce'; did you mean source?"),
        ("run-dri: a\n", "has an unknown name 'run_dri'; did you mean run_dir?"),
        ("zzz: a\n", "has an unknown name 'zzz'; expected one of exclude, include"),
        ("- a\n", "holds a list, expected names with values"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_wrong_yaml_is_an_error(text: str, told: str, yaml: Any) -> None:
    with pytest.raises(ValueError, match="--config") as caught:
        parse("--config", yaml(text), "--run-dir", "r", "--source", "a")
    assert told in str(caught.value)


def test_a_missing_yaml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--config .*none.yaml cannot be read"):
        parse("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="--config needs the name of a YAML file"):
        parse("--run-dir", "r", "--config")


def test_a_value_that_reads_like_a_flag_does_not_overrule_yaml(yaml: Any) -> None:
    assert parse("--config", yaml("seed: 5\n"), "--run-dir", "seed", configs=(ClusterConfig,)).seed == 5


def test_a_text_in_yaml_may_start_with_a_dash(yaml: Any) -> None:
    assert parse("--config", yaml("run_dir: r\nsource: [a]\nexclude: ['-old/*']\n")).exclude == ("-old/*",)


def test_help_names_every_flag_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["run", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    words = " ".join(told.replace("│", " ").split())
    for config in EVERY:
        for field in dataclasses.fields(config):
            assert f"--{field.name.replace('_', '-')}" in told
    assert "Which of two duplicates stays: nearest to or farthest from the centroid" in words
    assert "All steps from sources to an exported subset" in words


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert program.main(arguments) == 0
        told = capsys.readouterr().out
        assert all(
            f"\n  {name} " in told for name in ("ingest", "embed", "cluster", "score", "select", "export", "run")
        )
    assert program.main(["clutser"]) == 2
    assert "no command 'clutser'; did you mean cluster?" in capsys.readouterr().err


def test_a_users_error_in_a_step_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["select", "--run-dir", str(tmp_path), "--grid"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        f"error: {tmp_path}/clusters is missing or unfinished; run `python -m curation cluster` first"
    )
    assert "Traceback" not in told


def test_cause_of_unwraps() -> None:
    cause = ValueError("the user's")
    task = ray.exceptions.RayTaskError("f", "traceback", cause)
    nested = ray.exceptions.RayTaskError("g", "traceback", task)
    wrapped = UserCodeException("outer")
    wrapped.__cause__ = nested
    around = ray.exceptions.RayTaskError("h", "traceback", wrapped)
    for error in (cause, task, task.as_instanceof_cause(), nested, wrapped, around):
        assert errors.cause_of(error) is cause
    alone, other = UserCodeException("alone"), KeyError("with a cause of its own")
    other.__cause__ = cause
    assert errors.cause_of(alone) is alone
    assert errors.cause_of(other) is other


def test_complain_tells_users_errors_and_raises_others(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (ValueError("bad d"), OSError(28, "No space left"), pa.ArrowInvalid("not Parquet")):
        assert cli.complain(ray.exceptions.RayTaskError("f", "traceback", error)) == 2
        assert capsys.readouterr().err == f"error: {error}\n"
    for ours in (AssertionError("ours"), TypeError("ours")):
        with pytest.raises(type(ours), match="ours"):
            cli.complain(ours)
