"""What goes wrong once Ray runs, and is put right: weights, clusters, sources that changed, a full disk; no damage."""

import contextlib
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
from curation.clusters.config import ClusterConfig
from curation.scores.config import ScoreConfig
from curation.store.directory import RunDirectory

Tables = Callable[[Path], dict[str, str]]
Written = Callable[[Path], dict[str, tuple[int, int]]]
Settings = Callable[..., pipeline.RunConfig]
Reference = tuple[Path, list[dict[str, Any]]]
Spell = Callable[..., list[str]]


def attempt(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command in this process, on the session's Ray."""
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
        "not a Vision Transformer of timm; did you mean vit_tiny_patch16_224": {"encoder": "vit_tiny_patch16_225"},
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
    assert (code, message.endswith(f"delete frames/ in {run_dir}")) == (2, True)
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


@pytest.mark.slow
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
