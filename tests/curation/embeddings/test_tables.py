"""Parts of embeddings that were cut into slices have the bytes of whole ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.embeddings.tables import Tables, embeddings_table, join_slices, write_part, write_slice
from curation.embeddings.units import cut
from curation.store import schema
from curation.store.directory import File, RunDirectory

DIMENSIONS = 24


def tables_of(number: int, rows: int, rejected: int, storage: str) -> Tables:
    """A chunk's tables."""
    generator = np.random.default_rng(number)
    ids = [f"{number:016x}{row:016x}" for row in range(rows + rejected)]
    vectors = generator.standard_normal((rows, DIMENSIONS)).astype(storage)
    blank = dict.fromkeys(schema.REJECTED.names, "missing")
    bad = pa.Table.from_pylist([blank | {"frame_id": frame} for frame in ids[rows:]], schema.REJECTED)
    return embeddings_table(ids[:rows], vectors, generator.random((rows, 6)).astype(np.float32)), bad


def joined(tables: list[Tables]) -> Tables:
    embeddings, rejected = zip(*tables, strict=True)
    return pa.concat_tables(embeddings).combine_chunks(), pa.concat_tables(rejected).combine_chunks()


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("sizes", [[(4, 0), (4, 1), (3, 0), (0, 2)], [(0, 0), (0, 0)], [(5, 0), (0, 0)]])
def test_slices_joined_are_the_whole_part(tmp_path: Path, storage: str, sizes: list[tuple[int, int]]) -> None:
    whole, sliced = RunDirectory(str(tmp_path / "whole")), RunDirectory(str(tmp_path / "sliced"))
    chunks = [tables_of(number, *size, storage) for number, size in enumerate(sizes)]
    expected = write_part(whole, 0, joined(chunks), {})
    units = list(cut([File("frames/part-000000.parquet", len(chunks), 1, "x")], chunk_rows=1, encoders=2))
    for unit in reversed(units):
        write_slice(sliced, unit, joined(chunks[unit.first : unit.end]))
    found = join_slices(sliced, 0, [(unit.first, unit.end) for unit in units], "")
    assert found == expected
    assert [file.path.partition("/")[0] for file in found][-1] == "embeddings"
    assert sum(file.rows for file in found) == sum(map(sum, sizes))
    assert join_slices(sliced, 0, [(unit.first, unit.end) for unit in units], "") == expected, "a second time"
    sliced.clear_temporary("embeddings")
    sliced.clear_temporary("rejected")
    assert sliced.names("embeddings") == ["part-000000.parquet"]
