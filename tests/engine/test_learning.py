"""Learning is real: on the real frames the loss falls as a stored curve says, and the features gain by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

BENCH = Path(__file__).parents[1] / "bench"
DATA = os.environ.get("ENDOSIEVE_DATA")
MARGINS = {"all": 0.015, "20 a source": 0.05, "5 a source": 0.08}  # of balanced accuracy; untrained: 0.949, 0.85, 0.75


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/")
def test_the_loss_falls_as_stored_and_a_probe_gains(tmp_path: Path, environment: dict[str, str]) -> None:
    stored = json.loads((BENCH / "learning_curve.json").read_text())
    command = [sys.executable, BENCH / "bench_learning.py", "--epochs", str(stored["epochs"])]
    place = {"ENDOSIEVE_DATA": str(Path(str(DATA)).resolve())}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | place, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    output = tmp_path / f"runs/bench/learning/encoder-{stored['epochs']}"
    rows = pq.read_table(output / "metrics.parquet").to_pylist()
    assert {str(row["update"]): row["loss"] for row in rows} == {
        update: pytest.approx(loss, rel=0.02) for update, loss in stored["loss"].items()
    }
    untrained, trained = json.loads((tmp_path / "runs/bench/learning.json").read_text())["rows"]
    gained = {name: trained[name] - untrained[name] for name in MARGINS}
    assert {name for name, least in MARGINS.items() if gained[name] < least} == set(), gained
