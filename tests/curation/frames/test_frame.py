"""Reading a frame's file: facts about the file reject the frame, failures that may pass stop the step."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import tenacity

from curation.frames import decoding, frame
from curation.store import schema
from curation.store.directory import RunDirectory

DATA = b"the bytes of a frame"
HASH = frame.content_hash(DATA)


class Flaky(pafs.FileSystemHandler):
    """A file system whose file cannot be opened for `failures` attempts, and is read well after that."""

    def __init__(self, error: Exception, failures: int, data: bytes = DATA) -> None:
        self.error, self.failures, self.data, self.opened = error, failures, data, 0

    def open_input_file(self, _: str) -> pa.NativeFile:
        self.opened += 1
        if self.opened <= self.failures:
            raise self.error
        return pa.BufferReader(self.data)

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return [pafs.FileInfo(path, pafs.FileType.File, size=len(self.data)) for path in paths]


for unused in pafs.FileSystemHandler.__abstractmethods__ - set(vars(Flaky)):
    setattr(Flaky, unused, lambda *_: "flaky")
Flaky.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that reading would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", waited.append)
    return waited


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flaky]:
    """flaky(error, failures): from now on every address is on such a file system."""

    def use(error: Exception, failures: int, **given: Any) -> Flaky:
        handler = Flaky(error, failures, **given)
        system = pafs.PyFileSystem(handler)
        monkeypatch.setattr(frame, "filesystem_of", lambda uri: (system, uri))
        return handler

    return use


S3 = "When reading information for key 'k.png' in bucket 'b': AWS Error {} during HeadObject operation: No body."
PASSING = [
    *(
        OSError(number, os.strerror(number))
        for number in (
            errno.EIO,
            errno.ETIMEDOUT,
            errno.ECONNRESET,
            errno.EMFILE,
            errno.ENFILE,
            errno.ESTALE,
            errno.EBUSY,
            errno.EAGAIN,
            errno.EHOSTDOWN,
            errno.ENOMEM,
        )
    ),
    TimeoutError("timed out"),
    *(OSError(S3.format(f"UNKNOWN (HTTP status {status})")) for status in (500, 502, 503, 429, 408)),
    *(OSError(S3.format(kind)) for kind in ("SLOW_DOWN", "NETWORK_CONNECTION", "INTERNAL_FAILURE")),
]
FACTS = [
    (FileNotFoundError(errno.ENOENT, "no such file"), "missing"),
    (OSError(errno.ENOTDIR, "not a directory"), "missing"),
    (PermissionError(errno.EACCES, "denied"), "unreadable"),
    (OSError(errno.ELOOP, "too many levels"), "unreadable"),
    (OSError(errno.ENAMETOOLONG, "too long"), "unreadable"),
    (OSError(S3.format("ACCESS_DENIED")), "unreadable"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_failure_that_passes_is_tried_again(flaky: Callable[..., Flaky], waits: list[float], error: OSError) -> None:
    handler = flaky(error, frame.ATTEMPTS - 1)
    assert frame.read_bytes("x") == DATA
    assert (handler.opened, len(waits)) == (frame.ATTEMPTS, frame.ATTEMPTS - 1)
    assert all(0 <= wait <= frame.LONGEST_WAIT_S for wait in waits)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_failure_that_stays_stops_the_step_and_rejects_nothing(
    flaky: Callable[..., Flaky], waits: list[float], error: OSError
) -> None:
    handler = flaky(error, 100)
    with pytest.raises(frame.ReadError, match="rerun the same command") as caught:
        frame.read_bytes("there/x.png")
    assert str(error) in str(caught.value)
    assert "there/x.png" in str(caught.value)
    assert handler.opened == frame.ATTEMPTS


@pytest.mark.parametrize(("error", "reason"), FACTS, ids=repr)
def test_a_fact_about_the_file_rejects_the_frame_at_once(
    flaky: Callable[..., Flaky], waits: list[float], error: OSError, reason: str
) -> None:
    handler = flaky(error, 100)
    with pytest.raises(decoding.FrameError) as caught:
        frame.read_bytes("x")
    assert (caught.value.reason, handler.opened, waits) == (reason, 1, [])


def test_files_that_cannot_be_files(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "file").write_bytes(DATA)
    expected = {
        "folder.png": "unreadable",
        "loop.png": "unreadable",
        "dangling.png": "missing",
        "nothing.png": "missing",
        "file/x.png": "missing",
        "n" * 300: "unreadable",
        "nul\0.png": "unreadable",
        "\udcff.png": "unreadable",
    }
    found = {}
    for name in expected:
        with pytest.raises(decoding.FrameError) as caught:
            frame.read_bytes(f"{tmp_path}/{name}")
        found[name] = caught.value.reason
    assert found == expected


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(decoding.FrameError, match="1099511627776 bytes, more than 1000") as caught:
        frame.read_bytes(str(sparse), limit=1000)
    assert caught.value.reason == "too large"
    (tmp_path / "fits").write_bytes(DATA)
    assert frame.read_bytes(str(tmp_path / "fits"), limit=len(DATA)) == DATA


def test_what_was_read_again_has_the_hash_it_had(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(DATA)
    assert frame.read_unchanged(str(file), HASH) == DATA
    file.write_bytes(DATA[::-1])  # as long
    with pytest.raises(decoding.FrameError, match=HASH) as caught:
        frame.read_unchanged(str(file), HASH)
    assert caught.value.reason == "changed since ingest"


def test_the_first_of_equal_files_that_is_right_is_read(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "abcd"]
    Path(names[1]).write_bytes(b"changed")
    Path(names[2]).write_bytes(DATA)
    asked = []

    def addresses() -> Any:
        for name in names:
            asked.append(name)
            yield name

    assert frame.read_first(addresses(), HASH) == (names[2], DATA)
    assert asked == names[:3]
    with pytest.raises(decoding.FrameError) as caught:
        frame.read_first(names[:2], HASH)
    assert caught.value.reason == "missing", "the reason is that of the frame's own file"


def test_parts_with_unread_frames_are_done_again(run: RunDirectory) -> None:
    """Part 0 rejected nothing, 1 a corrupt frame, 2 a corrupt and a missing one, 3 belongs to another step."""
    reasons = {1: ["corrupt"], 2: ["corrupt", "missing"], 3: ["changed since ingest"]}
    for number in range(4):
        run.write_bytes(f"embeddings/part-{number:06d}.parquet", b"x")
    for number, of_part in reasons.items():
        rows = [dict.fromkeys(schema.REJECTED.names, "x") | {"reason": reason} for reason in of_part]
        step = "ingest" if number == 3 else "embed"
        run.write_table(f"rejected/part-{number:06d}-{step}.parquet", pa.Table.from_pylist(rows, schema.REJECTED))
    frame.forget_unread(run, "embed", "embeddings")
    assert list(run.parts("embeddings")) == [0, 1, 3]
    assert run.names("rejected") == ["part-000001-embed.parquet", "part-000003-ingest.parquet"]
