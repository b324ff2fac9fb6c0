"""A sweep of a pool full of invalid frames and duplicates, of known truth: what it finds and prefers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

BENCH = Path(__file__).parents[2] / "bench/bench_sweep.py"


@pytest.mark.slow
def test_a_grid_beats_every_baseline_and_prefers_to_remove_what_was_planted(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--question=grid"],
        env=environment | {"PYTHONPATH": str(BENCH.parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "runs/bench/sweep-grid.json").read_text())["rows"]
    searched = [row for row in rows if row["baseline"] is None]
    baselines = [row for row in rows if row["baseline"] is not None]
    assert len(searched) >= 12
    assert {row["baseline"] for row in baselines} == {"random", "full", "semdedup"}
    best = max(searched, key=lambda row: row["normdel"])
    assert best["normdel"] >= max(row["normdel"] for row in baselines)
    assert best["duplicates_removed"] > 0.99
    assert best["invalid_removed"] > 0.9
    alike = [row for row in searched if row["epsilon"] == best["epsilon"]]
    assert spearmanr(*columns(alike, "normdel", "duplicates_removed")).statistic > 0.5
    assert spearmanr(*columns(searched, "normdel", "invalid_removed")).statistic > 0.5
    assert rows[0]["minutes"] < 20


def columns(rows: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    """Columns of rows."""
    return [[row[name] for row in rows] for name in names]
