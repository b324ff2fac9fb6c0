"""A whole run of the phantom: each frame accounted for, lineage and copies as drawn, and nothing done twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import pipeline
from curation.clusters.cluster import cluster
from curation.embeddings.embed import embed
from curation.exports.export import export
from curation.frames import frame
from curation.frames.ingest import ingest
from curation.scores.config import ScoreConfig
from curation.scores.score import score
from curation.store import schema

Reference = tuple[Path, list[dict[str, Any]]]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]
STEPS = ["ingest", "embed", "cluster", "score", "select", "export"]


def test_every_frame_is_accounted_for(by_id: ById, reference: Reference, rows: Rows) -> None:
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
    exported = {kept, kept.with_name("copies.parquet")}
    unmarked = ("iterations", "_listing")
    unlisted = {file for file in run_dir.rglob("*.parquet") if file.parent.name not in unmarked} - exported
    for marker in run_dir.rglob("_SUCCESS.json"):
        for file in json.loads(marker.read_text())["files"]:
            path = run_dir / file["path"]
            content = path.read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert len(content) == file["bytes"]
            assert pq.read_metadata(path).num_rows == file["rows"]
            unlisted.remove(path)
    assert unlisted == set()


def test_lineage_and_identity(reference: Reference, rows: Rows, drawn: tuple[Path, pa.Table]) -> None:
    root, truth = drawn
    known = {row["path"]: row for row in truth.to_pylist()}
    table = rows(reference[0], "frames").to_pylist()
    for row in table:
        folder = {"alpha": "center_a", "beta": "center_b"}[row["source"]]
        expected = known.pop(f"{folder}/{row['path']}")
        assert row["frame_id"] == frame.frame_id(row["source"], row["path"])
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


def test_embeddings_are_unit_vectors_with_measures(by_id: ById, reference: Reference, rows: Rows) -> None:
    table = rows(reference[0], "embeddings")
    assert table["embedding"].type == pa.list_(pa.field("item", pa.float16(), nullable=False), 192)
    assert table.column_names == ["frame_id", "embedding", *schema.MEASURES]
    np.testing.assert_allclose(
        np.linalg.norm(np.array(table["embedding"].to_pylist()).astype(float), axis=1), 1, atol=1e-3
    )
    row = table.slice(17, 1).to_pylist()[0]
    uri = by_id(rows(reference[0], "frames"))[row["frame_id"]]["uri"]
    with Image.open(uri) as image:
        gray = np.asarray(image.convert("L"), float) / 255
    assert row["brightness"] == pytest.approx(gray.mean(), abs=0.01)


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
