"""What a person sees, and what a collector of logs reads."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from curation import console
from curation.__main__ import main


def lines_of(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in captured.readouterr().err.splitlines()]


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDOSIEVE_LOG", "json")


def test_progress_as_json(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    with console.working_on("s3://bucket/a run"), console.progress("embed", 10, "frame", done=2) as bar:
        time.sleep(0.01)
        bar.set_postfix_str("so far", refresh=False)
        bar.update(6)
    first, *_, last = lines_of(capsys)
    assert (first["event"], first["done"], first["per_second"]) == ("progress", 2, None)
    assert [last[name] for name in ("run", "step", "unit", "done", "total")] == [
        "s3://bucket/a run",
        "embed",
        "frame",
        8,
        10,
    ]
    assert last["per_second"] > 0
    assert last["note"] == "so far"
    assert abs((datetime.fromisoformat(last["time"]) - datetime.now(UTC)).total_seconds()) < 60


def test_warnings_and_errors_as_json(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    with console.working_on("runs/a"):
        console.warn('a "quoted"\nword')
    console.warn("after")
    assert main(["status", "--run-dir", "/nowhere/at all"]) == 2
    first, second, third = lines_of(capsys)
    assert (first["event"], first["run"], first["message"]) == ("warning", "runs/a", 'a "quoted"\nword')
    assert (second["run"], third["event"]) == ("", "error")
    assert "holds no run" in third["message"]


def test_text_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    console.warn("something")
    assert capsys.readouterr().err == "warning: something\n"
