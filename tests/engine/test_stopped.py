"""Ctrl-C and SIGTERM while Ray runs a step: one line, the exit code that shells expect, and no process left behind."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_command_says_so_in_a_line(
    number: int,
    started: Callable[..., Any],
    run_flags: Callable[..., list[str]],
    settings: Callable[..., Any],
    drawn: tuple[Path, pa.Table],
    tmp_path: Path,
) -> None:
    log, many = tmp_path / "log", {"part_rows": 2}
    with started(log, "curation", "run", *run_flags(settings(tmp_path / "run", ingest=many))) as session:
        end = time.monotonic() + 120
        while not list((tmp_path / "run").glob("embeddings/part-*")) and time.monotonic() < end:
            time.sleep(0.05)
        session.send_signal(number)
        assert session.wait(timeout=60) == 128 + number
        end = time.monotonic() + 30
        while session.living() and time.monotonic() < end:
            time.sleep(0.1)
        assert session.living() == {}
    told = log.read_text()
    assert told.splitlines()[-1] == "stopped; rerun the same command, and it resumes"
    assert "Traceback" not in told
    assert not (tmp_path / "run/embeddings/_SUCCESS.json").exists()
