"""Parts of embeddings as they are written: whole ones, and slices that are joined. It uses neither Ray nor PyTorch.

The rejected frames of a part are written first, since its embeddings commit it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.embeddings.chunks import frame_parts
from curation.embeddings.units import Unit
from curation.frames import copies
from curation.store import schema
from curation.store.directory import TEMPORARY, File, RunDirectory
from curation.store.parts import part_path, rejected_path

Tables = tuple[pa.Table, pa.Table]  # of schema.embeddings and of schema.REJECTED


def embeddings_table(
    ids: list[str], vectors_ND: npt.NDArray[np.floating], measures_NM: npt.NDArray[np.float32]
) -> pa.Table:
    """The table of schema.embeddings for vectors in the type in which they are stored, and measures."""
    columns = schema.embeddings(vectors_ND.shape[1], vectors_ND.dtype.name)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), type=columns.field("embedding").type)
    measures = [pa.array(np.ascontiguousarray(column)) for column in measures_NM.T]
    return pa.Table.from_arrays([pa.array(ids, pa.string()), embedding, *measures], schema=columns)


def write_part(run: RunDirectory, part: int, tables: Tables, parts: Mapping[int, str]) -> list[File]:
    """Write one part and return its files; `parts` are the paths of the parts of frames, by number.

    `rejected` gains the copies of frames whose bytes cannot be used.
    """
    embeddings, rejected = tables
    if len(rejected):
        rejected = copies.with_their_copies(run, part, rejected, parts)
    written = [run.write_table(rejected_path(part, "embed"), rejected)] if len(rejected) else []
    return [*written, run.write_table(part_path("embeddings", part), embeddings)]


def slice_paths(part: int, first: int, end: int) -> tuple[str, str]:
    """Where embeddings and rejected frames of a slice (its chunks) wait: names that are cleared with the folder."""
    name = f"{TEMPORARY}slice-{part:06d}-{first:06d}-{end:06d}.parquet"
    return f"embeddings/{name}", f"rejected/{name}"


def write_slice(run: RunDirectory, unit: Unit, tables: Tables) -> None:
    """Write one of a part's slices. The rejected frames come first: a slice is there when its embeddings are."""
    embeddings, rejected = slice_paths(unit.part, unit.first, unit.end)
    if len(tables[1]):
        run.write_table(rejected, tables[1])
    run.write_table(embeddings, tables[0])


def join_slices(run: RunDirectory, part: int, slices: list[tuple[int, int]], made: str) -> list[File]:
    """Write the part whose slices (their chunks, in order) are all there, and return its files.

    They have the same bytes as if the part had not been cut. The slices stay: what runs a second time, after a lost
    worker, finds them. `made`: as of `frame_parts`.
    """
    embeddings, rejected = [], [schema.REJECTED.empty_table()]
    for first, end in slices:
        vectors, unusable = slice_paths(part, first, end)
        embeddings.append(run.read_table(vectors))
        if run.exists(unusable):
            rejected.append(run.read_table(unusable))
    whole = rebuilt(pa.concat_tables(embeddings).combine_chunks())
    return write_part(run, part, (whole, pa.concat_tables(rejected).combine_chunks()), frame_parts(run.address, made))


def rebuilt(table: pa.Table) -> pa.Table:
    """A table of embeddings that was read, as it was before: Parquet renames the elements of lists."""
    column = table["embedding"].combine_chunks()
    vectors_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
    measures_NM = np.stack([table[name].to_numpy() for name in schema.MEASURES], axis=1)
    return embeddings_table(table["frame_id"].to_pylist(), vectors_ND, measures_NM)


def describe_part(run: RunDirectory, part: int) -> list[File]:
    """The files of a part that is there: its embeddings, and its rejected frames where there are any."""
    paths = part_path("embeddings", part), rejected_path(part, "embed")
    return [run.describe(path) for path in paths if run.exists(path)]
