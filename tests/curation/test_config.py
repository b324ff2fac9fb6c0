import dataclasses
import re
from hashlib import sha256
from itertools import combinations
from typing import Any

import pytest

from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.exports.config import ExportConfig
from curation.options import digest, hashed_fields
from curation.phantom.config import DemoConfig
from curation.scores.config import ScoreConfig
from curation.sources import config
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig

ALL = (IngestConfig, EmbedConfig, ClusterConfig, ScoreConfig, SelectConfig, ExportConfig, DemoConfig)
NEEDED: dict[type[Any], dict[str, Any]] = {IngestConfig: {"run_dir": "r", "source": ("s",)}, DemoConfig: {}}


def make(kind: type[Any], **values: Any) -> Any:
    return kind(**(NEEDED.get(kind, {"run_dir": "r"}) | values))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (IngestConfig, {"source": ()}, "no source given; name at least one with --source PATH"),
        (IngestConfig, {"part_rows": 0}, "part_rows is 0; it must be at least 1"),
        (IngestConfig, {"max_pixels": 0}, "max_pixels is 0; it must be at least 1"),
        (IngestConfig, {"max_rejected": -0.1}, "max_rejected is -0.1; it must be between 0.0 and 1.0"),
        (IngestConfig, {"max_rejected": 1.1}, "max_rejected is 1.1; it must be between"),
        (IngestConfig, {"lineage_pattern": "("}, "lineage_pattern '(' is not a regular expression"),
        (IngestConfig, {"lineage_pattern": "p\\d"}, "has no named group"),
        (EmbedConfig, {"image_size": -1}, "image_size is -1; it must be 0 or more"),
        (EmbedConfig, {"chunk_rows": 0}, "chunk_rows is 0; it must be at least 1"),
        (EmbedConfig, {"workers": -1}, "workers is -1; it must be 0 or more"),
        (EmbedConfig, {"max_rejected": float("nan")}, "max_rejected is nan"),
        (EmbedConfig, {"seed": -1}, "seed is -1; it must be between 0 and"),
        (EmbedConfig, {"seed": 2**63}, "seed is 9223372036854775808"),
        (ClusterConfig, {"clusters": 0}, "clusters is 0; it must be at least 1, or auto"),
        (ClusterConfig, {"iterations": 0}, "iterations is 0; it must be at least 1"),
        (ClusterConfig, {"shard_rows": 0}, "shard_rows is 0; it must be at least 1"),
        (ClusterConfig, {"train_share": 0.0}, "train_share is 0.0; it must be above 0 and at most 1"),
        (ClusterConfig, {"train_share": 1.1}, "train_share is 1.1; it must be above 0 and at most 1"),
        (ClusterConfig, {"train_share": float("nan")}, "train_share is nan; it must be above 0 and at most 1"),
        (ClusterConfig, {"seed": -1}, "seed is -1"),
        (ScoreConfig, {"group_rows": 0}, "group_rows is 0; it must be at least 1"),
        (ScoreConfig, {"rule": "greedy"}, "give --d with --rule greedy"),
        (ScoreConfig, {"d": 0.9}, "a pass with rule any serves every d; leave --d out"),
        (ScoreConfig, {"epsilon": 0.9}, "serves every epsilon; leave --epsilon out"),
        (ScoreConfig, {"rule": "greedy", "d": 1.1}, "d is 1.1; it must be between -1.0 and 1.0"),
        (ScoreConfig, {"keep": "farthest", "epsilon": 2.1}, "epsilon is 2.1; it must be between 0.0 and 2.0"),
        (SelectConfig, {"epsilon": -0.1}, "epsilon is -0.1"),
        (SelectConfig, {"d": -1.1}, "d is -1.1"),
        (SelectConfig, {"d": float("nan")}, "d is nan"),
        (SelectConfig, {"seed": -1}, "seed is -1"),
        (SelectConfig, {"budget": 0.0}, "budget is 0.0; give a share above 0 and up to 1, or a whole number"),
        (SelectConfig, {"budget": -3.0}, "budget is -3.0"),
        (SelectConfig, {"budget": 1.5}, "budget is 1.5"),
        (SelectConfig, {"budget": float("nan")}, "budget is nan"),
        (ExportConfig, {"link": "copy"}, "link is for the files of a folder, and format parquet has none"),
        (SelectConfig, {"name": ""}, "name is ''; it names a folder"),
        (SelectConfig, {"name": "../x"}, "name is '../x'"),
        (SelectConfig, {"name": "a/b"}, "name is 'a/b'"),
        (SelectConfig, {"name": ".x"}, "name is '.x'"),
        (SelectConfig, {"name": "x\n"}, "name is 'x\\n'"),
        (ScoreConfig, {"keep": "far"}, "keep is 'far'; it must be nearest, farthest, random, sharpest, highest:COLUMN"),
        (ScoreConfig, {"keep": "highest:"}, "keep is 'highest:'; it must be nearest"),
        (ScoreConfig, {"keep": "best:sharpness"}, "keep is 'best:sharpness'; it must be nearest"),
        (SelectConfig, {"keep": "close"}, "keep is 'close'; it must be nearest"),
        (SelectConfig, {"method": "semdedup", "rule": "greedy", "d": 0.9}, "rule does not apply: method semdedup"),
        (SelectConfig, {"method": "random", "rule": "greedy", "budget": 9}, "rule does not apply: method random"),
        (SelectConfig, {"method": "random", "keep": "nearest", "budget": 9}, "keep does not apply: method random"),
    ],
)
def test_what_is_refused(kind: type[Any], values: dict[str, Any], message: str) -> None:
    make(kind)  # without the values that are wrong it is accepted
    with pytest.raises(ValueError, match=re.escape(message)):
        make(kind, **values)


