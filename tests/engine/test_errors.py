"""Command lines that are refused before Ray is started: exit code 2, what was found and what to do, and no trace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation import pipeline

Written = Callable[[Path], dict[str, tuple[int, int]]]
Settings = Callable[..., pipeline.RunConfig]
Reference = tuple[Path, list[dict[str, Any]]]
Spell = Callable[..., list[str]]

# An address without a Ray behind it: a command that tries to connect ends with another message.
NO_RAY = {"RAY_ADDRESS": "127.0.0.1:9"}
# Several command lines in one process, since each Python needs seconds to import what it needs.
BATCH = """
import contextlib, io, json, sys
from curation.__main__ import main
for arguments in json.load(open(sys.argv[1])):
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, stderr.getvalue()]))
"""


def plain(message: str) -> str:
    """The message in one line, without the frame that a help text may be drawn in."""
    return " ".join(message.replace("│", " ").split())


@pytest.fixture
def batch(python: Callable[..., Any], tmp_path: Path) -> Callable[[list[list[str]]], list[tuple[int, str]]]:
    """batch(command lines): exit code and message of each, run where no Ray can be had."""

    def call(commands: list[list[str]]) -> list[tuple[int, str]]:
        (tmp_path / "commands.json").write_text(json.dumps(commands))
        done = python("-c", BATCH, str(tmp_path / "commands.json"), **NO_RAY)
        assert done.returncode == 0, done.stderr
        return [(code, plain(message)) for code, message in map(json.loads, done.stdout.splitlines())]

    return call


def test_one_command_from_end_to_end(python: Callable[..., Any], tmp_path: Path) -> None:
    missing, run_dir = tmp_path / "nowhere", tmp_path / "run"
    (tmp_path / "else").mkdir()
    done = python("-m", "curation", "run", "--run-dir", str(run_dir), "--source", str(missing), **NO_RAY)
    assert done.returncode == 2
    assert done.stderr == f"error: source {missing} does not exist\n"
    assert done.stdout == ""
    assert not run_dir.exists()


def test_quick_errors_of_a_new_run(
    batch: Callable[..., list[tuple[int, str]]], drawn: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    frames, file, empty, texts = str(drawn[0]), tmp_path / "file", tmp_path / "empty", tmp_path / "texts"
    file.write_text("not a folder")
    (empty / "below").mkdir(parents=True)
    texts.mkdir()
    (texts / "report.txt").write_text("text")
    (texts / "clip.mp4").write_text("video")
    new = ["--run-dir", str(tmp_path / "run"), "--source"]
    cases: list[tuple[list[str], list[str]]] = [
        (["ingest", "--run-dir", f"{file}/run", "--source", frames], [f"{file}"]),
        (["ingest", "--run-dir", "/proc/nowhere/run", "--source", frames], ["/proc/nowhere"]),
        (["ingest", *new, f"{tmp_path}/none"], [f"source {tmp_path}/none does not exist"]),
        (["ingest", *new, str(file)], [f"source {file} is not a folder", "a source is a tree of image files"]),
        (["ingest", *new, str(empty)], [f"no image found in {empty}", "skipped 0 files", "expected", ".jpg"]),
        (["ingest", *new, str(texts)], ["no image found", "skipped 2 files of other kinds (1 .mp4, 1 .txt)"]),
        (["ingest", *new, frames, "--include", "*.png"], ["no image found", "150 files excluded by the globs"]),
        (["ingest", *new, frames, "--lineage-pattern", "("], ["lineage_pattern '('", "not a regular expression"]),
        (["ingest", *new, frames, "--source", frames], ["two sources are named 'frames'", "NAME=PATH"]),
        (["ingest", *new, frames, "--part-row", "3"], ["no flag --part-row", "did you mean --part-rows?"]),
        (["ingest", *new, frames, "--part-rows", "many"], ["many"]),
        (["run", *new, frames, "--name", "a/b"], ["name is 'a/b'", "letters, digits, '.', '_' and '-' only"]),
        (
            ["run", *new, frames, "--method", "random", "--d", "0.9"],
            ["d does not apply: method random", "give --budget alone"],
        ),
        (["run", *new, frames, "--budget", "1.5"], ["budget is 1.5", "whole number of frames above 1"]),
        (["run", *new, frames, "--max-rejected", "5"], ["max_rejected is 5", "between 0.0 and 1.0"]),
        (["embed", *new[:2]], [f"{new[1]}/frames is missing or unfinished", "run `python -m curation ingest` first"]),
        (["cluster", *new[:2]], ["embeddings is missing or unfinished", "run `python -m curation embed` first"]),
        (["score", *new[:2]], ["clusters is missing or unfinished", "run `python -m curation cluster` first"]),
        (
            ["select", *new[:2], "--grid"],
            ["clusters is missing or unfinished", "run `python -m curation cluster` first"],
        ),
        (["export", *new[:2]], ["curated is missing or unfinished", "run `python -m curation select --name curated`"]),
        (["ingests", *new, frames], ["no command 'ingests'; did you mean ingest?"]),
    ]
    for (command, expected), (code, message) in zip(cases, batch([command for command, _ in cases]), strict=True):
        assert code == 2, f"{command}: {code} {message}"
        for words in expected:
            assert words in message, command
        assert "Traceback" not in message
    assert not (tmp_path / "run").exists(), "a refused command left a trace"


def test_quick_errors_of_a_finished_run(
    *,
    batch: Callable[..., list[tuple[int, str]]],
    reference: Reference,
    settings: Settings,
    run_flags: Spell,
    flags: Spell,
    written: Written,
) -> None:
    run_dir = reference[0]
    config, where = settings(run_dir), ["--run-dir", str(run_dir)]
    other = {
        "ingest": settings(run_dir, ingest={"part_rows": 30}).ingest,
        "source": settings(run_dir, config.ingest.source[:1]).ingest,
        "cluster": settings(run_dir, cluster={"clusters": 4, "seed": 3}).cluster,
    }
    cases: list[tuple[list[str], list[str]]] = [
        (["ingest", *flags(other["ingest"])], ["other settings: part_rows was 20, now 30", "--run-dir", "frames/"]),
        (["ingest", *flags(other["source"])], ["source was", "beta=", "delete"]),
        (["cluster", *flags(other["cluster"])], ["clusters was 5, now 4; seed was 0, now 3", "clusters/"]),
        (["run", *run_flags(config), "--name", "x/../y"], ["name is 'x/../y'"]),
        (["select", *where, "--d", "0.7"], ["other settings: d was 0.9, now 0.7", "subsets/curated/"]),
        (["select", *where, "--name", "other"], ["give --d or --budget", "select --grid"]),
        (["select", *where, "--name", "other", "--budget", "142"], ["142 frames of the pool of 150", "141 are left"]),
        (["select", *where, "--name", "other", "--budget", "0.99"], ["asks for 148 frames of the pool of 150"]),
        (["select", *where, "--name", "other", "--d", "0.9", "--budget", "141"], ["--epsilon or --d"]),
        (["select", *where, "--name", "other", "--method", "random"], ["method random needs a size: give --budget"]),
        (["select", *where, "--name", "a/b", "--d", "0.9"], ["name is 'a/b'"]),
        (["select", *where, "--name", "other", "--rule", "greedy", "--budget", "9"], ["give --d"]),
        (["export", *where, "--name", "other"], ["subsets/other is missing", "select --name other"]),
    ]
    before = written(run_dir)
    for (command, expected), (code, message) in zip(cases, batch([command for command, _ in cases]), strict=True):
        assert code == 2, f"{command}: {code} {message}"
        assert message.startswith("error: "), message
        for words in expected:
            assert words in message, command
    assert written(run_dir) == before, "a refused command changed something"
