import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import kmeans, pipeline, schema, sources, vectors
from curation import score as scoring
from curation.__main__ import main
from curation.cluster import cluster
from curation.config import ClusterConfig, ExportConfig, ScoreConfig, SelectConfig
from curation.embed import embed
from curation.export import export
from curation.ingest import ingest
from curation.score import score

Reference = tuple[Path, list[dict[str, Any]]]
Rows = Callable[[Path, str], pa.Table]
STEPS = ["ingest", "embed", "cluster", "score", "select", "export"]


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    found = {row["frame_id"]: row for row in table.to_pylist()}
    assert len(found) == len(table), "a frame has two rows"
    return found


def decisions_of(run_dir: Path, name: str = "curated") -> dict[str, dict[str, Any]]:
    return by_id(pq.read_table(run_dir / "subsets" / name / "decisions.parquet"))


def matrix(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.array(column.to_pylist())


def units64(run_dir: Path, rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
    """Centred embeddings by frame, recomputed in float64."""
    table = rows(run_dir, "embeddings")
    x_ND = matrix(table["embedding"]).astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return dict(zip(table["frame_id"].to_pylist(), x_ND, strict=True))


# Accounting


def test_every_frame_is_accounted_for(reference: Reference, rows: Rows) -> None:
    run_dir, markers = reference
    assert [marker["step"] for marker in markers] == STEPS
    ingested, embedded, clustered, scored, selected, exported = markers
    assert ingested["rows_in"] == 150 == ingested["rows_out"] + ingested["rejected"]
    assert embedded["rows_in"] == ingested["rows_out"]
    assert embedded["rows_in"] == embedded["rows_out"] + embedded["rejected"] + embedded["copies"]
    assert embedded["copies"] == ingested["copies"] == 9
    assert clustered["rows_in"] == clustered["rows_out"] == scored["rows_in"] == scored["rows_out"] == 141
    assert selected["rows_in"] == 150
    assert selected["rows_out"] == exported["rows_in"] == exported["rows_out"]
    of_frames, of_embeddings = rows(run_dir, "frames"), rows(run_dir, "embeddings")
    originals = {row["frame_id"] for row in of_frames.to_pylist() if row["copy_of"] is None}
    assert len(of_frames) == 150
    assert len(originals) == 141
    for table in (of_embeddings, rows(run_dir, "clusters/assignments"), rows(run_dir, "scores")):
        assert len(table) == 141
        assert by_id(table).keys() == originals


def test_parts_are_of_the_rows_asked_for(reference: Reference) -> None:
    sizes = [pq.read_metadata(file).num_rows for file in sorted((reference[0] / "frames").glob("*.parquet"))]
    assert sizes == [20] * 7 + [10]


def test_markers_list_every_file_with_its_checksum(reference: Reference) -> None:
    run_dir, _ = reference
    kept = run_dir / "subsets/curated/kept.parquet"
    unlisted = {file for file in run_dir.rglob("*.parquet") if file.parent.name != "iterations"} - {kept}
    for marker in run_dir.rglob("_SUCCESS.json"):
        for file in json.loads(marker.read_text())["files"]:
            path = run_dir / file["path"]
            content = path.read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert len(content) == file["bytes"]
            assert pq.read_metadata(path).num_rows == file["rows"]
            unlisted.remove(path)
    assert unlisted == set()


# Identity and lineage


def test_lineage_and_identity(reference: Reference, rows: Rows, drawn: tuple[Path, pa.Table]) -> None:
    root, truth = drawn
    known = {row["path"]: row for row in truth.to_pylist()}
    table = rows(reference[0], "frames").to_pylist()
    for row in table:
        folder = {"alpha": "center_a", "beta": "center_b"}[row["source"]]
        expected = known.pop(f"{folder}/{row['path']}")
        assert row["frame_id"] == sources.frame_id(row["source"], row["path"])
        assert len(bytes.fromhex(row["frame_id"])) == 16
        assert row["uri"] == str(root / expected["path"])
        lineage = (row["center"], row["patient"], row["procedure"], int(row["shot"]))
        assert lineage == (None, expected["patient"], expected["procedure"], expected["frame_index"])
        assert row["byte_size"] == Path(row["uri"]).stat().st_size
        with Image.open(row["uri"]) as image:
            assert (row["width"], row["height"]) == image.size
        assert (row["member"], row["frame_index"], row["timestamp_s"]) == (None, None, None)
    assert known == {}
    assert [row["source"] for row in table] == sorted(row["source"] for row in table)
    for source in ("alpha", "beta"):
        paths = [row["path"].split("/") for row in table if row["source"] == source]
        assert paths == sorted(paths)


def test_ingest_by_itself_with_globs_and_a_center(
    local_ray: None, settings: Callable[..., pipeline.RunConfig], drawn: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    root, truth = drawn
    changes = {"include": ("**/patient_00/**", "**/patient_01/**"), "exclude": ("**/stills/*",)}
    pattern = {"lineage_pattern": r"(?P<center>[^/]+)/(?P<patient>patient_01)/"}
    config = settings(tmp_path, (str(root),), ingest=changes | pattern).ingest
    marker = ingest(config)
    wanted = {
        row["path"]: (row["center"], row["patient"])
        for row in truth.to_pylist()
        if row["patient"] != "patient_02" and "stills" not in row["path"]
    }
    assert marker["rows_out"] == len(wanted)
    assert f"{150 - len(wanted)} excluded" in marker["note"]
    table = pa.concat_tables(pq.read_table(file) for file in sorted((tmp_path / "frames").glob("*.parquet")))
    assert set(table["source"].to_pylist()) == {"frames"}
    for row in table.to_pylist():
        matched = wanted.pop(row["path"])
        assert (row["center"], row["patient"]) == (matched if matched[1] == "patient_01" else (None, None))
    assert wanted == {}


def test_exact_copies_name_the_first_frame_of_that_content(
    reference: Reference, rows: Rows, drawn: tuple[Path, pa.Table]
) -> None:
    table = rows(reference[0], "frames").to_pylist()
    first: dict[bytes, str] = {}
    for row in table:
        content = Path(row["uri"]).read_bytes()
        original = first.setdefault(content, row["frame_id"])
        assert row["copy_of"] == (None if original == row["frame_id"] else original)
    path_of = {row["frame_id"]: str(Path(row["uri"]).relative_to(drawn[0])) for row in table}
    marked = {frozenset((path_of[row["frame_id"]], path_of[row["copy_of"]])) for row in table if row["copy_of"]}
    planted = {frozenset((r["path"], r["copy_of"])) for r in drawn[1].to_pylist() if r["kind"] == "exact_copy"}
    assert marked == planted


def test_embeddings_are_unit_vectors_with_measures(reference: Reference, rows: Rows) -> None:
    table = rows(reference[0], "embeddings")
    assert table["embedding"].type == pa.list_(pa.field("item", pa.float16(), nullable=False), 192)
    assert table.column_names == ["frame_id", "embedding", *schema.MEASURES]
    np.testing.assert_allclose(np.linalg.norm(matrix(table["embedding"]).astype(float), axis=1), 1, atol=1e-3)
    row = table.slice(17, 1).to_pylist()[0]
    uri = by_id(rows(reference[0], "frames"))[row["frame_id"]]["uri"]
    with Image.open(uri) as image:
        gray = np.asarray(image.convert("L"), float) / 255
    assert row["brightness"] == pytest.approx(gray.mean(), abs=0.01)


# Decisions


def test_decisions_name_each_listed_frame_once_with_a_valid_reason(reference: Reference, rows: Rows) -> None:
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
    drawn = vectors.scramble(vectors.keys_of([row["frame_id"] for row in scored]), config.seed).tolist()
    place = dict(zip((row["frame_id"] for row in scored), drawn, strict=True))
    visit: dict[str, Callable[[dict[str, Any]], Any]] = {
        "nearest": lambda row: (row["centroid_distance"], row["frame_id"]),
        "farthest": lambda row: (-row["centroid_distance"], row["frame_id"]),
        "random": lambda row: place[row["frame_id"]],
    }
    epsilon = np.float32(config.epsilon) if config.method == "meddel" else np.inf
    assert config.d is not None
    kept: set[str] = set()
    for number in {row["cluster"] for row in scored}:
        inside = [row for row in scored if row["cluster"] == number and row["centroid_distance"] <= epsilon]
        before: list[str] = []
        for row in sorted(inside, key=visit[config.order]):
            frame = row["frame_id"]
            compared = before if config.rule == "any" else [other for other in before if other in kept]
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
    begun: Callable[..., Path], rows: Rows, changes: dict[str, Any]
) -> None:
    config = SelectConfig(run_dir=str(begun("scores")), name="other", **changes)
    marker = pipeline.select(config)
    decisions = decisions_of(Path(config.run_dir), "other")
    kept = {frame for frame, row in decisions.items() if row["kept"]}
    assert kept == wanted_by_brute_force(Path(config.run_dir), rows, config)
    assert marker["rows_out"] == len(kept)
    outliers = {frame for frame, row in decisions.items() if row["reason"] == "outlier"}
    assert bool(outliers) == (config.epsilon < 0.9)
    assert all(row["because_of"] not in outliers for row in decisions.values())


@pytest.mark.parametrize(
    "method", ["meddel", "semdedup", "random", "prototypes-hard", "prototypes-easy", "cluster-balanced"]
)
def test_a_budget_is_met_exactly_by_every_method(begun: Callable[..., Path], rows: Rows, method: Any) -> None:
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
    assert list(sizes) == ["0.3500", "0.9000"]
    assert not (run_dir / "subsets/curated").exists()


# Export


def test_kept_parquet_has_all_columns_the_metadata_of_the_user_and_the_subset(reference: Reference, rows: Rows) -> None:
    run_dir, _ = reference
    path = run_dir / "subsets/curated/kept.parquet"
    table = pq.read_table(path)
    assert table.column_names == [*schema.FRAMES.names, "shot", "cluster", "centroid_distance"]
    decisions, frames = decisions_of(run_dir), by_id(rows(run_dir, "frames"))
    assert by_id(table).keys() == {frame for frame, row in decisions.items() if row["kept"]}
    for row in table.to_pylist():
        decided = decisions[row["frame_id"]]
        assert (row.pop("cluster"), row.pop("centroid_distance")) == (decided["cluster"], decided["centroid_distance"])
        assert row == frames[row["frame_id"]]
    subset = json.loads(table.schema.metadata[b"endosieve.subset"])
    assert subset.pop("with_images") is False
    assert subset == json.loads((run_dir / "subsets/curated/subset.json").read_text())


def test_tables_are_read_without_us(reference: Reference) -> None:
    run_dir, markers = reference
    kept = pd.read_parquet(run_dir / "subsets/curated/kept.parquet")
    assert len(kept) == markers[-1]["rows_out"]
    assert kept["frame_id"].is_unique
    assert kept["shot"].str.fullmatch(r"\d{5}").all()
    embeddings = pd.read_parquet(run_dir / "embeddings/part-000000.parquet")
    assert np.stack(embeddings["embedding"]).shape == (len(embeddings), 192)
    for folder in ("frames", "embeddings", "scores", "clusters/assignments"):
        dataset = pads.dataset(sorted(map(str, (run_dir / folder).glob("part-*.parquet"))))
        assert dataset.count_rows() == (150 if folder == "frames" else 141)
    for file in run_dir.rglob("*.parquet"):
        metadata = pq.read_metadata(file)
        assert all(metadata.row_group(group).total_byte_size <= 64 << 20 for group in range(metadata.num_row_groups))


def test_with_images_holds_the_bytes_of_the_files(reference: Reference, tmp_path: Path) -> None:
    config = ExportConfig(run_dir=str(reference[0]), output=str(tmp_path), with_images=True)
    assert export(config)["rows_out"] == reference[1][-1]["rows_out"]
    table = pq.read_table(tmp_path / "kept.parquet")
    assert len(table) == reference[1][-1]["rows_out"]
    assert table["image"].type == pa.large_binary()
    for row in table.select(["uri", "image"]).to_pylist():
        assert row["image"] == Path(row["uri"]).read_bytes()
    assert json.loads(table.schema.metadata[b"endosieve.subset"])["with_images"] is True
    assert export(config)["reused"]


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_a_folder_of_files(reference: Reference, tmp_path: Path, link: Any) -> None:
    export(ExportConfig(run_dir=str(reference[0]), output=str(tmp_path), format="folder", link=link))
    kept = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    files = {str(file.relative_to(tmp_path / "images")) for file in (tmp_path / "images").rglob("*.jpg")}
    assert files == {f"{row['source']}/{row['path']}" for row in kept}
    for row in kept:
        file, original = tmp_path / "images" / row["source"] / row["path"], Path(row["uri"])
        assert file.read_bytes() == original.read_bytes()
        assert file.is_symlink() == (link == "symbolic")
        assert file.samefile(original) == (link != "copy")


def test_thresholds_that_keep_nothing_are_refused(begun: Callable[..., Path], tables: Callable[..., Any]) -> None:
    run_dir = begun("scores")
    before = tables(run_dir)
    with pytest.raises(ValueError, match="keep none of 141 frames"):
        pipeline.select(SelectConfig(run_dir=str(run_dir), d=0.9, epsilon=0.0))
    assert tables(run_dir) == before
    assert pipeline.select(SelectConfig(run_dir=str(run_dir), d=0.9))["rows_out"] > 0


# Running again


def test_a_second_call_does_nothing(
    reference: Reference,
    settings: Callable[..., pipeline.RunConfig],
    written: Callable[[Path], dict[str, tuple[int, int]]],
) -> None:
    run_dir, first = reference
    before = written(run_dir)
    second = pipeline.run(settings(run_dir))
    assert all(marker["reused"] for marker in second)
    counts = ("step", "rows_in", "rows_out", "rejected", "copies")
    assert [[m[name] for name in counts] for m in second] == [[m[name] for name in counts] for m in first]
    assert written(run_dir) == before


def test_each_step_by_its_own_function_does_only_what_is_missing(
    begun: Callable[..., Path],
    settings: Callable[..., pipeline.RunConfig],
    written: Callable[[Path], dict[str, tuple[int, int]]],
    tables: Callable[[Path], dict[str, str]],
    reference: Reference,
) -> None:
    run_dir = begun("embeddings")
    config, before = settings(run_dir), written(run_dir)
    assert ingest(config.ingest)["reused"]
    assert embed(config.embed)["reused"]
    assert "reused" not in cluster(config.cluster)
    assert "reused" not in score(ScoreConfig(run_dir=str(run_dir)))
    assert "reused" not in pipeline.select(config.select)
    assert "reused" not in export(config.export)
    after = written(run_dir)
    assert {path: after[path] for path in before if path != "run.json"} == {
        path: stat for path, stat in before.items() if path != "run.json"
    }
    assert tables(run_dir) == tables(reference[0])


# The Ray path against an independent computation on the whole


@pytest.fixture(scope="module")
def made_up(local_ray: None, synthetic: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished clustering of 1,200 made-up vectors into 6 clusters, over 7 parts. Not to be changed."""
    run_dir = synthetic(tmp_path_factory.mktemp("made-up"), 1200, 24, 7)
    cluster(ClusterConfig(run_dir=str(run_dir), clusters=6, iterations=12, shard_rows=300, seed=5))
    return run_dir


def test_clusters_equal_lloyd_on_the_whole(made_up: Path, rows: Rows) -> None:
    table, assigned = rows(made_up, "embeddings"), rows(made_up, "clusters/assignments")
    ids, x_ND = table["frame_id"].to_pylist(), matrix(table["embedding"])
    assert assigned["frame_id"].to_pylist() == ids
    seeds = matrix(pq.read_table(made_up / "clusters/iterations/part-000000.parquet")["centroid"])
    expected = kmeans.seed_centroids(vectors.keys_of(ids), x_ND.astype(np.float16), 6, 5)
    np.testing.assert_array_equal(seeds.astype(np.float32), expected)
    centroids, inertia = seeds, []
    for _ in range(12):
        nearest = (x_ND @ centroids.T).argmax(axis=1)
        inertia.append(np.square(x_ND - centroids[nearest]).sum())
        sums = np.stack([x_ND[nearest == number].sum(axis=0) for number in range(6)])
        moved = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    found = matrix(pq.read_table(made_up / "clusters/centroids.parquet")["centroid"])
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
    ids, x_ND = np.array(table["frame_id"].to_pylist()), matrix(table["embedding"])
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
    return rows_in_store * (24 * 2 + 40) / scoring.engine.resources()["object_store_memory"]


@pytest.mark.parametrize("split_rows", [32_768, 64], ids=["whole clusters", "clusters split over tasks"])
@pytest.mark.parametrize("store", [None, 1, 500], ids=["one wave", "a wave a group", "some waves"])
@pytest.mark.parametrize("group_rows", [1, 300])
def test_scores_equal_all_pairs_of_the_whole(
    *,
    made_up: Path,
    tmp_path: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    split_rows: int,
    store: int | None,
    group_rows: int,
) -> None:
    run_dir = Path(shutil.copytree(made_up, tmp_path / "run"))
    monkeypatch.setattr(scoring, "SPLIT_ROWS", split_rows)
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
    made_up: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    distance = rows(made_up, "clusters/assignments")["centroid_distance"].to_numpy()
    epsilon = None if keep == "nearest" else float(np.median(distance))
    found = []
    for name, split_rows in (("whole", 32_768), ("split", 50)):
        run_dir = Path(shutil.copytree(made_up, tmp_path / name))
        monkeypatch.setattr(scoring, "SPLIT_ROWS", split_rows)
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


def test_centring_subtracts_the_mean_of_all_vectors(reference: Reference, rows: Rows) -> None:
    run_dir, _ = reference
    x_ND = matrix(rows(run_dir, "embeddings")["embedding"]).astype(np.float64)
    [mean] = matrix(pq.read_table(run_dir / "clusters/mean.parquet")["centroid"])
    np.testing.assert_allclose(mean, x_ND.mean(axis=0), atol=1e-7)
    units = units64(run_dir, rows)
    centroids = matrix(pq.read_table(run_dir / "clusters/centroids.parquet")["centroid"])
    for row in rows(run_dir, "clusters/assignments").to_pylist():
        cosines = centroids @ units[row["frame_id"]]
        assert row["centroid_distance"] == pytest.approx(1 - cosines.max(), abs=2e-3)  # units are of float16
        assert cosines[row["cluster"]] == pytest.approx(cosines.max(), abs=2e-3)
    scored = by_id(rows(run_dir, "scores"))
    for row in scored.values():
        if row["duplicate_of"] is not None:
            cosine = units[row["frame_id"]] @ units[row["duplicate_of"]]
            assert row["duplicate_similarity"] == pytest.approx(cosine, abs=2e-3)


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
    x_ND = matrix(table["embedding"]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(x_ND, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(x_ND.astype(np.float16), matrix(halves["embedding"]).astype(np.float16))
    units = units64(run_dir, rows)
    for row in rows(run_dir, "scores").to_pylist():
        if row["duplicate_of"] is not None:
            cosine = units[row["frame_id"]] @ units[row["duplicate_of"]]
            assert row["duplicate_similarity"] == pytest.approx(cosine, abs=1e-5)
