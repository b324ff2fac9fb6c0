"""Clusters and scores on Ray against the same computed on the whole in float64, however the work is shared out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.clusters import seeding
from curation.clusters.cluster import cluster
from curation.clusters.config import ClusterConfig
from curation.embeddings import vectors
from curation.engine import resources
from curation.scores import groups
from curation.scores import score as scoring
from curation.scores.config import ScoreConfig
from curation.scores.score import score

Reference = tuple[Path, list[dict[str, Any]]]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def made_up(local_ray: None, synthetic: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished clustering of 1,200 made-up vectors into 6 clusters, over 7 parts. Not to be changed."""
    run_dir = synthetic(tmp_path_factory.mktemp("made-up"), 1200, 24, 7)
    cluster(ClusterConfig(run_dir=str(run_dir), clusters=6, iterations=12, shard_rows=300, seed=5))
    return run_dir


def test_clusters_equal_lloyd_on_the_whole(made_up: Path, rows: Rows) -> None:
    table, assigned = rows(made_up, "embeddings"), rows(made_up, "clusters/assignments")
    ids, x_ND = table["frame_id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float64)
    assert assigned["frame_id"].to_pylist() == ids
    seeds = np.array(pq.read_table(made_up / "clusters/iterations/part-000000.parquet")["centroid"].to_pylist())
    expected = seeding.seed_centroids(vectors.keys_of(ids), x_ND.astype(np.float16), 6, 5)
    np.testing.assert_array_equal(seeds.astype(np.float32), expected)
    centroids, inertia = seeds, []
    for _ in range(12):
        nearest = (x_ND @ centroids.T).argmax(axis=1)
        sums = np.stack([x_ND[nearest == number].sum(axis=0) for number in range(6)])
        moved = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        shift, centroids = np.square(moved - centroids).sum(), moved
        inertia.append(np.square(x_ND - centroids[(x_ND @ centroids.T).argmax(axis=1)]).sum())
        if shift <= 1e-4 * x_ND.var(axis=0).mean():
            break
    found = np.array(pq.read_table(made_up / "clusters/centroids.parquet")["centroid"].to_pylist())
    np.testing.assert_allclose(found, centroids, atol=1e-6)
    np.testing.assert_array_equal(assigned["cluster"].to_numpy(), (x_ND @ centroids.T).argmax(axis=1))
    distance = 1 - (x_ND @ centroids.T).max(axis=1)
    np.testing.assert_allclose(assigned["centroid_distance"].to_numpy(), distance, atol=1e-3)  # units are of float16
    history = pq.read_table(made_up / "clusters/history.parquet")
    np.testing.assert_allclose(history["inertia"].to_numpy(), inertia, rtol=1e-3)
    assert history["iteration"].to_pylist() == list(range(1, len(inertia) + 1))
    assert (np.diff(history["inertia"].to_numpy()) <= 0).all()


def expected_scores(run_dir: Path, rows: Rows) -> dict[str, tuple[float, str | None]]:
    """All pairs of each cluster in float64: the highest cosine with a frame nearer to the centroid, and that frame."""
    table, assigned = rows(run_dir, "embeddings"), rows(run_dir, "clusters/assignments")
    ids, x_ND = np.array(table["frame_id"].to_pylist()), np.array(table["embedding"].to_pylist(), np.float64)
    x_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    clusters, distance = assigned["cluster"].to_numpy(), assigned["centroid_distance"].to_numpy()
    order = np.lexsort((ids, distance))
    expected: dict[str, tuple[float, str | None]] = {}
    for place, row in enumerate(order):
        before = order[:place][clusters[order[:place]] == clusters[row]]
        cosines = x_ND[before] @ x_ND[row]
        expected[ids[row]] = (cosines.max(), ids[before[cosines.argmax()]]) if len(before) else (-1, None)
    return expected


def store_share_of(rows_in_store: int) -> float:
    """The share of the object store that this many made-up frames fill (see score.wave_rows)."""
    return rows_in_store * (24 * 2 + 40) / resources.resources()["object_store_memory"]


@pytest.mark.parametrize("split_rows", [32_768, 64], ids=["whole clusters", "clusters split over tasks"])
@pytest.mark.parametrize("store", [None, 1, 500], ids=["one wave", "a wave a group", "some waves"])
@pytest.mark.parametrize("group_rows", [1, 300])
def test_scores_equal_all_pairs_of_the_whole(
    *,
    by_id: ById,
    made_up: Path,
    tmp_path: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    split_rows: int,
    store: int | None,
    group_rows: int,
) -> None:
    run_dir = Path(shutil.copytree(made_up, tmp_path / "run"))
    monkeypatch.setattr(groups, "SPLIT_ROWS", split_rows)
    if store is not None:
        monkeypatch.setattr(scoring, "STORE_SHARE", store_share_of(store))
    score(ScoreConfig(run_dir=str(run_dir), group_rows=group_rows))
    found, expected = by_id(rows(run_dir, "scores")), expected_scores(run_dir, rows)
    assert found.keys() == expected.keys()
    for frame, (similarity, cause) in expected.items():
        assert found[frame]["duplicate_similarity"] == pytest.approx(similarity, abs=1e-6)
        assert found[frame]["duplicate_of"] == cause


@pytest.mark.parametrize("keep", ["nearest", "farthest", "random"])
def test_a_split_cluster_scores_as_a_whole_one_with_an_epsilon(
    by_id: ById, made_up: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    distance = rows(made_up, "clusters/assignments")["centroid_distance"].to_numpy()
    epsilon = None if keep == "nearest" else float(np.median(distance))
    found = []
    for name, split_rows in (("whole", 32_768), ("split", 50)):
        run_dir = Path(shutil.copytree(made_up, tmp_path / name))
        monkeypatch.setattr(groups, "SPLIT_ROWS", split_rows)
        config = ScoreConfig(run_dir=str(run_dir), keep=keep, epsilon=epsilon)
        score(config)
        found.append(by_id(rows(run_dir, config.folder)))
    assert found[0].keys() == found[1].keys()
    for frame, row in found[0].items():
        other = found[1][frame]
        assert other["duplicate_similarity"] == pytest.approx(row["duplicate_similarity"], abs=1e-6)
        assert other["duplicate_of"] == row["duplicate_of"]
        left_out = epsilon is not None and row["centroid_distance"] > np.float32(epsilon)
        assert not left_out or (row["duplicate_similarity"], row["duplicate_of"]) == (-1, None)


@pytest.mark.parametrize("keep", ["nearest", "farthest"])
def test_clusters_that_are_only_together_too_large_are_not_compared_with_each_other(
    *, by_id: ById, made_up: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    """Each has fewer frames than are split, and fewer than are scored together, but any two have more."""
    assigned = by_id(rows(made_up, "clusters/assignments"))
    sizes = np.bincount([row["cluster"] for row in assigned.values()])
    assert sizes[:2].sum() > sizes.max()
    monkeypatch.setattr(groups, "SPLIT_ROWS", int(sizes.max()))
    found = []
    for name, group_rows in (("together", int(sizes.max())), ("apart", 1)):
        run_dir = Path(shutil.copytree(made_up, tmp_path / name))
        config = ScoreConfig(run_dir=str(run_dir), group_rows=group_rows, keep=keep)
        score(config)
        found.append(rows(run_dir, config.folder))
        for row in found[-1].to_pylist():
            assert row["duplicate_of"] is None or assigned[row["duplicate_of"]]["cluster"] == row["cluster"]
    assert found[0].equals(found[1])


def test_a_vector_that_is_not_finite_is_named(made_up: Path, relisted: Callable[[Path], None], tmp_path: Path) -> None:
    """As in a table that another program made."""
    run_dir = Path(shutil.copytree(made_up, tmp_path / "run"))
    part = run_dir / "embeddings/part-000003.parquet"
    table = pq.read_table(part)
    x_ND = np.array(table["embedding"].to_pylist(), np.float16)
    x_ND[5, 7] = np.nan
    column = table.schema.field("embedding")
    vectors_ND = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), type=column.type)
    pq.write_table(table.set_column(1, column, vectors_ND), part)
    relisted(run_dir)
    frame = table["frame_id"][5].as_py()
    message = f"embeddings/part-000003.parquet: the embedding of frame {frame} has length nan, expected 1"
    with pytest.raises(ValueError, match=message):
        score(ScoreConfig(run_dir=str(run_dir)))
    shutil.rmtree(run_dir / "clusters")
    with pytest.raises(ValueError, match=message):
        cluster(ClusterConfig(run_dir=str(run_dir), clusters=6))
