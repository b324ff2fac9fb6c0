"""An output holds exactly one subset: what is there of another is refused, what is half done is finished."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.exports.config import ExportConfig
from curation.exports.export import discard, export
from curation.store.directory import RunDirectory
from curation.subsets.config import SelectConfig

Written = Callable[[Path], dict[str, tuple[int, int]]]


@pytest.fixture(scope="module")
def two(reference: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A run with the subsets `all` and `few`. Not to be changed."""
    run_dir = Path(shutil.copytree(reference[0], tmp_path_factory.mktemp("two") / "run"))
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="all", d=1.0, epsilon=2.0))
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="few", budget=20))
    return run_dir


def names(output: Path) -> set[str]:
    """Names of images, next to which is the table of them."""
    found = {str(file.relative_to(output / "images")) for file in (output / "images").rglob("*") if not file.is_dir()}
    return found - {"metadata.parquet"}


def kept(output: Path) -> set[str]:
    return {f"{row['source']}/{row['path']}" for row in pq.read_table(output / "kept.parquet").to_pylist()}


def test_another_subset_is_refused_and_nothing_changes(two: Path, tmp_path: Path, written: Written) -> None:
    for form in ({"format": "folder"}, {"format": "parquet"}):
        output = tmp_path / form["format"]
        export(ExportConfig(run_dir=str(two), name="all", output=str(output), **form))
        before = written(output)
        for other in ({"format": "folder"}, {"format": "parquet"}, {"with_images": True}):
            with pytest.raises(ValueError, match=r"is of another subset, all; delete .* or name another --output"):
                export(ExportConfig(run_dir=str(two), name="few", output=str(output), **other))
        assert written(output) == before


def test_all_formats_of_one_subset_in_one_output(two: Path, tmp_path: Path) -> None:
    for form in ({}, {"format": "folder"}, {"with_images": True}, {"format": "folder"}, {}):
        export(ExportConfig(run_dir=str(two), name="few", output=str(tmp_path), **form))
        assert len(kept(tmp_path)) == 20
        assert ("image" in pq.read_schema(tmp_path / "kept.parquet").names) == ("with_images" in form)
        assert names(tmp_path) in (set(), kept(tmp_path))
        assert json.loads((tmp_path / "export.json").read_text())["complete"] is True
    assert names(tmp_path) == kept(tmp_path)
    with pytest.raises(ValueError, match="was made with --link copy, now it is hard"):
        export(ExportConfig(run_dir=str(two), name="few", output=str(tmp_path), format="folder", link="hard"))


def test_the_default_output_is_its_subsets_own(two: Path) -> None:
    export(ExportConfig(run_dir=str(two), name="few", format="folder"))
    assert names(two / "subsets/few") == kept(two / "subsets/few")
    with pytest.raises(ValueError, match=r"subset\.json is of another subset, all"):
        export(ExportConfig(run_dir=str(two), name="few", output=str(two / "subsets/all")))


def test_files_of_others_are_refused_and_stay(two: Path, tmp_path: Path, written: Written) -> None:
    config = {"run_dir": str(two), "name": "few", "format": "folder"}
    for name in ("images/own.png", "kept.parquet", "subset.json", "export.json"):
        output = tmp_path / name.replace("/", "-")
        (output / name).parent.mkdir(parents=True)
        (output / name).write_text("of the user")
        before = written(output)
        with pytest.raises(ValueError, match="was not written by an export"):
            export(ExportConfig(**config, output=str(output)))
        assert written(output) == before
    export(ExportConfig(**config, output=str(tmp_path / "out")))
    (tmp_path / "out/images/own.png").write_text("of the user")
    (tmp_path / "out/notes.txt").write_text("of the user")
    with pytest.raises(ValueError, match=r"files that are not of this subset: own\.png; delete them"):
        export(ExportConfig(**config, output=str(tmp_path / "out")))
    (tmp_path / "out/images/own.png").unlink()
    export(ExportConfig(**config, output=str(tmp_path / "out")))
    assert (tmp_path / "out/notes.txt").read_text() == "of the user"


def test_what_is_missing_or_spoilt_is_put_right_and_the_rest_left_alone(
    two: Path, tmp_path: Path, written: Written
) -> None:
    config = ExportConfig(run_dir=str(two), name="few", output=str(tmp_path), format="folder")
    export(config)
    before = written(tmp_path)
    content = {name: (tmp_path / "images" / name).read_bytes() for name in names(tmp_path)}
    gone, half, other, linked = sorted(content)[:4]
    (tmp_path / "images" / gone).unlink()
    (tmp_path / "images" / half).write_bytes(content[half][:100])
    (tmp_path / "images" / other).write_bytes(content[gone])
    (tmp_path / "images" / linked).unlink()
    (tmp_path / "images" / linked).symlink_to(tmp_path / "images" / other)
    (tmp_path / "copies.parquet").unlink()
    export(config)
    assert {name: (tmp_path / "images" / name).read_bytes() for name in names(tmp_path)} == content
    after = written(tmp_path)
    changed = {path for path in before if before[path] != after.get(path)}
    assert changed >= {f"images/{name}" for name in (gone, half, other, linked)} | {"copies.parquet"}
    assert not changed & {f"images/{name}" for name in sorted(content)[4:]}


