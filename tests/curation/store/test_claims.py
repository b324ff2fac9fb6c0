"""Claims decide where a disk locks no files: they live as long as their hearts beat, and a lost one is an error."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from curation.store import claims
from curation.store.directory import RunDirectory


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local disk that locks no files, as some network file systems; claims settle and expire at once."""

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(claims, "SETTLE_S", 0.02)
    monkeypatch.setattr(claims, "BEAT_S", 0.1)


def claim(run: RunDirectory, age: float, **changes: Any) -> str:
    """A claim of a process elsewhere, written `age` seconds ago; its id."""
    owner = vars(claims.owner_here()) | {"host": "far", "machine": "another", "pid": 1} | changes
    for path in (f".lease-{owner['id']}.json", claims.heartbeat(owner["id"])):
        run.write_json(path, owner)
        os.utime(f"{run.root}/{path}", (time.time() - age,) * 2)
    return str(owner["id"])


def test_without_locks_a_claim_decides(
    take: Callable[[RunDirectory], None], in_thread: Callable[[Callable[[], Any]], str], lockless: None, tmp_path: Path
) -> None:
    run = RunDirectory(str(tmp_path / "a/run"))
    with run.lock():
        assert "in use by another process" in in_thread(lambda: take(run))
    assert in_thread(lambda: take(run)) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_claim_lives_as_long_as_its_heart_beats(
    take: Callable[[RunDirectory], None], lockless: None, tmp_path: Path
) -> None:
    run = RunDirectory(str(tmp_path))
    found = claim(run, claims.EXPIRY_S - 5)
    os.utime(f"{run.root}/.lease-{found}.json", (1, 1))  # an old claim whose heart beats
    with beating(run, found), pytest.raises(ValueError, match=r"in use by another process.*process 1 on far"):
        take(run)
    assert sorted(run.names("")) == [f".lease-{found}.beat", f".lease-{found}.json"]
    os.utime(f"{run.root}/.lease-{found}.beat", (1, 1))
    take(run)
    assert run.names("") == []


def test_a_claim_whose_heart_stood_still_is_waited_for(
    take: Callable[[RunDirectory], None],
    lockless: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after the death of a machine, when the same command is given again at once; another waits with it."""
    monkeypatch.setattr(claims, "EXPIRY_S", 2.0)
    run = RunDirectory(str(tmp_path))
    claim(run, 0)
    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(hold, run) for _ in range(2)]
        found = [end.result() for end in ends]
    assert 2.0 < time.monotonic() - begun < 20
    assert sorted(found) in (["", ""], ["", found[1] or found[0]])
    assert all("in use by another process" in text for text in found if text)
    assert "is held by" in capsys.readouterr().err
    assert run.names("") == []


def hold(run: RunDirectory) -> str:
    """Hold a directory for a while; the error, or ''."""
    try:
        with run.lock():
            time.sleep(1)
    except ValueError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def beating(run: RunDirectory, found: str) -> Iterator[None]:
    """A heart that beats."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(f"{run.root}/.lease-{found}.beat")

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_claim_of_a_process_that_ended_here_counts_for_nothing(
    take: Callable[[RunDirectory], None], lockless: None, tmp_path: Path
) -> None:
    run = RunDirectory(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    claim(run, 0, pid=process.pid, machine=claims.machine())
    take(run)
    claim(run, 0, pid=os.getpid(), machine=claims.machine())
    with pytest.raises(ValueError, match="in use"):
        take(run)


def test_a_claim_that_is_withdrawn_while_it_is_read_is_gone(
    lockless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyArrow has it on S3: an object that goes after its size was asked for is an error of the server."""
    run, other = RunDirectory(str(tmp_path / "run")), f".lease-{'f' * 32}.json"
    run.write_json(other, {"id": "f" * 32})
    whole, asked = RunDirectory.read_bytes, list[str]()

    def going(directory: RunDirectory, path: str) -> bytes:
        asked.append(path)
        if path == other:
            directory.delete(path)
            raise OSError("AWS Error INTERNAL_FAILURE during GetObject operation")
        return whole(directory, path)

    monkeypatch.setattr(RunDirectory, "read_bytes", going)
    with run.lock():
        assert other in asked
    monkeypatch.setattr(RunDirectory, "read_bytes", whole)
    run.write_json(other, {"id": "f" * 32})
    monkeypatch.setattr(RunDirectory, "read_bytes", lambda *_: (_ for _ in ()).throw(OSError("the server is down")))
    with pytest.raises(OSError, match="the server is down"), run.lock():
        pass


def test_a_later_claim_gives_way(take: Callable[[RunDirectory], None], lockless: None, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    claim(run, -30)
    take(run)


def test_a_lost_lease_is_an_error(lockless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    run = RunDirectory(str(tmp_path))

    def lose() -> None:
        with run.lock():
            for name in run.names(""):
                with contextlib.suppress(FileNotFoundError):
                    run.delete(name)
            time.sleep(0.3)

    with pytest.raises(ValueError, match=r"the lease on .* was lost: this process stood still for more than 90 s"):
        lose()


def test_the_heart_beats(lockless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    run = RunDirectory(str(tmp_path))
    with run.lock():
        time.sleep(0.3)
        [beat] = [name for name in run.names("") if name.endswith(".beat")]
        first = run.read_json(beat)["at"]
        time.sleep(0.3)
        assert run.read_json(beat)["at"] > first
