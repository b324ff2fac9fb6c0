"""Decisions on the phantom against brute force over all pairs in float64; budgets, centring and storage."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.__main__ import main
from curation.clusters.cluster import cluster
from curation.embeddings import vectors
from curation.embeddings.embed import embed
from curation.scores import duplicates
from curation.scores.config import ScoreConfig
from curation.scores.score import score
from curation.store import schema
from curation.subsets.config import SelectConfig

Reference = tuple[Path, list[dict[str, Any]]]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]
DecisionsOf = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def decisions_of(by_id: ById) -> DecisionsOf:
    """decisions_of(run_dir, name): the decisions for a subset by their frames."""
    return lambda run_dir, name="curated": by_id(pq.read_table(run_dir / "subsets" / name / "decisions.parquet"))


def units64(run_dir: Path, rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
    """Centred embeddings by frame, recomputed in float64."""
    table = rows(run_dir, "embeddings")
    x_ND = np.array(table["embedding"].to_pylist()).astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return dict(zip(table["frame_id"].to_pylist(), x_ND, strict=True))


def test_decisions_name_each_listed_frame_once_with_a_valid_reason(
    by_id: ById, decisions_of: DecisionsOf, reference: Reference, rows: Rows
) -> None:
    run_dir, _ = reference
    decisions, frames = decisions_of(run_dir), by_id(rows(run_dir, "frames"))
    clusters = by_id(rows(run_dir, "clusters/assignments"))
    units = units64(run_dir, rows)
    assert decisions.keys() == frames.keys()
    for frame, row in decisions.items():
        assert row["reason"] in schema.REASONS
        assert row["kept"] == (row["reason"] == "kept")
        if row["reason"] == "exact copy":
            assert (row["because_of"], row["similarity"]) == (frames[frame]["copy_of"], 1.0)
        elif row["reason"] == "duplicate":
            cause = row["because_of"]
            assert row["cluster"] == clusters[frame]["cluster"] == clusters[cause]["cluster"]
            assert clusters[cause]["centroid_distance"] <= clusters[frame]["centroid_distance"]
            assert row["similarity"] > 0.9
            assert row["similarity"] == pytest.approx(units[frame] @ units[cause], abs=2e-3)  # units are of float16
        else:
            assert row["because_of"] is None
    reasons = Counter(row["reason"] for row in decisions.values())
    assert reasons["exact copy"] == 9
    assert min(reasons["kept"], reasons["duplicate"]) > 10
    subset = json.loads((run_dir / "subsets/curated/subset.json").read_text())
    assert subset["counts"] == {reason: reasons.get(reason, 0) for reason in schema.REASONS}
    assert (subset["pool"], subset["kept"], subset["ratio"]) == (150, reasons["kept"], reasons["kept"] / 150)
    assert subset["config"]["d"] == 0.9
    assert subset["config"]["seed"] == 0


def wanted_by_brute_force(run_dir: Path, rows: Rows, config: SelectConfig) -> set[str]:
    """The paper's walk through each cluster, all pairs, one frame after the other, in float64."""
    units, scored = units64(run_dir, rows), rows(run_dir, "scores").to_pylist()
    keys = vectors.keys_of([row["frame_id"] for row in scored])
    drawn = vectors.scramble(keys, config.seed, duplicates.RANDOM).tolist()
    place = dict(zip((row["frame_id"] for row in scored), drawn, strict=True))
    visit: dict[str, Callable[[dict[str, Any]], Any]] = {
        "nearest": lambda row: (row["centroid_distance"], row["frame_id"]),
        "farthest": lambda row: (-row["centroid_distance"], row["frame_id"]),
        "random": lambda row: place[row["frame_id"]],
    }
    epsilon = np.inf if config.outlier_distance is None else np.float32(config.outlier_distance)
    assert config.d is not None
    kept: set[str] = set()
    for number in {row["cluster"] for row in scored}:
        inside = [row for row in scored if row["cluster"] == number and row["centroid_distance"] <= epsilon]
        before: list[str] = []
        for row in sorted(inside, key=visit[config.order]):
            frame = row["frame_id"]
            compared = before if config.compared == "any" else [other for other in before if other in kept]
            if all(units[frame] @ units[other] <= config.d for other in compared):
                kept.add(frame)
            before.append(frame)
    return kept


