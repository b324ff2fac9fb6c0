"""Who may write to a directory: call chains, threads and steps, on a local disk; a lease leaves no trace."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation.store import leases
from curation.store.directory import RunDirectory, holding


def test_a_call_chain_may_hold_again_and_another_thread_may_not(
    take: Callable[[RunDirectory], None], in_thread: Callable[[Callable[[], Any]], str], run: RunDirectory
) -> None:
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


def test_what_is_held_is_lent(
    take: Callable[[RunDirectory], None], in_thread: Callable[[Callable[[], Any]], str], tmp_path: Path
) -> None:
    run = RunDirectory(str(tmp_path))

    def work(held: frozenset[str]) -> None:
        with leases.borrowed(held):
            take(run)

    with run.lock():
        lent = leases.current()
        assert in_thread(lambda: work(lent)) == ""
        assert "in use" in in_thread(lambda: work(frozenset()))


def test_a_step_holds_its_run_directory(
    take: Callable[[RunDirectory], None], in_thread: Callable[[Callable[[], Any]], str], run: RunDirectory
) -> None:
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


def test_a_directory_below_a_file_and_one_that_cannot_be_made(
    take: Callable[[RunDirectory], None], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for uri in (f"{tmp_path}/file/run", f"{tmp_path}/file", "/proc/nowhere/run"):
        with pytest.raises(OSError, match=uri.rpartition("/run")[0] or uri):
            take(RunDirectory(uri))
