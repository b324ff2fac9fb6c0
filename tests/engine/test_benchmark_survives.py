"""A benchmark killed between two pre-trainings, then between two fine-tunings, goes on: what is finished stays."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.exports.config import ExportConfig
from curation.subsets.config import SelectConfig
from training.__main__ import main

SMALL = {
    "encoder": "test_vit",
    "image-size": 32,
    "decoder-depth": 1,
    "decoder-width": 32,
    "decoder-heads": 2,
    "steps": 4,
    "batch-size": 8,
    "slice-rows": 8,
    "precision": "float32",
    "picture-steps": 0,
    "seeds": 2,
    "decoded-size": 48,
    "finetune-epochs": 1,
    "finetune-batch-size": 8,
    "finetune-head-cells": 8,
    "finetune-head-width": 32,
    "finetune-patience": 0,
}


@pytest.mark.slow
def test_what_was_finished_stays_and_the_rest_is_done(
    local_ray: None, begun: Callable[..., Path], polyps: Path, started: Callable[..., Any], tmp_path: Path
) -> None:
    run_dir = str(begun("scores"))
    for name, budget in (("tenth", 0.1), ("fifth", 0.2)):
        pipeline.select(SelectConfig(run_dir=run_dir, name=name, budget=budget))
        pipeline.export(ExportConfig(run_dir=run_dir, name=name))
    given = [f"--{name}={value}" for name, value in SMALL.items()]
    given += [f"--subset={run_dir}/subsets/{name}" for name in ("tenth", "fifth")] + [f"--dataset=generic={polyps}"]

    def command(output: Path) -> list[str]:
        return ["benchmark", *given, f"--output={output}"]

    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def stamps(pattern: str) -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in killed.glob(pattern)}

    patterns = ("pretrain/*/card.json", "results/*.parquet")
    before: dict[str, int] = {}
    for pattern in patterns:
        with started(tmp_path / "log", "training", *command(killed)) as driver:
            deadline = time.monotonic() + 300
            while not stamps(pattern):
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.killpg(driver.pid, signal.SIGKILL)
        assert 1 <= len(stamps(pattern)) < 4
        before |= stamps(pattern)
    assert main(command(killed)) == 0
    after = {name: stamp for pattern in patterns for name, stamp in stamps(pattern).items()}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    assert main(command(whole)) == 0

    def results(output: Path) -> list[dict[str, Any]]:
        return pq.read_table(output / "results.parquet").to_pylist()

    assert results(killed) == results(whole)
