"""Of several processes one holds a directory, on a local disk and in object storage; a killed one is forgotten."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curation.__main__ import main
from curation.store import claims
from curation.store.directory import RunDirectory

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


def test_a_killed_holder_is_forgotten_at_once(take: Callable[[RunDirectory], None], tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    with holder(run.uri) as process:
        assert line(process) == "held\n"
        with pytest.raises(ValueError, match=f"process {process.pid} on "):
            take(run)
        process.kill()
        process.wait()
    take(run)
    assert list(tmp_path.iterdir()) == []


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


def test_a_killed_holder_in_object_storage_is_forgotten(
    take: Callable[[RunDirectory], None], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