@pytest.mark.parametrize(
    "changes",
    [
        {"d": 0.9},
        {"d": 0.8, "epsilon": 0.35},
        {"d": 0.8, "epsilon": 0.35, "keep": "farthest"},
        {"d": 0.8, "epsilon": 0.35, "keep": "random", "seed": 3},
        {"d": 0.8, "epsilon": 0.35, "rule": "greedy"},
        {"d": 0.8, "epsilon": 0.35, "rule": "greedy", "keep": "farthest"},
        {"d": 0.8, "epsilon": 0.35, "rule": "greedy", "keep": "random"},
        {"d": 0.85, "method": "semdedup"},
        {"d": 0.85, "method": "semdedup", "keep": "nearest"},
        {"d": 0.85, "method": "semdedup", "keep": "random"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_thresholds_keep_what_brute_force_keeps(
    decisions_of: DecisionsOf, begun: Callable[..., Path], rows: Rows, changes: dict[str, Any]
) -> None:
    config = SelectConfig(run_dir=str(begun("scores")), name="other", **changes)
    marker = pipeline.select(config)
    decisions = decisions_of(Path(config.run_dir), "other")
    kept = {frame for frame, row in decisions.items() if row["kept"]}
    assert kept == wanted_by_brute_force(Path(config.run_dir), rows, config)
    assert marker["rows_out"] == len(kept)
    outliers = {frame for frame, row in decisions.items() if row["reason"] == "outlier"}
    assert bool(outliers) == (config.epsilon is not None)
    assert all(row["because_of"] not in outliers for row in decisions.values() if row["reason"] == "duplicate")


@pytest.mark.parametrize(
    "method", ["meddel", "semdedup", "random", "prototypes-hard", "prototypes-easy", "cluster-balanced"]
)
def test_a_budget_is_met_exactly_by_every_method(
    by_id: ById, decisions_of: DecisionsOf, begun: Callable[..., Path], rows: Rows, method: Any
) -> None:
    run_dir = begun("scores")
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="count", method=method, budget=40))
    pipeline.select(SelectConfig(run_dir=str(run_dir), name="share", method=method, budget=0.5))
    decisions = decisions_of(run_dir, "count")
    kept = {frame for frame, row in decisions.items() if row["kept"]}
    larger = {frame for frame, row in decisions_of(run_dir, "share").items() if row["kept"]}
    assert (len(kept), len(larger)) == (40, 75)
    assert kept < larger
    over = [row for row in decisions.values() if row["reason"] == "over budget"]
    assert len(over) + len(kept) == 141
    scored = by_id(rows(run_dir, "scores"))
    dropped = scored.keys() - kept
    distance = {frame: row["centroid_distance"] for frame, row in scored.items()}
    if method == "prototypes-hard":
        assert min(distance[frame] for frame in kept) >= max(distance[frame] for frame in dropped)
    elif method == "prototypes-easy":
        assert max(distance[frame] for frame in kept) <= min(distance[frame] for frame in dropped)
    elif method == "cluster-balanced":
        sizes = Counter(row["cluster"] for row in scored.values())
        taken = Counter(scored[frame]["cluster"] for frame in kept)
        most = max(taken.values())
        assert all(taken[number] >= min(size, most - 1) for number, size in sizes.items())
    elif method == "meddel":
        similarity = {frame: row["duplicate_similarity"] for frame, row in scored.items()}
        assert max(similarity[frame] for frame in kept) <= min(similarity[frame] for frame in dropped)
    else:
        pipeline.select(SelectConfig(run_dir=str(run_dir), name="seeded", method=method, budget=40, seed=1))
        seeded = {frame for frame, row in decisions_of(run_dir, "seeded").items() if row["kept"]}
        assert (seeded != kept) == (method == "random")


def test_run_without_thresholds_prints_the_grid_and_its_sizes_hold(
    begun: Callable[..., Path],
    settings: Callable[..., pipeline.RunConfig],
    run_flags: Callable[[pipeline.RunConfig], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = begun("scores")
    config = settings(run_dir, select={"d": None, "grid_epsilon": (0.35, 0.9), "grid_d": (0.7, 0.9)})
    assert main(["run", *run_flags(config)]) == 0
    output = capsys.readouterr().out
    assert "No --d and no --budget was given" in output
    lines = output[output.index("epsilon \\ d") :].splitlines()[1:3]
    sizes = {line.split()[0]: [int(size) for size in line.split()[1::3]] for line in lines}
    for epsilon, of_epsilon in sizes.items():
        for d, size in zip((0.7, 0.9), of_epsilon, strict=True):
            name = f"at-{epsilon}-{d}"
            marker = pipeline.select(SelectConfig(run_dir=str(run_dir), name=name, epsilon=float(epsilon), d=d))
            assert marker["rows_out"] == size
    assert list(sizes) == ["0.35", "0.9"]
    assert not (run_dir / "subsets/curated").exists()


@pytest.mark.parametrize(
    "changes",
    [{}, {"keep": "farthest", "grid_epsilon": (0.35, 0.9)}, {"method": "semdedup"}],
    ids=["nearest", "farthest", "semdedup"],
)
def test_the_printed_thresholds_keep_the_printed_sizes(begun: Callable[..., Path], changes: dict[str, Any]) -> None:
    where = {"run_dir": str(begun("scores"))}
    _, header, *lines = pipeline.grid(SelectConfig(**where, grid=True, **changes)).splitlines()
    ds = header.split()[3 if changes.get("method") is None else 4 :]
    assert len(ds) > 5
    assert len(lines) == {None: 5, "farthest": 2}.get(changes.get("keep")) if "method" not in changes else 1
    chosen = {name: value for name, value in changes.items() if name != "grid_epsilon"}
    for line in lines[:2]:
        label, sizes = line.split()[0], [int(size) for size in line.replace("(", " ").split()[1::2]]
        for d, size in list(zip(ds, sizes, strict=True))[::3]:
            epsilon = {} if label == "-" else {"epsilon": float(label)}
            marker = pipeline.select(SelectConfig(**where, name=f"at{label}_{d}", d=float(d), **epsilon, **chosen))
            assert marker["rows_out"] == size


def test_centring_subtracts_the_mean_of_all_vectors(by_id: ById, reference: Reference, rows: Rows) -> None:
    run_dir, _ = reference
    x_ND = np.array(rows(run_dir, "embeddings")["embedding"].to_pylist()).astype(np.float64)
    [mean] = np.array(pq.read_table(run_dir / "clusters/mean.parquet")["centroid"].to_pylist())
    np.testing.assert_allclose(mean, x_ND.mean(axis=0), atol=1e-7)
    units = units64(run_dir, rows)
    centroids = np.array(pq.read_table(run_dir / "clusters/centroids.parquet")["centroid"].to_pylist())
    for row in rows(run_dir, "clusters/assignments").to_pylist():
        cosines = centroids @ units[row["frame_id"]]
        assert row["centroid_distance"] == pytest.approx(1 - cosines.max(), abs=2e-3)  # units are of float16
        assert cosines[row["cluster"]] == pytest.approx(cosines.max(), abs=2e-3)
    scored = by_id(rows(run_dir, "scores"))
    for row in scored.values():
        if row["duplicate_of"] is not None:
            cosine = units[row["frame_id"]] @ units[row["duplicate_of"]]
            assert row["duplicate_similarity"] == pytest.approx(cosine, abs=2e-3)


@pytest.mark.slow
def test_float32_storage(
    begun: Callable[..., Path], reference: Reference, rows: Rows, settings: Callable[..., pipeline.RunConfig]
) -> None:
    run_dir = begun("frames")
    config = settings(run_dir, embed={"storage": "float32"})
    embed(config.embed)
    cluster(config.cluster)
    score(ScoreConfig(run_dir=str(run_dir)))
    table, halves = rows(run_dir, "embeddings"), rows(reference[0], "embeddings")
    assert table["embedding"].type == pa.list_(pa.field("item", pa.float32(), nullable=False), 192)
    x_ND = np.array(table["embedding"].to_pylist()).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(x_ND, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(x_ND.astype(np.float16), np.array(halves["embedding"].to_pylist()).astype(np.float16))
    units = units64(run_dir, rows)
    for row in rows(run_dir, "scores").to_pylist():
        if row["duplicate_of"] is not None:
            cosine = units[row["frame_id"]] @ units[row["duplicate_of"]]
            assert row["duplicate_similarity"] == pytest.approx(cosine, abs=1e-5)
