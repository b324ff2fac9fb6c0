"""The house rules: who may import Ray, which way imports point, what a file may hold, and what nothing may load."""

import ast
import dataclasses
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES, FIELDS = 300, 12
BANNED = {"utils", "util", "common", "base", "core", "helpers", "misc"}

# A package and its rooms, each of which imports only those before it; root files are rooms of their own.
ROOMS = {
    "curation": (
        *(
            "options",
            "seeds",
            "console",
            "engine",
            "store",
            "settings",
            "cli",
            "submission",
            "status",
            "phantom",
            "sources",
        ),
        *("frames", "embeddings", "clusters", "scores", "subsets", "exports", "pipeline", "demo", "__main__"),
    ),
    "training": (
        *("loader", "methods", "pretraining", "datasets", "metrics", "segmentation", "reporting", "evaluation"),
        "__main__",
    ),
    "tune": (),  # flat
}
# Files that run on the cluster: all others import neither Ray nor any of these.
ON_RAY = {
    "curation": (
        *(
            "engine/accelerators",
            "engine/connect",
            "engine/errors",
            "engine/metrics",
            "engine/resources",
            "engine/stream",
            "engine/tasks",
        ),
        *("frames/ingest", "frames/settling", "embeddings/embed"),
        *("clusters/lloyd", "clusters/cluster", "scores/score", "scores/search", "exports/export", "exports/shards"),
        *("pipeline", "demo"),
    ),
    "training": (
        *(
            "loader/cache",
            "pretraining/log",
            "pretraining/plan",
            "pretraining/rank",
            "pretraining/pretrain",
            "evaluation/sets",
        ),
        *("evaluation/runs", "evaluation/pretrainings", "evaluation/evaluate", "evaluation/benchmark"),
    ),
    "tune": ("estimate", "ledger", "optuna_search", "placement", "runner", "subsets", "sweep", "trial"),
}
# The commands, which none but these import: what puts several together.
VERBS = {
    *("curation/frames/ingest", "curation/embeddings/embed", "curation/clusters/cluster", "curation/scores/score"),
    *("curation/subsets/select", "curation/exports/export", "training/pretraining/pretrain"),
    *("training/evaluation/evaluate", "training/evaluation/benchmark", "tune/sweep"),
}
COMPOSERS = {
    *("curation/pipeline", "curation/demo", "training/evaluation/pretrainings"),
    *("tune/subsets", "tune/trial", "tune/sweep"),
}
SEES = {"curation": {"curation"}, "training": {"curation", "training"}, "tune": {"curation", "training", "tune"}}

FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for package in ROOMS
    for path in sorted((ROOT / package).rglob("*.py"))
}
EVERY_FILE = pytest.mark.parametrize("file", FILES)
RAY = {f"{package}/{file}" for package, files in ON_RAY.items() for file in files}


def imported(file: str) -> set[str]:
    """What a file imports, at its top or inside functions: our files by their path, others by their first name."""
    found = set()
    for node in ast.walk(ast.parse(FILES[file].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [str(node.module), *(f"{node.module}.{name.name}" for name in node.names)]
        else:
            continue
        for name in names:
            path = name.replace(".", "/")
            found |= {path} & FILES.keys() if name.split(".")[0] in ROOMS else {name.split(".")[0]}
    return found


def room_of(file: str) -> str:
    return file.split("/", 2)[1]


def loaded(program: str) -> list[str]:
    """What a program prints in a fresh process, as words."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_tables_name_what_there_is() -> None:
    assert FILES.keys() >= RAY | VERBS | COMPOSERS
    for package, rooms in ROOMS.items():
        there = {room_of(file) for file in FILES if file.startswith(f"{package}/")} - {"__init__"}
        assert not rooms or there == set(rooms)
    assert imported("curation/scores/score") >= {"ray", "curation/scores/groups", "curation/scores/config"}


@EVERY_FILE
def test_only_some_files_import_ray(file: str) -> None:
    if file in RAY or file.endswith("__main__"):
        return
    assert not imported(file) & ({"ray"} | RAY)


@EVERY_FILE
def test_imports_point_one_way(file: str) -> None:
    package = file.partition("/")[0]
    ours = {name for name in imported(file) if name in FILES}
    assert {name.partition("/")[0] for name in ours} <= SEES[package]
    rooms = ROOMS[package]
    if not rooms or room_of(file) == "__init__":
        return
    later = rooms[rooms.index(room_of(file)) + 1 :]
    assert not {name for name in ours if name.startswith(f"{package}/") and room_of(name) in later}


@EVERY_FILE
def test_no_command_imports_a_command(file: str) -> None:
    if file not in COMPOSERS:
        assert not imported(file) & VERBS


def test_no_circles() -> None:
    left = {file: imported(file) & FILES.keys() - {file} for file in FILES}
    while ready := [file for file, needs in left.items() if not needs & left.keys()]:
        for file in ready:
            del left[file]
    assert not left


@EVERY_FILE
def test_files_are_short_and_say_what_they_are_for(file: str) -> None:
    text = FILES[file].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert ast.get_docstring(ast.parse(text))
    assert not BANNED & set(file.split("/"))


def configs() -> Iterator[type]:
    for file in FILES:
        if file.endswith("config") or file == "tune/space":
            own = vars(importlib.import_module(file.replace("/", "."))).values()
            yield from (kind for kind in own if isinstance(kind, type) and kind.__module__ == file.replace("/", "."))


@pytest.mark.parametrize("config", [kind for kind in configs() if dataclasses.is_dataclass(kind)])
def test_configs_are_small_and_frozen(config: type) -> None:
    assert len(dataclasses.fields(config)) <= FIELDS
    assert config.__dataclass_params__.frozen


def test_only_files_on_ray_load_it() -> None:
    names = [file.replace("/", ".") for file in FILES if file not in RAY and not file.endswith("__init__")]
    program = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "  importlib.import_module(name)\n"
        "  if 'ray' in sys.modules: print(name)"
    )
    assert loaded(program) == []


def test_help_loads_neither_torch_nor_ray() -> None:
    program = (
        "import importlib, sys\n"
        f"for package in {list(ROOMS)}:\n"
        "  for command in importlib.import_module(package + '.__main__').COMMANDS.values():\n"
        "    command.configs([])\n"
        "print(*{'torch', 'ray', 'timm'} & set(sys.modules))"
    )
    assert loaded(program) == []


@pytest.mark.parametrize("module", ["embeddings.chunks", "store.directory", "frames.decoding"])
def test_decoding_loads_no_torch(module: str) -> None:
    assert loaded(f"import curation.{module}, sys\nprint(*{{'torch'}} & set(sys.modules))") == []


def test_mailboxes_load_no_torch() -> None:
    program = "import training.pretraining.mailbox, training.loader.subset, sys\nprint(*{'torch'} & set(sys.modules))"
    assert loaded(program) == []


def test_tests_are_no_packages() -> None:
    """tests/tune/__init__.py would hide the real tune."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_all_rooms_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["packages"]["find"]["include"] == [f"{package}*" for package in ROOMS]
    assert {path.parent for path in FILES.values()} == {
        path.parent for path in FILES.values() if path.stem == "__init__"
    }
