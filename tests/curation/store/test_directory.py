"""A run directory, local and in memory: whole files or none, names, parts, checked reads, and places that travel."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from curation.store import directory
from curation.store.directory import RunDirectory
from curation.store.filesystems import filesystem_of

TABLE = pa.table({"number": list(range(1000)), "name": [f"frame {number % 7}" for number in range(1000)]})
Paths = Callable[[RunDirectory], list[str]]


def test_a_table_comes_back_and_is_described(run: RunDirectory, every_file: Paths) -> None:
    path = "frames/part-000003.parquet"
    written = run.write_table(path, TABLE.replace_schema_metadata({"key": "value"}))
    content = run.read_bytes(path)
    assert written == directory.File(path, 1000, len(content), hashlib.sha256(content).hexdigest())
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
    assert directory.ROW_GROUP_BYTES == 64 << 20
    monkeypatch.setattr(directory, "ROW_GROUP_BYTES", 1000)
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
def test_a_block_that_fails_leaves_nothing(run: RunDirectory, every_file: Paths, error: type[BaseException]) -> None:
    def fail() -> None:
        with run.create("frames/part-000000.parquet") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert every_file(run) == []


def test_a_block_that_fails_leaves_the_old_content(run: RunDirectory) -> None:
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


def test_content_shows_only_when_the_block_has_ended(run: RunDirectory) -> None:
    with run.create("x/y") as stream:
        stream.write(b"all of it")
        assert not run.exists("x/y")
    assert run.read_bytes("x/y") == b"all of it"
    run.write_bytes("x/y", b"again")
    assert (run.read_bytes("x/y"), run.names("x")) == (b"again", ["y"])


def test_names_parts_and_what_killed_writers_left(run: RunDirectory) -> None:
    for name in ("part-000002.parquet", "part-000010.parquet", "part-1000000.parquet", "part-x.parquet"):
        run.write_bytes(f"f/{name}", b"")
    run.write_bytes(f"f/{directory.TEMPORARY}abc-part-000003.parquet", b"half")
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


def test_folders_and_places_in_a_file(run: RunDirectory) -> None:
    run.write_bytes("a/one/x", b"0123456789")
    run.write_bytes("a/two/x", b"1")
    run.write_bytes("a/three", b"2")
    assert run.folders("a") == ["one", "two"]
    assert run.folders("b") == []
    with run.open("a/one/x") as file:
        file.seek(7)
        assert file.read() == b"789"
    run.delete_folder("a/one")
    assert run.folders("a") == ["two"]


def test_a_directory_below_a_uri_with_options() -> None:
    assert RunDirectory("s3://b/run/?region=x").below("a/b").address == "s3://b/run/a/b?region=x"
    assert RunDirectory("/x/what?/").below("a").address == "/x/what?/a"
    assert RunDirectory("memory://run").below("a/b").root == "/run/a/b"


def listed(run: RunDirectory) -> str:
    """The path of a table as the marker of a finished step lists it."""
    file = run.write_table("scores/part-000000.parquet", TABLE)
    run.write_json("scores/_SUCCESS.json", {"files": [vars(file)]})
    return run.parts("scores")[0]


@pytest.mark.parametrize("whole", [directory.WHOLE_BYTES, 10])
@pytest.mark.parametrize("columns", [None, ["name"]])
def test_a_listed_table_is_compared_with_its_marker(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, whole: int, columns: list[str] | None
) -> None:
    monkeypatch.setattr(directory, "WHOLE_BYTES", whole)
    path = pickle.loads(pickle.dumps(listed(run)))
    assert isinstance(path, directory.Listed)
    assert path == "scores/part-000000.parquet"
    assert run.read_table(path, columns).equals(TABLE.select(columns or TABLE.column_names))
    content = run.read_bytes(path)
    for place in (0, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        run.write_bytes(path, bytes(flipped))
        with pytest.raises(
            directory.IntegrityError, match=r"scores/part-000000\.parquet is damaged or was changed"
        ) as caught:
            run.read_table(path, columns)
        for words in (f"{len(content)} bytes with {path.file.sha256}", "Put it back as it was; or delete it and the"):
            assert words in str(caught.value)
    run.write_bytes(path, content[:-1])
    with pytest.raises(directory.IntegrityError, match=f"has {len(content) - 1} bytes"):
        run.read_table(path, columns)
    run.delete(path)
    with pytest.raises(directory.IntegrityError, match=r"scores/part-000000\.parquet is missing"):
        run.read_table(path, columns)


def test_what_a_marker_lists_are_the_parts(run: RunDirectory) -> None:
    path = listed(run)
    run.write_bytes("scores/part-000007.parquet", b"of nobody")
    run.write_bytes("scores/other/part-000001.parquet", b"unfinished")
    assert run.parts("scores") == {0: path}
    assert run.parts("scores/other") == {1: "scores/other/part-000001.parquet"}
    assert isinstance(run.listed("scores/part-000000.parquet"), directory.Listed)
    assert not isinstance(run.listed("scores/x"), directory.Listed)
