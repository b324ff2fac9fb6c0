"""A reason for every frame, as a table: kept or not, the frame it duplicates, their similarity. It does not use Ray."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.frames import copies, near_copies
from curation.store import schema
from curation.store.directory import RunDirectory

Reasons = npt.NDArray[np.int8]  # index in schema.REASONS
DUPLICATE_OF = [schema.REASONS.index(reason) for reason in ("duplicate", "over budget")]  # these name another frame
DECISION_ROWS = 65_536  # of a row group


def tables(run: RunDirectory, folder: str, reason_N: Reasons) -> Iterator[pa.Table]:
    """Yield the decisions in tables of ROWS rows, so that the file does not depend on the parts of the scores."""
    waiting: list[pa.Table] = []
    for table in decisions(run, folder, reason_N):
        waiting.append(table)
        while sum(map(len, waiting)) >= DECISION_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, DECISION_ROWS).combine_chunks()
            waiting = [whole.slice(DECISION_ROWS)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def decisions(run: RunDirectory, folder: str, reason_N: Reasons) -> Iterator[pa.Table]:
    """Yield tables of schema.DECISIONS for all frames: scored ones, then copies, exact or near, then rejected ones."""
    start = 0
    for path in run.parts(folder).values():
        table = run.read_table(path)
        code = reason_N[start : start + len(table)]
        start += len(table)
        named = pa.array(np.isin(code, DUPLICATE_OF))
        known = pc.and_(named, pc.is_valid(table["duplicate_of"]))
        yield decided(
            table["frame_id"],
            pa.array(schema.REASONS).take(pa.array(code)),
            pc.if_else(known, table["duplicate_of"], pa.scalar(None, pa.string())),
            pc.if_else(known, table["duplicate_similarity"], pa.scalar(None, pa.float32())),
            table["centroid_distance"],
            table["cluster"],
        )
    replacements = copies.read_replacements(run)
    for path in run.parts("frames").values():
        columns = ["frame_id", "copy_of", *schema.NEAR.names[1:]]  # the latter where near copies were looked for
        table = near_copies.copies_of_all_kinds(run.read_table(path, columns), replacements)
        yield decided(*table.columns)
    for path in (*run.listing("frames"), *run.listing("embeddings")):
        if path.startswith("rejected/"):
            yield decided(run.read_table(path, ["frame_id"])["frame_id"], "rejected")


def decided(
    frame_id: pa.ChunkedArray,
    reason: pa.Array | str,
    because_of: pa.Array | None = None,
    similarity: pa.Array | float | None = None,
    *measures: pa.Array,
) -> pa.Table:
    """Return a table of schema.DECISIONS; a single value stands for all rows."""
    given = [reason, because_of, similarity, *(measures or (None, None))]
    fields = list(schema.DECISIONS)[2:]
    filled = [
        column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array([column] * len(frame_id), field.type)
        for column, field in zip(given, fields, strict=True)
    ]
    return pa.Table.from_arrays([frame_id, pc.equal(filled[0], "kept"), *filled], schema=schema.DECISIONS)
