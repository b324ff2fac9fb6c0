"""Polars, DuckDB and pandas read every table of a run directory, and find the values that PyArrow finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.exports.config import ExportConfig
from curation.exports.export import export

Read = Callable[[Path], list[dict[str, Any]]]
FOLDERS = (
    *("frames", "frames/copies", "embeddings", "clusters", "clusters/assignments", "scores"),
    "subsets/curated",
)


def with_polars(path: Path) -> list[dict[str, Any]]:
    polars = pytest.importorskip("polars", reason="comes with the extra dev")
    found: list[dict[str, Any]] = polars.read_parquet(path, hive_partitioning=False).to_dicts()
    return found


def with_duckdb(path: Path) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb", reason="comes with the extra dev")
    with duckdb.connect() as database:
        found = database.execute("from read_parquet(?, hive_partitioning = false)", [str(path)])
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def with_pandas(path: Path) -> list[dict[str, Any]]:
    pandas = pytest.importorskip("pandas", reason="comes with the extra dev")
    found = pandas.read_parquet(path)
    return [dict(zip(found.columns, row, strict=True)) for row in found.itertuples(index=False, name=None)]


def plain(value: Any) -> Any:
    """A value as PyArrow gives it: what is missing is None, vectors are lists, numbers are Python's."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)) or type(value).__name__ == "Series":
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


@pytest.fixture(scope="module")
def tables(
    reference: tuple[Path, Any], settings: Callable[..., pipeline.RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    """Every table of a run directory and of exports, by its folder; rejected frames are of another run."""
    run_dir, name = reference[0], "curated"
    away = tmp_path_factory.mktemp("exports")
    found = {folder: sorted((run_dir / folder).glob("*.parquet")) for folder in FOLDERS}
    export(
        ExportConfig(run_dir=str(run_dir), name=name, output=str(away / "folder"), format="folder", with_images=True)
    )
    export(ExportConfig(run_dir=str(run_dir), name=name, output=str(away / "huggingface"), format="huggingface"))
    found["folder"] = sorted((away / "folder").rglob("*.parquet"))
    found["huggingface"] = sorted((away / "huggingface").rglob("*.parquet"))
    source = away / "source"
    source.mkdir()
    for number, row in enumerate(pq.read_table(found["subsets/curated"][-1]).slice(0, 3).to_pylist()):
        data = Path(row["uri"]).read_bytes()
        (source / f"{number} ü#%.jpg").write_bytes(data if number else data[:100])
    pipeline.ingest(settings(away / "run", source=(f"odd={source}",), ingest={"max_rejected": 0.9}).ingest)
    found["rejected"] = sorted((away / "run/rejected").glob("*.parquet"))
    return {folder: paths for folder, paths in found.items() if paths}


@pytest.mark.parametrize("read", [with_polars, with_duckdb, with_pandas])
def test_every_table_is_read_as_it_is(tables: dict[str, list[Path]], read: Read) -> None:
    """Values are compared, not types: pandas has no integers that may be missing, and so shows them as floats."""
    assert {"frames", "rejected", "embeddings", "clusters", "scores", "subsets/curated", "folder"} <= tables.keys()
    names = {path.name for paths in tables.values() for path in paths}
    assert names >= {"kept.parquet", "decisions.parquet", "centroids.parquet", "metadata.parquet"}
    for path in (path for paths in tables.values() for path in paths):
        expected = pq.ParquetFile(path).read()
        rows = [{name: plain(value) for name, value in row.items()} for row in read(path)]
        assert rows == [{name: plain(value) for name, value in row.items()} for row in expected.to_pylist()], path
        assert len(rows) == len(expected)


def test_types_survive(tables: dict[str, list[Path]]) -> None:
    """In Polars and DuckDB an embedding is an array of floats, an identity text, and a count an integer."""
    polars = pytest.importorskip("polars", reason="comes with the extra dev")
    [path] = tables["embeddings"][:1]
    shape = polars.read_parquet_schema(path)["embedding"].shape
    assert shape == (pq.read_schema(path).field("embedding").type.list_size,)
    kept = next(path for path in tables["folder"] if path.name == "kept.parquet")
    kinds = polars.read_parquet_schema(kept)
    assert (kinds["frame_id"], kinds["byte_size"], kinds["image"]) == (polars.String, polars.Int64, polars.Binary)
    assert pq.read_schema(kept).field("image").type == pa.large_binary()
