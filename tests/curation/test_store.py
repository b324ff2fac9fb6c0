import hashlib
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from curation import store
from curation.config import IngestConfig, digest, hashed_fields
from curation.store import RunDirectory, Step, filesystem_of, marker_of

TABLE = pa.table({"number": list(range(1000)), "name": [f"frame {number % 7}" for number in range(1000)]})


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    if request.param == "local":
        return RunDirectory(str(tmp_path / "run"))
    system = fsspec.filesystem("memory")
    if system.exists("/run"):
        system.rm("/run", recursive=True)
    return RunDirectory("memory://run")


def ingest(**values: Any) -> IngestConfig:
    return IngestConfig(**{"run_dir": "unused", "source": ("s",)} | values)


def every_file(run: RunDirectory) -> list[str]:
    found = run.filesystem.get_file_info(pafs.FileSelector(run.root, recursive=True, allow_not_found=True))
    return sorted(info.path.rpartition("run/")[2] for info in found if info.type == pafs.FileType.File)


def test_a_table_comes_back_and_is_described(run: RunDirectory) -> None:
    path = "frames/part-000003.parquet"
    written = run.write_table(path, TABLE.replace_schema_metadata({"key": "value"}))
    content = run.read_bytes(path)
    assert written == store.File(path, 1000, len(content), hashlib.sha256(content).hexdigest())
    assert run.describe(path) == written
    assert run.read_table(path).equals(TABLE)
    assert run.read_table(path, ["name"]).equals(TABLE.select(["name"]))
    assert run.read_schema(path).names == ["number", "name"]
    assert run.read_schema(path).metadata[b"key"] == b"value"
    assert every_file(run) == [path]


def test_equal_tables_give_equal_bytes(run: RunDirectory) -> None:
    chunked = pa.concat_tables([TABLE[:300], TABLE[300:301], TABLE[301:]])
    checksums = {run.write_table(f"{number}", table).sha256 for number, table in enumerate((TABLE, chunked, TABLE[:]))}
    assert len(checksums) == 1
    assert run.write_table("3", TABLE[:999]).sha256 not in checksums


