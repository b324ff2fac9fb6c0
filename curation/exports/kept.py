"""The kept frames of a subset: their rows, and the bytes of their files. It does not use Ray."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.exports.plan import fill
from curation.frames import copies
from curation.frames.decoding import FrameError
from curation.frames.frame import read_first
from curation.store import schema
from curation.store.directory import ROW_GROUP_BYTES, RunDirectory

MASK_NAME = "mask"  # of the column of masks


@dataclass(frozen=True)
class Kept:
    """The kept frames: ids (32 bytes) ascending, and in that order the columns that scoring adds."""

    ids: npt.NDArray[np.bytes_]
    scores: pa.Table

    def find(self, ids: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Which of some frames are kept, and their places here."""
        queries = np.array(ids.to_pylist(), dtype="S32")
        place = np.minimum(np.searchsorted(self.ids, queries), len(self.ids) - 1)
        found = self.ids[place] == queries
        return found, place[found]


def read_kept(run: RunDirectory, path: str) -> Kept:
    """Read the kept frames of a subset, 48 bytes each."""
    table = run.read_table(run.listed(path), ["frame_id", "kept", "cluster", "centroid_distance"])
    table = table.filter(table["kept"]).sort_by("frame_id")
    return Kept(np.array(table["frame_id"].to_pylist(), dtype="S32"), table.select(["cluster", "centroid_distance"]))


def kept_rows(run: RunDirectory, path: str, kept: Kept, with_images: bool) -> pa.Table:
    """Return the kept rows of a part of frames with their scores and, if requested, their encoded bytes as `image`."""
    table = run.read_table(path).replace_schema_metadata(None)
    found, place = kept.find(table["frame_id"])
    table = table.filter(pa.array(found))
    for field, column in zip(kept.scores.schema, kept.scores.take(pa.array(place)).columns, strict=True):
        table = table.append_column(field, column)
    if with_images:
        encoded = [read_row(run, row)[1] for row in table.select(["frame_id", "uri", "content_hash"]).to_pylist()]
        table = table.append_column(schema.IMAGE, pa.array(encoded, schema.IMAGE.type))
    return table


def read_row(run: RunDirectory, row: dict[str, Any]) -> tuple[str, bytes]:
    """Address and bytes of a kept frame's file, or of an exact copy; ValueError where none has the bytes any more."""
    try:
        return read_first(copies.uris(run, row["uri"], row["content_hash"]), row["content_hash"])
    except FrameError as error:
        raise ValueError(
            f"the file of a kept frame, {row['frame_id']}, cannot be used any more, and no exact copy of it can: "
            f"{row['uri']}: {error.reason}, {error.message}. Put it back as it was, or make the subset again in "
            "another --run-dir"
        ) from error


class Encoded(NamedTuple):
    """The encoded bytes of a frame and of its mask, as they were found; None where it has no mask."""

    image: bytes
    mask: bytes | None = None


def each_row(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table in order; a thousand at a time are in memory as dictionaries."""
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def blocks(rows: pa.Table, encoded: Iterator[Encoded]) -> Iterator[tuple[pa.Table, list[Encoded]]]:
    """Rows, and what is encoded of them, in blocks of at most 64 MB, one of which is in memory.

    The columns are taken to be as wide in each row as on average. A larger frame is a block by itself. Who has used
    the list that comes with a block may clear it.
    """
    width = -(-rows.nbytes // max(1, len(rows))) + 64
    start, size = 0, 0
    held: list[Encoded] = []
    for each in encoded:
        more = len(each.image) + len(each.mask or b"") + width
        if held and size + more > ROW_GROUP_BYTES:
            first, start = start, start + len(held)
            yield rows.slice(first, start - first), held
            size, held = 0, []
        held.append(each)
        size += more
    assert start + len(held) == len(rows), f"{len(rows)} rows, {start + len(held)} images"
    if held:
        yield rows.slice(start), held


def keys_of(table: pa.Table, column: str) -> npt.NDArray[np.uint64]:
    """A 64-bit key of each row's value in a column; a row without a value has a key of its own."""
    pairs = zip(table[column].to_pylist(), table["frame_id"].to_pylist(), strict=True)
    texts = (f"frame {frame}" if value is None else f"value {value}" for value, frame in pairs)
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)


def row_groups(table: pa.Table) -> list[tuple[int, int]]:
    """First row and number of rows of row groups whose images, of the column byte_size, and columns fit 64 MB.

    The columns are taken to be as wide in each row as on average. An image larger than that is a row group by itself.
    """
    columns = table.drop_columns([schema.IMAGE.name]) if schema.IMAGE.name in table.column_names else table
    width = -(-columns.nbytes // max(1, len(table))) + 64
    starts = fill(table["byte_size"].to_numpy() + width, ROW_GROUP_BYTES)
    return list(zip(starts.tolist(), np.diff(np.append(starts, len(table))).tolist(), strict=True))
