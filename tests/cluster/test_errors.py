"""What a user gets wrong, or the machine: exit code 2, a message that says what was found and what to do, no damage."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from curation import pipeline
from curation.__main__ import main
from curation.config import ClusterConfig, ScoreConfig
from curation.store import RunDirectory

Tables = Callable[[Path], dict[str, str]]
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
        (["ingest", *new, str(file)], [f"source {file} is no folder", "a source is a tree of image files"]),
        (["ingest", *new, str(empty)], [f"no image found in {empty}", "skipped 0 files", "expected", ".jpg"]),
        (["ingest", *new, str(texts)], ["no image found", "skipped 2 files of other kinds (1 .mp4, 1 .txt)"]),
        (["ingest", *new, frames, "--include", "*.png"], ["no image found", "150 files excluded by the globs"]),
        (["ingest", *new, frames, "--lineage-pattern", "("], ["lineage_pattern '('", "no regular expression"]),
        (["ingest", *new, frames, "--source", frames], ["two sources are named 'frames'", "NAME=PATH"]),
        (["ingest", *new, frames, "--part-row", "3"], ["no flag --part-row", "did you mean --part-rows?"]),
        (["ingest", *new, frames, "--part-rows", "many"], ["many"]),
        (["run", *new, frames, "--name", "a/b"], ["name is 'a/b'", "letters, digits, '.', '_' and '-' only"]),
        (["run", *new, frames, "--method", "random", "--d", "0.9"], ["random needs a size: give --budget"]),
        (["run", *new, frames, "--budget", "1.5"], ["budget is 1.5", "whole number of frames above 1"]),
        (["run", *new, frames, "--max-rejected", "5"], ["max_rejected is 5", "between 0.0 and 1.0"]),
        (["embed", *new[:2]], [f"{new[1]}/frames is missing or unfinished", "run `python -m curation ingest` first"]),
        (["cluster", *new[:2]], ["embeddings is missing or unfinished", "run `python -m curation embed` first"]),
        (["score", *new[:2]], ["clusters is missing or unfinished", "run `python -m curation cluster` first"]),
        (["select", *new[:2], "--grid"], ["scores is missing or unfinished", "run `python -m curation score` first"]),
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


# Errors that need Ray: in this process, on the session's Ray, through the same function that the command line calls


def attempt(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    lines = capsys.readouterr().err.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return code, " ".join(lines[errors[0] :]) if errors else ""


def test_changed_embed_config_names_the_key(
    reference: Reference, settings: Settings, flags: Spell, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = reference[0]
    before = written(run_dir)
    changed = settings(run_dir, embed={"image_size": 96, "pooling": "cls"}).embed
    code, message = attempt(capsys, "embed", *flags(changed))
    assert code == 2
    assert "embed was run in" in message
    assert "image_size was 112, now 96; pooling was 'mean', now 'cls'" in message
    assert "embeddings/" in message
    assert written(run_dir) == before


@pytest.fixture
def unfit(tmp_path: Path) -> dict[str, str]:
    """Weights that cannot be used, by what is wrong with them."""
    files = {name: tmp_path / f"{name}.safetensors" for name in ("missing", "other", "text")}
    save_file({"cls_token": torch.zeros(1, 1, 64), "something.weight": torch.zeros(3, 3)}, files["other"])
    files["text"].write_text("weights")
    return {name: str(file) for name, file in files.items()}


def test_weights_that_do_not_fit_leave_no_trace(
    *,
    begun: Callable[..., Path],
    settings: Settings,
    flags: Spell,
    written: Written,
    unfit: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = begun("frames")
    before = written(run_dir)
    expected = {
        "missing": [unfit["missing"], "cannot be read"],
        "other": ["do not fit vit_tiny_patch16_224", "tensors missing", "--encoder"],
        "text": [unfit["text"], "cannot be read"],
    }
    for name, words in expected.items():
        code, message = attempt(capsys, "embed", *flags(settings(run_dir, embed={"weights": unfit[name]}).embed))
        assert code == 2, name
        assert all(word in message for word in words), message
    wrong = {
        "no Vision Transformer of timm; did you mean vit_tiny_patch16_224": {"encoder": "vit_tiny_patch16_225"},
        "image_size 100 is not a multiple of the encoder's patch, 16; use 96": {"image_size": 100},
        "--weights FILE": {"encoder": "vit_tiny_patch16_224.nowhere", "weights": None},
    }
    for words, changes in wrong.items():
        code, message = attempt(capsys, "embed", *flags(settings(run_dir, embed=changes).embed))
        assert code == 2, changes
        assert words in message, message
    assert written(run_dir) == before, "a refused command left a trace"


def test_more_clusters_than_frames_and_then_fewer(
    begun: Callable[..., Path], settings: Settings, flags: Spell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun("embeddings")
    code, message = attempt(capsys, "cluster", *flags(settings(run_dir, cluster={"clusters": 142}).cluster))
    assert (code, "clusters is 142, but there are only 141 embedded frames" in message) == (2, True)
    assert not (run_dir / "clusters").exists()
    assert attempt(capsys, "cluster", *flags(settings(run_dir, cluster={"clusters": 3}).cluster)) == (0, "")


def test_what_the_message_says_to_delete_is_enough(
    *,
    begun: Callable[..., Path],
    settings: Settings,
    flags: Spell,
    rows: Callable[[Path, str], pa.Table],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = begun("subsets")
    for folder in ("clusters", "scores", "subsets"):
        shutil.rmtree(run_dir / folder)
    assert attempt(capsys, "cluster", *flags(settings(run_dir, cluster={"clusters": 2}).cluster)) == (0, "")
    assert set(rows(run_dir, "clusters/assignments")["cluster"].to_pylist()) == {0, 1}
    assert attempt(capsys, "score", "--run-dir", str(run_dir)) == (0, "")
    assert attempt(capsys, "select", "--run-dir", str(run_dir), "--d", "0.7") == (0, "")


def test_ingest_again_without_the_bad_files(
    *,
    local_ray: None,
    settings: Settings,
    drawn: tuple[Path, pa.Table],
    flags: Spell,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = shutil.copytree(drawn[0] / "center_a/patient_00", tmp_path / "patient_00")
    run_dir = tmp_path / "run"
    (source / "bad.jpg").write_text("no image")
    assert attempt(capsys, "ingest", *flags(settings(run_dir, (str(source),)).ingest)) == (0, "")
    assert len(list((run_dir / "rejected").glob("*.parquet"))) == 1
    after = ["ingest", *flags(settings(run_dir, (str(source),), ingest={"exclude": ("bad.jpg",)}).ingest)]
    code, message = attempt(capsys, *after)
    assert (code, "delete frames/ there, and what was made from it" in message) == (2, True)
    shutil.rmtree(run_dir / "frames")
    assert attempt(capsys, *after) == (0, "")
    assert list((run_dir / "rejected").glob("*.parquet")) == [], "select would find more frames than were listed"


def test_sources_that_changed_since_a_killed_run(
    *,
    begun: Callable[..., Path],
    settings: Settings,
    drawn: tuple[Path, pa.Table],
    flags: Spell,
    tables: Tables,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = shutil.copytree(drawn[0] / "center_a", tmp_path / "source")
    run_dir = tmp_path / "new"
    command = ["ingest", *flags(settings(run_dir, (str(source),)).ingest)]
    assert attempt(capsys, *command) == (0, "")
    (run_dir / "frames/_SUCCESS.json").unlink()  # as if killed before the end
    before = tables(run_dir)
    added = source / "added.jpg"
    shutil.copyfile(next(source.rglob("*.jpg")), added)
    code, message = attempt(capsys, *command)
    assert code == 2
    assert "the sources changed since" in message
    assert "put them back as they were, or use another --run-dir" in message
    added.unlink()
    assert attempt(capsys, *command) == (0, "")
    assert tables(run_dir) == before


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def filled(disk: Path, but: int) -> Iterator[None]:
    """Leave `but` bytes of the disk free."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(b"\0" * 4096):
            pass
    with filler.open("rb+") as stream:
        stream.truncate(max(0, filler.stat().st_size - but))
    yield
    filler.unlink()