def test_an_endless_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="budget is inf"):
        make(SelectConfig, budget=float("inf"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (IngestConfig, {"part_rows": 1, "max_pixels": 1, "max_rejected": 0.0}),
        (IngestConfig, {"max_rejected": 1.0, "lineage_pattern": "(?P<patient>p)"}),
        (EmbedConfig, {"image_size": 0, "workers": 0, "seed": 2**63 - 1}),
        (ClusterConfig, {"clusters": 1}),
        (ScoreConfig, {"keep": "farthest", "epsilon": 0.0}),
        (ScoreConfig, {"rule": "greedy", "epsilon": 2.0, "d": -1.0}),
        (SelectConfig, {"budget": 1.0, "d": 1.0, "epsilon": 2.0}),
        (SelectConfig, {"budget": 2.0, "name": "a.b_c-1"}),
        (SelectConfig, {"budget": 1e-9, "method": "random"}),
        (SelectConfig, {"method": "semdedup", "keep": "random", "d": 0.0}),
    ],
)
def test_values_at_the_limits_are_accepted(kind: type[Any], values: dict[str, Any]) -> None:
    made = make(kind, **values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize("kind", ALL)
def test_configs_are_frozen_keyword_only_short_and_explained(kind: type[Any]) -> None:
    fields = dataclasses.fields(kind)
    assert len(fields) <= 12
    assert all(field.kw_only and len(field.metadata["help"]) > 10 for field in fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(make(kind), fields[0].name, "x")
    with pytest.raises(TypeError):
        kind("r")


def test_default_order_of_the_methods() -> None:
    assert make(SelectConfig).order == "nearest"
    assert make(SelectConfig, method="semdedup").order == "farthest"
    assert make(SelectConfig, method="semdedup", keep="nearest").order == "nearest"
    assert make(SelectConfig, method="random").order == "nearest"
    assert make(SelectConfig, keep="sharpest").order == "highest:sharpness"


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({}, "scores"),
        ({"seed": 5}, "scores"),
        ({"keep": "farthest"}, "scores/farthest_any"),
        ({"keep": "farthest", "epsilon": 0.9}, "scores/farthest_any_epsilon-0.9"),
        ({"keep": "random", "seed": 5}, "scores/random_any_seed-5"),
        ({"keep": "sharpest"}, "scores/highest-sharpness_any"),
        ({"keep": "lowest:dark_share", "epsilon": 0.5}, "scores/lowest-dark_share_any_epsilon-0.5"),
        ({"keep": "lowest:a/b"}, f"scores/lowest-{sha256(b'a/b').hexdigest()[:16]}_any"),
        ({"rule": "greedy", "d": 0.95}, "scores/nearest_greedy_d-0.95"),
        ({"rule": "greedy", "d": 0.95, "epsilon": 0.5}, "scores/nearest_greedy_epsilon-0.5_d-0.95"),
    ],
)
def test_folder_of_a_pass(values: dict[str, Any], folder: str) -> None:
    assert make(ScoreConfig, **values).folder == folder


