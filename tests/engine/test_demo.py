"""The demonstration, whole: two curations of a phantom with a training between them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation import demo
from curation.engine.chips import chip
from curation.phantom import colonoscopy


@pytest.mark.slow
def test_the_demonstration_trains_its_encoder_and_finds_more_with_it(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    done = python("-m", "curation", "demo", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    truth = pq.read_table(tmp_path / "phantom/truth.parquet")
    found: dict[str, dict[str, float]] = {}
    for run in ("untrained", "run"):
        kept = pq.read_table(tmp_path / run / "subsets/curated/kept.parquet")["path"].to_pylist()
        assert len(kept) == demo.KEPT_SHARE
        found[run] = colonoscopy.compare_with_truth(truth, kept)
    assert found["run"]["duplicates_found"] >= max(0.95, found["untrained"]["duplicates_found"] - 0.01)
    assert found["run"]["distinct_kept"] >= max(0.95, found["untrained"]["distinct_kept"] - 0.01)
    losses = pq.read_table(tmp_path / "encoder/metrics.parquet")["loss"].to_pylist()
    assert losses[-1] < demo.CHANCE - 1
    assert f"loss {losses[0]:.2f} at the start, {losses[-1]:.2f} at the end" in done.stdout
    for name in ("duplicates_found", "distinct_kept", "invalid_dropped"):
        before, after = (found[run][name] for run in ("untrained", "run"))
        assert f"{before:>15.1%}{after:>9.1%}" in done.stdout
    card = json.loads((tmp_path / "encoder/card.json").read_text())
    assert card["data"]["frames"] == 654
    assert card["device"] == chip().name
    assert card["recipe"]["encoder"] == "vit_tiny_patch16_224"
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["steps"]["embeddings"]["config"]["image_size"] == 32
    assert "weights" in record["steps"]["embeddings"]["inputs"]
