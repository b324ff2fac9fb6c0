"""Exact copies: which frames have the same bytes, and which of them stands for the others. It does not use Ray.

Ingest marks every frame but the first of those with equal bytes (in the tables' order) as a copy of that first one,
its original, and lists all of them below frames/copies/, sorted by content. Only originals are embedded. Where an
original cannot be read any more, or its bytes changed, the first of its copies whose bytes are still right is embedded
in its place, under its own id: the original, and copies that were tried in vain, are rejected frames whose
`replaced_by` names it, and the rest are copies of it from then on. frames/ stays as ingest left it. So a frame is an
exact copy when ingest marked it and it is neither embedded nor rejected. Where none of the equal frames can be used,
all are rejected.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.frames.frame import READING
from curation.store import schema
from curation.store.directory import File, RunDirectory
from curation.store.parts import part_path

INDEX = part_path("frames/copies", 0)
GROUP_ROWS = 16_384  # of the index: what one look-up reads
ROW = ["frame_id", "source", "uri", "path"]
Prefixes = npt.NDArray[np.uint64]
Places = list[tuple[str, str, int]]  # content hash, frame id and row of frames in one part


@dataclass(frozen=True)
class Marks:
    """Frames with equal bytes: the original of each copy by part number, and the table of schema.COPIES."""

    copy_of: dict[int, dict[str, str]]
    index: pa.Table


def hash_prefixes(run: RunDirectory, path: str) -> tuple[Prefixes, bool]:
    """The first 64 bits of each content hash of a part, uint64 [rows], and whether any of its frames is marked."""
    table = run.read_table(path, ["content_hash", "copy_of"])
    return _prefixes(table["content_hash"].to_pylist()), table["copy_of"].null_count < len(table)


def _prefixes(hashes: list[str]) -> Prefixes:
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


def repeated(prefixes: list[Prefixes]) -> Prefixes:
    """The prefixes that more than one frame has, ascending."""
    values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *prefixes]), return_counts=True)
    return values[counts > 1]


def repeated_rows(run: RunDirectory, path: str, prefixes: Prefixes) -> Places:
    """Content hash, frame id and row of the frames of a part whose prefix is among `prefixes`."""
    table = run.read_table(path, ["content_hash", "frame_id"])
    hashes, ids = table["content_hash"].to_pylist(), table["frame_id"].to_pylist()
    return [
        (hashes[row], ids[row], int(row)) for row in np.flatnonzero(np.isin(_prefixes(hashes), prefixes, kind="sort"))
    ]


def mark(found: dict[int, Places]) -> Marks:
    """Decide who is whose copy: `found` by part number, ascending, so that the first of equal frames is the original.

    Holds all of a row only for frames whose 64-bit prefix repeats.
    """
    originals: dict[str, str] = {}
    copy_of: dict[int, dict[str, str]] = {}
    shared: set[str] = set()
    for number, places in found.items():
        for content, frame, _ in places:
            original = originals.setdefault(content, frame)
            if original != frame:
                copy_of.setdefault(number, {})[frame] = original
                shared.add(content)
    listed = sorted(
        (content, number, row, frame)
        for number, places in found.items()
        for content, frame, row in places
        if content in shared
    )
    columns = list(zip(*listed, strict=True)) or [()] * len(schema.COPIES)
    index = [pa.array(values, field.type) for values, field in zip(columns, schema.COPIES, strict=True)]
    return Marks(copy_of, pa.Table.from_arrays(index, schema=schema.COPIES))


def write_copies(run: RunDirectory, path: str, copy_of: dict[str, str]) -> File:
    """Write a part again with copy_of set for the frames in `copy_of` and for no other."""
    table = run.read_table(path)
    values = pa.array([copy_of.get(frame) for frame in table["frame_id"].to_pylist()], pa.string())
    field = schema.FRAMES.field("copy_of")
    return run.write_table(path, table.set_column(table.schema.get_field_index("copy_of"), field, values))


def write_index(run: RunDirectory, index: pa.Table) -> list[File]:
    """Write the index in small row groups, or delete it where no frame has a copy."""
    if not len(index):
        if run.exists(INDEX):
            run.delete(INDEX)
        return []
    with run.create(INDEX) as stream:
        pq.write_table(index, stream, compression="zstd", row_group_size=GROUP_ROWS)
    return [run.describe(INDEX)]


def members(run: RunDirectory, content_hash: str) -> Iterator[dict[str, Any]]:
    """Yield frame_id, source, uri and path of all frames with these bytes, in the tables' order; none if only one.

    Reads a row group of the index and, as frames are drawn, four columns of the parts they are in.
    """
    if not run.exists(INDEX):
        return
    with run.open(INDEX) as file:
        found = pq.read_table(file, columns=["part", "row"], filters=[("content_hash", "=", content_hash)])
    part_N, row_N = found["part"].to_numpy(), found["row"].to_numpy()
    parts = run.parts("frames")
    for number in np.unique(part_N).tolist():
        table = run.read_table(parts[number], ROW)
        yield from table.take(pa.array(row_N[part_N == number])).to_pylist()


def with_their_copies(run: RunDirectory, part: int, rejected: pa.Table) -> pa.Table:
    """Add the copies of rejected frames that nothing replaced: their bytes are equal, so they are rejected too.

    `rejected` is of schema.REJECTED and holds all rejected frames of `part`. Frames that could not be read are
    skipped: each of their copies was tried by itself.
    """
    rows = rejected.to_pylist()
    unusable = [row for row in rows if row["replaced_by"] is None and row["reason"] not in READING]
    if not unusable or not run.exists(INDEX):
        return rejected
    original_of = {row["replaced_by"]: row["frame_id"] for row in reversed(rows) if row["replaced_by"]}
    frames = run.read_table(run.parts("frames")[part], ["frame_id", "content_hash"])
    hashes = dict(zip(*(column.to_pylist() for column in frames.columns), strict=True))
    known = {row["frame_id"] for row in rows}
    for row in unusable:
        original = original_of.get(row["frame_id"], row["frame_id"])
        if original in hashes:  # else a copy that was decoded in vain, and its copies were rejected with it
            for member in members(run, hashes[original]):
                if member["frame_id"] not in known:
                    known.add(member["frame_id"])
                    rows.append(row | member)
    return pa.Table.from_pylist(rows, schema.REJECTED)


@dataclass(frozen=True)
class Replacements:
    """The frames that embed rejected, and the copies that replaced them (null: none)."""

    rejected: pa.Array
    replaced_by: pa.Array


def read_replacements(run: RunDirectory) -> Replacements:
    """Read what embed rejected and what replaced it: about 64 bytes per rejected frame."""
    names = [name for name in run.names("rejected") if name.endswith("-embed.parquet")]
    tables = [run.read_table(f"rejected/{name}", ["frame_id", "replaced_by"]) for name in names]
    empty = pa.schema([schema.FRAME_ID, schema.REJECTED.field("replaced_by")]).empty_table()
    table = pa.concat_tables([empty, *tables]).combine_chunks()
    return Replacements(*(pa.concat_arrays(column.chunks or [pa.array([], pa.string())]) for column in table.columns))


def copies_in(table: pa.Table, replacements: Replacements) -> pa.Table:
    """The exact copies among rows of frames, with the frame that stands for each as the column `because_of`."""
    embedded = pc.is_in(table["frame_id"], replacements.replaced_by.drop_null())
    rejected = pc.is_in(table["frame_id"], replacements.rejected)
    table = table.filter(pc.and_(pc.is_valid(table["copy_of"]), pc.invert(pc.or_(embedded, rejected))))
    replacement = replacements.replaced_by.take(pc.index_in(table["copy_of"], replacements.rejected))
    return table.append_column("because_of", pc.coalesce(replacement, table["copy_of"]))


def uris(run: RunDirectory, first: str, content_hash: str) -> Iterable[str]:
    """Yield `first`, then, looked up only when drawn, the addresses of the other files with the same bytes."""
    yield first
    yield from (row["uri"] for row in members(run, content_hash) if row["uri"] != first)