def test_row_groups_are_bounded(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.ROW_GROUP_BYTES == 64 << 20
    monkeypatch.setattr(store, "ROW_GROUP_BYTES", 1000)
    run.write_table("t", TABLE.select(["number"]))  # 8 bytes a row
    groups = pq.ParquetFile(pa.BufferReader(run.read_bytes("t"))).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [125] * 8
    run.write_table("wide", pa.table({"x": [b"x" * 5000, b"y" * 5000]}))
    assert pq.ParquetFile(pa.BufferReader(run.read_bytes("wide"))).metadata.num_row_groups == 2
    assert run.write_table("empty", TABLE[:0]).rows == run.read_table("empty").num_rows == 0


def test_json_comes_back(run: RunDirectory) -> None:
    run.write_json("a/x.json", {"b": [1, None, "ü"]})
    assert run.read_json("a/x.json") == {"b": [1, None, "ü"]}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(run: RunDirectory, error: type[BaseException]) -> None:
    def fail() -> None:
        with run.create("frames/part-000000.parquet") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert every_file(run) == []


def test_a_block_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.write_bytes("x/y", b"old")

    def fail() -> None:
        with run.create("x/y") as stream:
            stream.write(b"new")
            assert run.read_bytes("x/y") == b"old"
            assert len(run.names("x")) == 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert run.read_bytes("x/y") == b"old"
    assert run.names("x") == ["y"]


def test_content_shows_only_when_the_block_has_ended(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with run.create("x/y") as stream:
        stream.write(b"all of it")
        assert not run.exists("x/y")
    assert run.read_bytes("x/y") == b"all of it"
    run.write_bytes("x/y", b"again")
    assert (run.read_bytes("x/y"), run.names("x")) == (b"again", ["y"])


def test_names_parts_and_what_killed_writers_left(run: RunDirectory) -> None:
    for name in ("part-000002.parquet", "part-000010.parquet", "part-1000000.parquet", "part-x.parquet"):
        run.write_bytes(f"f/{name}", b"")
    run.write_bytes(f"f/{store.TEMPORARY}abc-part-000003.parquet", b"half")
    run.write_bytes("f/below/part-000004.parquet", b"")
    assert run.parts("f") == {
        2: "f/part-000002.parquet",
        10: "f/part-000010.parquet",
        1_000_000: "f/part-1000000.parquet",
    }
    assert list(run.parts("f")) == [2, 10, 1_000_000]
    assert len(run.names("f")) == 5
    run.clear_temporary("f")
    assert run.names("f") == ["part-000002.parquet", "part-000010.parquet", "part-1000000.parquet", "part-x.parquet"]
    assert run.exists("f/below/part-000004.parquet")
    run.delete("f/part-x.parquet")
    assert not run.exists("f/part-x.parquet")
    assert (run.names("nowhere"), run.parts("nowhere")) == ([], {})
    run.clear_temporary("nowhere")


def test_a_run_directory_travels(run: RunDirectory) -> None:
    run.write_bytes("x", b"1")
    there = pickle.loads(pickle.dumps(run))
    assert (there.uri, there.read_bytes("x")) == (run.uri, b"1")


def step(run: RunDirectory, config: IngestConfig | None = None, **inputs: str) -> Step:
    return Step(run, "ingest", "frames", config or ingest(), inputs)


def test_find_begin_finish_and_find_again(run: RunDirectory) -> None:
    first = step(run, sources="abc")
    assert first.find() is None
    assert every_file(run) == []  # finding leaves no trace
    first.begin()
    assert first.find() is None  # unfinished: go on
    with pytest.raises(ValueError, match="frames is missing or unfinished; run `python -m curation ingest` first"):
        marker_of(run, "frames", "ingest")
    files = [run.write_table(f"frames/part-00000{number}.parquet", TABLE[number:]) for number in (1, 0)]
    assert first.find() is None
    marker = first.finish({"rows_in": 1000}, files)
    assert marker["files"] == [vars(file) for file in reversed(files)]
    assert marker["output_hash"] == digest([[file.path, file.sha256] for file in reversed(files)])
    assert marker["config_hash"] == digest(hashed_fields(ingest()))
    assert (marker["step"], marker["rows_in"], marker["inputs"]) == ("ingest", 1000, {"sources": "abc"})
    assert first.find() == marker == marker_of(run, "frames", "ingest")
    assert run.read_json(f"frames/{store.SUCCESS}") == marker


def test_begin_records_config_inputs_and_versions(run: RunDirectory) -> None:
    step(run, sources="abc").begin()
    Step(run, "embed", "embeddings", ingest(part_rows=7), {}).begin()
    record = run.read_json("run.json")
    assert list(record["steps"]) == ["frames", "embeddings"]
    assert record["steps"]["frames"] == {
        "config": hashed_fields(ingest()),
        "inputs": {"sources": "abc"},
        "config_hash": digest(hashed_fields(ingest())),
    }
    assert record["steps"]["embeddings"]["config"]["part_rows"] == 7
    assert record["versions"]["pyarrow"] == pa.__version__
    assert set(record["versions"]) >= {"endosieve", "torch", "timm", "ray"}


def test_other_settings_are_refused_and_damage_nothing(run: RunDirectory) -> None:
    step(run, ingest(part_rows=100), sources="abc").begin()
    run.write_table("frames/part-000000.parquet", TABLE)
    run.write_bytes(f"frames/{store.TEMPORARY}x", b"of a writer that may still be at work")
    before = {path: run.read_bytes(path) for path in every_file(run)}
    with pytest.raises(ValueError, match="ingest was run in") as caught:
        step(run, ingest(part_rows=200, include=("*.jpg",)), sources="abd").find()
    for change in (
        "part_rows was 100, now 200",
        "include was [], now ['*.jpg']",
        "sources was 'abc', now 'abd'",
        "another --run-dir",
        "delete frames/",
    ):
        assert change in str(caught.value)
    assert "max_pixels" not in str(caught.value)
    with pytest.raises(ValueError, match=r"more was None, now 'x'"):
        step(run, ingest(part_rows=100), sources="abc", more="x").find()
    assert {path: run.read_bytes(path) for path in every_file(run)} == before
    assert step(run, ingest(part_rows=100), sources="abc").find() is None


def test_other_settings_of_a_finished_step_are_refused(run: RunDirectory) -> None:
    step(run).begin()
    marker = step(run).finish({}, [])
    with pytest.raises(ValueError, match="part_rows was 2000, now 7"):
        step(run, ingest(part_rows=7)).find()
    assert step(run).find() == marker


def test_other_settings_are_welcome_where_nothing_was_done_yet(run: RunDirectory) -> None:
    step(run, ingest(part_rows=100)).begin()
    other = step(run, ingest(part_rows=200))
    assert other.find() is None
    other.begin()
    assert run.read_json("run.json")["steps"]["frames"]["config"]["part_rows"] == 200


def test_what_does_not_shape_the_result_may_change(run: RunDirectory) -> None:
    step(run, ingest(max_rejected=0.5)).begin()
    marker = step(run, ingest(max_rejected=0.5)).finish({}, [])
    assert step(run, ingest(max_rejected=0.1, run_dir="elsewhere")).find() == marker


def test_begin_clears_what_killed_writers_left(run: RunDirectory) -> None:
    run.write_bytes(f"frames/{store.TEMPORARY}x", b"half")
    run.write_bytes("frames/part-000000.parquet", b"whole")
    step(run).begin()
    assert run.names("frames") == ["part-000000.parquet"]


def test_holds_files_looks_below(run: RunDirectory) -> None:
    assert not run.holds_files("clusters")
    run.write_bytes("clusters/iterations/part-000000.parquet", b"")
    assert run.holds_files("clusters")
    assert not run.holds_files("cluster")


def test_check_rejected_at_its_limit() -> None:
    store.check_rejected("embed", 5, 100, 0.05)
    store.check_rejected("embed", 0, 0, 0.0)
    with pytest.raises(ValueError, match=r"embed rejected 6 of 100 frames \(6.0%\), more than max_rejected 5.0%"):
        store.check_rejected("embed", 6, 100, 0.05)


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for uri, expected in (
        ("a/../b/", f"{tmp_path}/b"),
        ("~/x", "/home/someone/x"),
        ("/x/y/", "/x/y"),
        ("file:///x/y/", "/x/y"),
    ):
        system, path = filesystem_of(uri)
        assert isinstance(system, pafs.LocalFileSystem)
        assert path == expected
    assert filesystem_of("memory://x/y")[0].type_name == "py::fsspec+memory"
    for uri in ("zzz://bucket/x", "s4://bucket/x"):
        with pytest.raises(ValueError, match=rf"no file system is known for {uri[:2]}.*use a path, s3://"):
            filesystem_of(uri)


def test_a_run_sent_to_a_process_elsewhere_is_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(RunDirectory("run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(sent).root == str(tmp_path / "run")
    assert pickle.loads(pickle.dumps(RunDirectory("memory://run"))).uri == "memory://run"