def test_a_killed_export_is_finished_and_another_one_refused(
    two: Path, tmp_path: Path, started: Callable[..., Any], python: Callable[..., Any]
) -> None:
    output = tmp_path / "out"
    arguments = ["curation", "export", "--run-dir", str(two), "--format", "folder", "--output", str(output), "--name"]
    with started(tmp_path / "log", *arguments, "all") as driver:
        limit = time.monotonic() + 120
        while len(names(output)) < 10 if output.exists() else True:
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.001)
        os.kill(driver.pid, signal.SIGKILL)
    assert json.loads((output / "export.json").read_text())["complete"] is False
    (output / "images/alpha/.tmp-0123456789abcdef0123456789abcdef").write_bytes(b"half")
    (output / ".tmp-0123456789abcdef0123456789abcdef-kept.parquet").write_bytes(b"half")
    with pytest.raises(ValueError, match="is of another subset, all"):
        export(ExportConfig(run_dir=str(two), name="few", output=str(output), format="folder"))
    again = python("-m", *arguments, "all")
    assert again.returncode == 0, again.stderr
    assert names(output) == kept(output)
    assert not list(output.rglob(".tmp-*"))
    for row in pq.read_table(output / "kept.parquet").to_pylist():
        assert (output / "images" / row["source"] / row["path"]).read_bytes() == Path(row["uri"]).read_bytes()
    assert json.loads((output / "export.json").read_text())["complete"] is True


def test_a_file_system_that_ignores_case_is_told_of_names_it_would_mix(
    two: Path, relisted: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EXPORT.JSON stands for a file system on which that is export.json."""
    run_dir = Path(shutil.copytree(two, tmp_path / "run"))
    export(ExportConfig(run_dir=str(run_dir), name="few", output=str(tmp_path / "first")))
    table = pq.read_table(run_dir / "frames/part-000000.parquet")
    chosen = pq.read_table(tmp_path / "first/kept.parquet").to_pylist()[:2]
    for part in (run_dir / "frames").glob("part-*.parquet"):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            for one, path in zip(chosen, ("same.jpg", "SAME.jpg"), strict=True):
                if row["frame_id"] == one["frame_id"]:
                    row |= {"path": path, "source": "s"}
        pq.write_table(type(table).from_pylist(rows, table.schema), part)
    relisted(run_dir)
    config = {"run_dir": str(run_dir), "name": "few", "format": "folder"}
    export(ExportConfig(**config, output=str(tmp_path / "fine")))
    assert {"s/same.jpg", "s/SAME.jpg"} <= names(tmp_path / "fine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/EXPORT.JSON").write_text("{}")
    with pytest.raises(ValueError, match="differ in case only"):
        export(ExportConfig(**config, output=str(tmp_path / "out")))


def test_paths_that_lead_out_are_exported_inside(two: Path, relisted: Callable[[Path], None], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(two, tmp_path / "run"))
    wild = iter(["../../../escaped.jpg", "/escaped.jpg", "a/../../../../escaped.jpg", "b\\..\\..\\escaped.jpg"])
    export(ExportConfig(run_dir=str(run_dir), name="few", output=str(tmp_path / "first")))
    chosen = {row["frame_id"]: next(wild) for row in pq.read_table(tmp_path / "first/kept.parquet").to_pylist()[:4]}
    for part in (run_dir / "frames").glob("part-*.parquet"):
        table = pq.read_table(part)
        rows = [row | {"path": chosen.get(row["frame_id"], row["path"])} for row in table.to_pylist()]
        pq.write_table(type(table).from_pylist(rows, table.schema), part)
    relisted(run_dir)
    before = {file for file in tmp_path.rglob("*") if "out" not in file.parts}
    export(ExportConfig(run_dir=str(run_dir), name="few", output=str(tmp_path / "a/b/out"), format="folder"))
    assert len(names(tmp_path / "a/b/out")) == 20
    assert {file for file in tmp_path.rglob("*") if "out" not in file.parts} - before == {
        tmp_path / "a",
        tmp_path / "a/b",
    }
    escaped = list(tmp_path.rglob("*escaped.jpg"))
    assert len(escaped) == 4
    assert all(file.is_relative_to(tmp_path / "a/b/out/images") for file in escaped)


def test_a_table_of_another_subset_can_be_discarded(two: Path, tmp_path: Path) -> None:
    export(ExportConfig(run_dir=str(two), name="all", output=str(tmp_path), with_images=True))
    digests = {name: json.loads((two / f"subsets/{name}/subset.json").read_text())["digest"] for name in ("all", "few")}
    (tmp_path / "own.txt").write_text("of the user")
    discard(RunDirectory(str(tmp_path)), digests["all"])
    assert (tmp_path / "kept.parquet").exists()
    discard(RunDirectory(str(tmp_path)), digests["few"])
    assert [file.name for file in tmp_path.iterdir()] == ["own.txt"]
    export(ExportConfig(run_dir=str(two), name="few", output=str(tmp_path)))
    assert len(kept(tmp_path)) == 20
