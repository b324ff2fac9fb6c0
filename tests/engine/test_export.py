"""What `export` leaves: kept.parquet with its metadata and images, folders of files, tables that others read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.exports.config import ExportConfig
from curation.exports.export import export
from curation.store import schema
from curation.subsets.config import SelectConfig

Reference = tuple[Path, list[dict[str, Any]]]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]


def test_kept_parquet_has_all_columns_the_metadata_of_the_user_and_the_subset(
    by_id: ById, reference: Reference, rows: Rows
) -> None:
    run_dir, _ = reference
    path = run_dir / "subsets/curated/kept.parquet"
    table = pq.read_table(path)
    assert table.column_names == [*schema.FRAMES.names, "shot", "cluster", "centroid_distance"]
    decisions = by_id(pq.read_table(run_dir / "subsets/curated/decisions.parquet"))
    frames = by_id(rows(run_dir, "frames"))
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
