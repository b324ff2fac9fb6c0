"""Which of two alike stays, by a column, and what a pass says of its own recall, on the phantom against brute force."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.scores import score as scoring
from curation.scores.config import ScoreConfig
from curation.scores.score import score
from curation.subsets.config import SelectConfig

Rows = Callable[[Path, str], pa.Table]
Begun = Callable[..., Path]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]


def frames_of(run_dir: Path, rows: Rows) -> list[dict[str, Any]]:
    """All embedded frames: centred float64 vector, cluster, distance, sharpness, and the user's column of numbers."""
    table, assigned = rows(run_dir, "embeddings"), rows(run_dir, "clusters/assignments")
    shots = dict(zip(*(rows(run_dir, "frames")[name].to_pylist() for name in ("frame_id", "shot")), strict=True))
    x_ND = np.array(table["embedding"].to_pylist()).astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    table = table.select(["frame_id", "sharpness"]).to_pylist()
    return [
        row | other | {"x": x, "shot": float(shots[row["frame_id"]])}
        for row, other, x in zip(table, assigned.to_pylist(), x_ND, strict=True)
    ]


@pytest.mark.parametrize("keep", ["sharpest", "lowest:shot"])
def test_of_two_alike_the_better_one_stays(begun: Begun, rows: Rows, by_id: ById, keep: str) -> None:
    run_dir = begun("clusters")
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="best", keep=keep, d=0.8, epsilon=0.35))
    better: Callable[[dict[str, Any]], Any] = {
        "sharpest": lambda row: (-row["sharpness"], row["frame_id"]),
        "lowest:shot": lambda row: (row["shot"], row["frame_id"]),
    }[keep]
    frames = frames_of(run_dir, rows)
    inside = [row for row in frames if row["centroid_distance"] <= np.float32(0.35)]
    kept = {
        row["frame_id"]
        for row in inside
        if not any(
            other["cluster"] == row["cluster"] and better(other) < better(row) and other["x"] @ row["x"] > 0.8
            for other in inside
        )
    }
    decisions = by_id(pq.read_table(run_dir / "subsets/best/decisions.parquet"))
    assert {frame for frame, row in decisions.items() if row["kept"]} == kept
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="fifty", keep=keep, budget=50, epsilon=0.35))
    assert sum(pq.read_table(run_dir / "subsets/fifty/decisions.parquet")["kept"].to_pylist()) == 50


def test_a_column_that_is_not_there_leaves_no_trace(begun: Begun) -> None:
    run_dir = begun("clusters")
    with pytest.raises(ValueError, match="keep names the column 'blur', which"):
        score(ScoreConfig(run_dir=str(run_dir), keep="highest:blur"))
    assert not (run_dir / "scores").exists()


@pytest.mark.parametrize(("shard_rows", "group_rows"), [(65_536, 16_384), (20, 1)])
def test_recall_is_that_of_all_pairs_and_stands_in_marker_and_manifest(
    *, begun: Begun, rows: Rows, by_id: ById, monkeypatch: pytest.MonkeyPatch, shard_rows: int, group_rows: int
) -> None:
    run_dir = begun("clusters")
    monkeypatch.setattr(scoring, "SHARD_ROWS", shard_rows)
    marker = score(ScoreConfig(run_dir=str(run_dir), group_rows=group_rows))
    frames, scored = frames_of(run_dir, rows), by_id(rows(run_dir, "scores"))
    table = by_id(pq.read_table(run_dir / "scores/recall.parquet"))
    assert table.keys() == scored.keys()
    place = {row["frame_id"]: (row["centroid_distance"], row["frame_id"]) for row in frames}
    vector = {row["frame_id"]: row["x"] for row in frames}
    for frame, row in table.items():
        before = [other for other in place if place[other] < place[frame]]
        highest = max((vector[other] @ vector[frame] for other in before), default=-1)
        assert row["exact_similarity"] == pytest.approx(highest, abs=2e-3)
        assert row["duplicate_similarity"] == scored[frame]["duplicate_similarity"] <= row["exact_similarity"]
    assert any(row["duplicate_similarity"] < row["exact_similarity"] for row in table.values())
    assert (marker["recall"]["frames"], marker["recall"]["whole"]) == (141, True)
    assert "recall of duplicates, of 141 frames, at d = " in marker["note"]
    marker = pipeline.select(SelectConfig(run_dir=str(run_dir), name="some", d=0.8))
    true = [row for row in table.values() if row["exact_similarity"] > np.float32(0.8)]
    found = [row for row in true if row["duplicate_similarity"] > np.float32(0.8)]
    share = len(found) / len(true)
    expected = {"d": 0.8, "duplicates": len(true), "found": len(found), "recall": share, "low": share, "high": share}
    manifest = json.loads((run_dir / "subsets/some/subset.json").read_text())
    assert manifest["recall"] == marker["recall"] == expected
    assert f"recall of duplicates at d = 0.8: {share:.1%}" in marker["note"]


def test_a_pass_without_a_sample_says_nothing_of_recall(begun: Begun) -> None:
    run_dir = begun("clusters")
    assert "recall" not in score(ScoreConfig(run_dir=str(run_dir), recall_frames=0))
    assert not (run_dir / "scores/recall.parquet").exists()
    assert "recall" not in pipeline.select(SelectConfig(run_dir=str(run_dir), d=0.8, name="some"))