def test_a_full_disk_in_each_step_and_then_space_again(
    *,
    small_disk: Path,
    reference: Reference,
    settings: Settings,
    flags: Spell,
    tables: Tables,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = small_disk / "run"
    config = settings(run_dir)
    # Room for run.json and some parts, so that it is the step's own tables that do not fit.
    steps = {
        "ingest": (config.ingest, 32 << 10),
        "embed": (config.embed, 40 << 10),
        "cluster": (config.cluster, 24 << 10),
        "score": (ScoreConfig(run_dir=str(run_dir)), 8 << 10),
        "select": (config.select, 8 << 10),
        "export": (config.export, 4 << 10),
    }
    folders = {"ingest": "frames", "embed": "embeddings", "cluster": "clusters", "score": "scores"}
    for step, (of_step, room) in steps.items():
        before = tables(run_dir)
        with filled(small_disk, room):
            code, message = attempt(capsys, step, *flags(of_step))
            assert code == 2, step
            assert message.startswith("error: "), step
            assert "No space left on device" in message, step
            found = tables(run_dir)
            assert {path: found.get(path) for path in before} == before, f"{step} damaged what was there"
            success = run_dir / folders.get(step, "subsets/curated") / "_SUCCESS.json"
            assert step == "export" or not success.exists()
        for path in found.keys() - before.keys():
            assert RunDirectory(str(run_dir)).read_table(path).num_rows > 0
        assert attempt(capsys, step, *flags(of_step)) == (0, ""), step
    assert tables(run_dir) == tables(reference[0])
    assert list(run_dir.rglob(".tmp-*")) == []


def test_a_run_directory_below_a_file_after_ray_has_started(
    begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun("embeddings")
    (run_dir / "clusters").write_text("a file where a folder should be")
    config = ClusterConfig(run_dir=str(run_dir), clusters=2)
    code, message = attempt(capsys, "cluster", "--run-dir", config.run_dir, "--clusters", "2")
    assert code == 2
    assert "clusters" in message
    assert (run_dir / "clusters").read_text() == "a file where a folder should be"
