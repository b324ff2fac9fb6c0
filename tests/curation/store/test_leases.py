"""Who may write to a directory: threads and processes, a local disk, one without locks, object storage; no trace."""

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from curation.__main__ import main
from curation.store import claims, leases
from curation.store.directory import RunDirectory, holding

HOLD = """
import sys
from curation.store import claims
from curation.store.directory import RunDirectory
claims.SETTLE_S, claims.BEAT_S, claims.EXPIRY_S = 1.5, 0.2, 2.0
try:
    with RunDirectory(sys.argv[1]).lock():
        print("held", flush=True)
        sys.stdin.readline()
except ValueError as error:
    print("refused:", error, flush=True)
    sys.exit(2)
"""


def in_thread(work: Callable[[], Any]) -> str:
    """What a thread of its own raises, or ''."""
    found: list[str] = []

    def call() -> None:
        try:
            work()
        except ValueError as error:
            found.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return "".join(found)


def take(place: RunDirectory) -> None:
    with place.lock():
        pass


@contextlib.contextmanager
def holder(uri: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that asks for a directory, and where it gets it holds it until a line is sent to it."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, uri], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def let_go(process: "subprocess.Popen[str]") -> int:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.wait(30)


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local disk that locks no files, as some network file systems; claims settle and expire at once."""

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(claims, "SETTLE_S", 0.02)


def test_a_call_chain_may_hold_again_and_another_thread_may_not(run: RunDirectory) -> None:
    again = RunDirectory(run.uri)
    with run.lock():
        with again.lock():
            pass
        message = in_thread(lambda: take(again))
        assert f"{run.uri} is in use by another process" in message
        assert f"process {os.getpid()} on " in message
        assert "UTC; wait until it ends" in message
        take(RunDirectory(f"{run.uri}-other"))
    assert in_thread(lambda: take(again)) == ""


def test_without_locks_a_claim_decides(lockless: None, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "a/run"))
    with run.lock():
        assert "in use by another process" in in_thread(lambda: take(run))
    assert in_thread(lambda: take(run)) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_new_directory_with_nothing_in_it_goes_again(
    run: RunDirectory, tmp_path: Path, error: type[BaseException] | None
) -> None:
    deep = run.below("a/b")
    with contextlib.suppress(ValueError, KeyboardInterrupt), deep.lock():
        if error:
            raise error
    assert not run.exists("a/b")
    with contextlib.suppress(ValueError, KeyboardInterrupt), deep.lock():
        deep.write_bytes("x", b"1")
        if error:
            raise error
    assert (deep.names(""), deep.read_bytes("x")) == (["x"], b"1")


def test_a_directory_that_was_there_stays(run: RunDirectory) -> None:
    run.write_bytes("x", b"")
    run.delete("x")
    there = run.exists("")
    with run.lock():
        pass
    assert run.exists("") == there


def test_of_two_first_calls_one_holds(tmp_path: Path) -> None:
    uri = str(tmp_path / "new")
    with holder(uri) as first, holder(uri) as second:
        said = {process: line(process) for process in (first, second)}
        [held] = [process for process, text in said.items() if text == "held\n"]
        [refused] = [process for process in said if process is not held]
        assert f"process {held.pid} on " in said[refused]
        assert refused.wait(30) == 2
        assert let_go(held) == 0
    assert not Path(uri).exists()


def test_a_killed_holder_is_forgotten_at_once(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with holder(run.uri) as process:
        assert line(process) == "held\n"
        with pytest.raises(ValueError, match=f"process {process.pid} on "):
            take(run)
        process.kill()
        process.wait()
    take(run)
    assert list(tmp_path.iterdir()) == []


def claim(run: RunDirectory, age: float, **changes: Any) -> str:
    """A claim of a process elsewhere, written `age` seconds ago; its id."""
    owner = vars(claims.owner_here()) | {"host": "far", "machine": "another", "pid": 1} | changes
    for path in (f".lease-{owner['id']}.json", claims.heartbeat(owner["id"])):
        run.write_json(path, owner)
        os.utime(f"{run.root}/{path}", (time.time() - age,) * 2)
    return str(owner["id"])


def test_a_claim_lives_as_long_as_its_heart_beats(lockless: None, tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    found = claim(run, claims.EXPIRY_S - 5)
    with pytest.raises(ValueError, match=r"process 1 on far.*if it was killed, the directory is free 90 s later"):
        take(run)
    assert sorted(run.names("")) == [f".lease-{found}.beat", f".lease-{found}.json"]
    os.utime(f"{run.root}/.lease-{found}.json", (1, 1))  # an old claim whose heart beats
    with pytest.raises(ValueError, match="far"):
        take(run)
    os.utime(f"{run.root}/.lease-{found}.beat", (1, 1))
    take(run)
    assert run.names("") == []


def test_a_claim_of_a_process_that_ended_here_counts_for_nothing(lockless: None, tmp_path: Path) -> None:
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


def test_a_later_claim_gives_way(lockless: None, tmp_path: Path) -> None:
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


def test_what_is_held_is_lent(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))

    def work(held: frozenset[str]) -> None:
        with leases.borrowed(held):
            take(run)

    with run.lock():
        lent = leases.current()
        assert in_thread(lambda: work(lent)) == ""
        assert "in use" in in_thread(lambda: work(frozenset()))


def test_a_step_holds_its_run_directory(run: RunDirectory) -> None:
    class Config:
        run_dir = run.uri

    def step(config: Config) -> str:
        return in_thread(lambda: take(run))

    assert "in use" in holding(step)(Config())
    assert in_thread(lambda: take(run)) == ""


def test_secrets_of_a_command_line_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/curation/__main__.py", "run", "--source", "s3://key:secret@bucket"])
    with RunDirectory(str(tmp_path)).lock():
        content = (tmp_path / leases.LOCK).read_text()
        assert json.loads(content)["command"] == "python -m curation run"
        assert "secret" not in content


def test_a_directory_below_a_file_and_one_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for uri in (f"{tmp_path}/file/run", f"{tmp_path}/file", "/proc/nowhere/run"):
        with pytest.raises(OSError, match=uri.rpartition("/run")[0] or uri):
            take(RunDirectory(uri))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket, with `{}` for a name in it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="frames")
    yield f"s3://key:secret@frames/{{}}?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"
    server.stop()


def test_of_two_first_calls_one_holds_in_object_storage(bucket: str) -> None:
    uri = bucket.format("new")
    with holder(uri) as first, holder(uri) as second:
        said = {process: line(process) for process in (first, second)}
        [held] = [process for process, text in said.items() if text == "held\n"]
        [refused] = [process for process in said if process is not held]
        assert f"process {held.pid} on " in said[refused]
        assert refused.wait(30) == 2
        assert len([name for name in RunDirectory(uri).names("") if name.endswith(".json")]) == 1
        with holder(uri) as third:  # while the first one's heart beats
            assert line(third).startswith("refused: ")
        assert let_go(held) == 0
    assert RunDirectory(uri).names("") == []
    assert not RunDirectory(uri).holds_files("")


def test_a_killed_holder_in_object_storage_is_forgotten(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SETTLE_S", 1.5)
    run = RunDirectory(bucket.format("killed"))
    run.write_bytes("x", b"1")
    with holder(run.uri) as process:
        assert line(process) == "held\n"
        process.kill()
        process.wait()
    take(run)
    assert run.names("") == ["x"]


@pytest.mark.parametrize("where", ["local", "object storage"])
def test_every_command_is_refused_where_another_call_holds(
    where: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SETTLE_S", 1.1)
    uri = bucket.format("commands") if where == "object storage" else str(tmp_path / "run")
    run = RunDirectory(uri)
    source = ["--source", str(tmp_path)]
    commands = {"ingest": source, "export": [], "select": ["--d", "0.9"]}
    if where == "local":
        commands |= {"run": source, "embed": [], "cluster": [], "score": []}
    with run.lock():
        before = run.names("")
        for name, flags in commands.items():
            with ThreadPoolExecutor(1) as other:
                assert other.submit(main, [name, "--run-dir", uri, *flags]).result() == 2, name
            assert "is in use by another process" in capsys.readouterr().err, name
        assert run.names("") == before
    assert not run.exists("run.json")
