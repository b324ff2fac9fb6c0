"""Writes that fail on file systems of fsspec that are not atomic leave what was there."""

from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curation.store import atomic
from curation.store.directory import RunDirectory


class Fragile(MemoryFileSystem):
    """Files that show while they are written, are completed when a stream is closed after an error, and may fail."""

    protocol = "fragile"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    limit: int | None = None  # bytes that a file can have
    moves: bool = True


class Strict(Fragile):
    """One that does not rename over a file, as SMB."""

    protocol = "smb"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2)


@pytest.fixture(params=[MemoryFileSystem, Fragile, Strict])
def remote(request: pytest.FixtureRequest) -> RunDirectory:
    """A directory on a file system of fsspec."""
    system = request.param(skip_instance_cache=True)
    if system.exists("/run"):
        system.rm("/run", recursive=True)
    run = RunDirectory("memory://run")
    run.filesystem, run.root = pafs.PyFileSystem(pafs.FSSpecHandler(system)), "/run"
    return run


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_other_file_systems_keep_what_was_there(remote: RunDirectory, error: type[BaseException]) -> None:
    def fail() -> None:
        with remote.create("a/x") as stream:
            stream.write(b"ne")
            raise error

    with pytest.raises(error):
        fail()
    assert remote.names("a") == []
    remote.write_bytes("a/x", b"old")
    with pytest.raises(error):
        fail()
    assert (remote.names("a"), remote.read_bytes("a/x")) == (["x"], b"old")
    remote.write_bytes("a/x", b"new")
    assert (remote.names("a"), remote.read_bytes("a/x")) == (["x"], b"new")


def test_a_transfer_that_ends_short_is_an_error(remote: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.write_bytes("a/x", b"old")
    system = remote.filesystem.handler.fs
    info = type(system).info

    def short(self: Any, path: str, **values: Any) -> dict[str, Any]:
        found = info(self, path, **values)
        return found | {"size": found["size"] - 1} if atomic.TEMPORARY in path else found

    monkeypatch.setattr(type(system), "info", short)
    with pytest.raises(OSError, match=r"a/x could not be written: 2 of 3 bytes arrived; rerun the same command"):
        remote.write_bytes("a/x", b"new")
    monkeypatch.undo()
    assert (remote.names("a"), remote.read_bytes("a/x")) == (["x"], b"old")


def test_a_move_that_fails_puts_the_old_file_back(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Strict(skip_instance_cache=True)
    run = RunDirectory("memory://run")
    run.filesystem, run.root = pafs.PyFileSystem(pafs.FSSpecHandler(system)), "/broken"
    run.write_bytes("a/x", b"old")
    move = Strict.mv

    def failing(self: Any, path1: str, path2: str, **values: Any) -> None:
        if atomic.TEMPORARY in path1:
            raise OSError("connection lost")
        move(self, path1, path2, **values)

    monkeypatch.setattr(Strict, "mv", failing)
    with pytest.raises(OSError, match="connection lost"):
        run.write_bytes("a/x", b"new")
    assert (run.names("a"), run.read_bytes("a/x")) == (["x"], b"old")


def test_what_a_killed_writer_set_aside_is_put_back(run: RunDirectory) -> None:
    aside = f"{atomic.ASIDE}{'0' * 32}-"
    run.write_bytes(f"a/{aside}x-1.parquet", b"old")
    run.write_bytes(f"a/b/{aside}y", b"old")
    run.write_bytes("a/b/y", b"new")
    run.clear_temporary("a")
    assert (run.names("a"), run.read_bytes("a/x-1.parquet")) == (["x-1.parquet"], b"old")
    assert (run.names("a/b"), run.read_bytes("a/b/y")) == (["y"], b"new")
