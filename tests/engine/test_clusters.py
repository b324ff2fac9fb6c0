"""k-means on Ray: byte-equal tables however its work is shared out, and with a worker killed in every iteration."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.clusters import kmeans, lloyd, seeding, shards
from curation.clusters.cluster import cluster
from curation.clusters.config import ClusterConfig
from curation.embeddings import vectors

Tables = Callable[[Path], dict[str, str]]
Rows = Callable[[Path, str], pa.Table]
SETTINGS: dict[str, Any] = {"clusters": 6, "iterations": 5, "tolerance": 0.0, "seed": 5}


@pytest.fixture(scope="module")
def embedded(local_ray: None, synthetic: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished embeddings of 1,200 made-up vectors in 7 parts. Not to be changed."""
    return synthetic(tmp_path_factory.mktemp("embedded"), 1200, 24, 7)


@pytest.fixture(scope="module")
def made(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """made(**changes): a new run directory clustered with other settings, and the marker."""

    def make(**changes: Any) -> tuple[Path, dict[str, Any]]:
        run_dir = Path(shutil.copytree(embedded, tmp_path_factory.mktemp("clustered") / "run"))
        return run_dir, cluster(ClusterConfig(run_dir=str(run_dir), **SETTINGS | changes))

    return make


@pytest.fixture(scope="module")
def whole(made: Callable[..., tuple[Path, dict[str, Any]]]) -> Path:
    """Clustered with one shard of all frames."""
    return made(shard_rows=10_000)[0]


@pytest.mark.parametrize(
    ("shard_rows", "resident", "groups"),
    [(1, True, 3), (400, True, 100), (400, False, 1), (1, False, 100)],
)
def test_no_share_of_the_work_shows(
    *,
    made: Callable[..., tuple[Path, dict[str, Any]]],
    whole: Path,
    tables: Tables,
    monkeypatch: pytest.MonkeyPatch,
    shard_rows: int,
    resident: bool,
    groups: int,
) -> None:
    monkeypatch.setattr(shards, "RESIDENT_SHARE", 0.5 if resident else 0.0)
    monkeypatch.setattr(lloyd, "groups_at_once", lambda: groups)
    monkeypatch.setattr(kmeans, "RANGE_BYTES", 500 * groups)  # in several ranges of clusters, or one
    run_dir, marker = made(shard_rows=shard_rows)
    assert ("vectors in memory" if resident else "vectors read anew in each iteration") in marker["note"]
    assert tables(run_dir) == tables(whole)


def test_a_share_trains_on_its_sample_and_assigns_all(
    made: Callable[..., tuple[Path, dict[str, Any]]], rows: Rows, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, marker = made(train_share=0.3, shard_rows=300)
    assert "trained on 0.3 of the frames" in marker["note"]
    monkeypatch.setattr(shards, "RESIDENT_SHARE", 0.0)
    assert tables(made(train_share=0.3, shard_rows=1)[0]) == tables(run_dir)
    table, assigned = rows(run_dir, "embeddings"), rows(run_dir, "clusters/assignments")
    ids, x_ND = table["frame_id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float16)
    keys = vectors.keys_of(ids)
    chosen = seeding.trained_on(keys, 0.3, 5)
    centroids = seeding.seed_centroids(keys[chosen], x_ND[chosen], 6, 5)
    for _ in range(5):
        centroids = kmeans.update(kmeans.partial_sums(keys[chosen], x_ND[chosen], centroids), centroids)[0]
    found = np.array(pq.read_table(run_dir / "clusters/centroids.parquet")["centroid"].to_pylist(), np.float32)
    assert found.tobytes() == centroids.tobytes()
    assert len(assigned) == 1200
    nearest, similarity = kmeans.assign(vectors.to_unit(x_ND), centroids)
    assert assigned["cluster"].to_numpy().tolist() == nearest.tolist()
    history = pq.read_table(run_dir / "clusters/history.parquet")["inertia"].to_numpy()
    assert history[-1] == pytest.approx(2 * (1 - similarity[chosen].astype(float)).sum(), rel=1e-4)
    assert (np.diff(history) <= 0.001 * history[0]).all()  # all of the frames trained on


def test_a_share_of_too_few_frames_is_refused(made: Callable[..., tuple[Path, dict[str, Any]]]) -> None:
    with pytest.raises(ValueError, match=r"clusters is 6, but there are only about 1 of 1200 .*train_share 0.001"):
        made(train_share=0.001)


@pytest.mark.slow
def test_an_iteration_whose_every_worker_dies_once_gives_the_same(
    made: Callable[..., tuple[Path, dict[str, Any]]],
    whole: Path,
    tables: Tables,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The first task of each iteration kills its process; Ray runs it again in another."""

    def mortal(reader: Any, shard: Any, centroids: Any, ranges: Any, kept: Any, *resident: Any) -> Any:
        import hashlib  # noqa: PLC0415 (this function is sent to workers, which cannot import this file)
        import os  # noqa: PLC0415
        import signal  # noqa: PLC0415

        from curation.clusters import lloyd as real  # noqa: PLC0415

        try:
            name = hashlib.sha256(centroids.tobytes()).hexdigest()
            with open(f"{deaths}/{name}", "x"):
                pass
        except FileExistsError:
            return real.group_sums(reader, shard, centroids, ranges, kept, *resident)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    deaths = str(tmp_path)
    monkeypatch.setattr(lloyd, "group_sums", mortal)
    run_dir, _ = made(shard_rows=300)
    assert tables(run_dir) == tables(whole)
    iterations = len(list((run_dir / "clusters/iterations").glob("*.parquet"))) - 1
    assert len(list(tmp_path.iterdir())) == iterations >= 3