@pytest.mark.parametrize("kind", [ScoreConfig, SelectConfig])
def test_the_sharpest_is_the_highest_sharpness(kind: type[Any]) -> None:
    short, long = make(kind, keep="sharpest"), make(kind, keep="highest:sharpness")
    assert hashed_fields(short) == hashed_fields(long)
    assert hashed_fields(short)["keep"] == "highest:sharpness"


def test_two_passes_never_share_a_folder() -> None:
    ds = (0.97, 0.9700001, 0.970000000001)
    folders = [make(ScoreConfig, rule="greedy", d=d).folder for d in ds]
    assert all(one != other for one, other in combinations(folders, 2))


UNHASHED = {
    IngestConfig: {"run_dir", "max_rejected"},
    EmbedConfig: {"run_dir", "max_rejected", "workers", "precision", "weights"},
    ClusterConfig: {"run_dir"},
    ScoreConfig: {"run_dir"},
    SelectConfig: {"run_dir", "name", "grid", "grid_epsilon", "grid_d"},
    ExportConfig: {"run_dir", "name", "output"},
}


CHANGED: dict[type[Any], dict[str, Any]] = {
    IngestConfig: {"include": ("*.jpg",), "source": ("t",), "part_rows": 7, "lineage_pattern": "(?P<patient>p)"},
    EmbedConfig: {"seed": 1, "encoder": "test_vit", "storage": "float32", "chunk_rows": 7, "statistics": "clip"},
    ClusterConfig: {"seed": 1, "center": True, "clusters": 7, "shard_rows": 7, "train_share": 0.5},
    ScoreConfig: {"seed": 1, "keep": "farthest", "group_rows": 7},
    SelectConfig: {"seed": 1, "budget": 7.0, "epsilon": 0.5, "keep": "random"},
    ExportConfig: {"with_images": True, "format": "folder"},
}


@pytest.mark.parametrize(("kind", "left_out"), list(UNHASHED.items()))
def test_hashed_fields_are_those_that_shape_the_result(kind: type[Any], left_out: set[str]) -> None:
    made = make(kind)
    hashed = hashed_fields(made)
    assert set(hashed) == {field.name for field in dataclasses.fields(kind)} - left_out
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(made).items()}
    expected |= {"epsilon": 0.9, "keep": "nearest", "rule": "any"} if kind is SelectConfig else {}
    assert hashed == {name: expected[name] for name in hashed}
    other = {"run_dir": "elsewhere"} | ({"max_rejected": 0.5} if "max_rejected" in left_out else {})
    assert digest(hashed_fields(make(kind, **other))) == digest(hashed)
    for name, value in CHANGED[kind].items():
        assert digest(hashed_fields(make(kind, **{name: value}))) != digest(hashed)


def test_digest_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    values = ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}, {})
    assert len({digest(value) for value in values}) == len(values)
    # sha256 of {"a": 1}: the hashes stand in users' run directories
    assert digest({"a": 1}) == "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310"


def test_check_pattern_returns_the_compiled_pattern() -> None:
    assert config.check_pattern(r"(?P<patient>p\d+)").search("a/p12/x")["patient"] == "p12"  # type: ignore[index]
