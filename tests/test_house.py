"""The house rules of the design: who may import Ray, which way imports point, lengths and names of files."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("curation", "training", "tune")
ALLOWED = {"curation": set(), "training": {"curation"}, "tune": {"curation", "training"}}
VERBS = {"__main__", "cli", "cluster", "demo", "embed", "engine", "export", "ingest", "pipeline", "score"}
TRAINING_VERBS = {"__main__", "benchmark", "cache", "evaluate", "pretrain", "rank"}
TUNE_VERBS = {"__main__", "course", "driver", "estimate", "search", "subsets", "sweep", "tuning"}
BANNED = {"utils", "util", "common", "base", "core", "helpers", "misc"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NOUNS = [path for path in SOURCES if path.parent.name == "curation" and path.stem not in VERBS]
TRAINING_NOUNS = [path for path in SOURCES if path.parent.name == "training" and path.stem not in TRAINING_VERBS]
TUNE_NOUNS = [path for path in SOURCES if path.parent.name == "tune" and path.stem not in TUNE_VERBS]


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, at its top or inside functions."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (within, node.module)))
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def modules_of(path: Path, package: str) -> set[str]:
    """Names of the modules of a package that a file imports."""
    parts = [name.split(".") for name in imported(path)]
    names = {name[1] for name in parts if name[0] == package and len(name) > 1}
    return {name for name in names if (ROOT / package / f"{name}.py").exists()}


def test_there_is_something_to_check() -> None:
    expected = "config schema store sources frames images decode vectors kmeans dedup select encoder phantom"
    assert {path.stem for path in NOUNS} >= set(expected.split())
    assert {path.stem for path in SOURCES} >= VERBS
    assert set(imported(ROOT / "curation/score.py")) >= {
        "ray",
        "curation.scores.groups",
        "curation.scores.config.ScoreConfig",
    }
    assert modules_of(ROOT / "curation/score.py", "curation") >= {"groups", "engine", "cluster", "config"}


@pytest.mark.parametrize("path", NOUNS, ids=lambda path: path.stem)
def test_a_noun_imports_neither_ray_nor_a_verb(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "ray"}
    assert not modules_of(path, "curation") & VERBS


@pytest.mark.parametrize("path", TRAINING_NOUNS, ids=lambda path: path.stem)
def test_a_noun_of_training_imports_neither_ray_nor_a_verb(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "ray"}
    assert not modules_of(path, "training") & TRAINING_VERBS
    assert not modules_of(path, "curation") & VERBS - {"cli"}


@pytest.mark.parametrize("path", TUNE_NOUNS, ids=lambda path: path.stem)
def test_a_noun_of_tune_imports_neither_ray_nor_a_verb(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "ray"}
    assert not modules_of(path, "tune") & TUNE_VERBS
    assert not modules_of(path, "training") & TRAINING_VERBS
    assert not modules_of(path, "curation") & VERBS - {"cli"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    met = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
    assert met <= ALLOWED[package] | {package}


def loading(names: list[str], heavy: str, package: str = "curation") -> list[str]:
    """The modules after whose import, in one fresh process and in this order, `heavy` is loaded."""
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        f"    importlib.import_module('{package}.' + name)\n"
        f"    if {heavy!r} in sys.modules: print(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_no_noun_loads_ray() -> None:
    assert loading([path.stem for path in NOUNS if path.stem != "__init__"], "ray") == []
    assert loading([path.stem for path in TRAINING_NOUNS if path.stem != "__init__"], "ray", "training") == []
    assert loading([path.stem for path in TUNE_NOUNS if path.stem != "__init__"], "ray", "tune") == []


def test_decoding_loads_no_torch() -> None:
    assert loading(["decode"], "torch") == []
    assert loading(["vectors"], "torch") == ["vectors"]
    assert loading(["board", "subset"], "torch", "training") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


def test_no_file_is_named_for_nothing() -> None:
    parts = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & BANNED


def test_tests_are_no_packages() -> None:
    """tests/tune/__init__.py would hide the real tune."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert (ROOT / "tests/test_house.py").exists()


def test_packages_are_listed_by_name() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["packages"] == list(PACKAGES)
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES}
    assert folders == set(PACKAGES)
