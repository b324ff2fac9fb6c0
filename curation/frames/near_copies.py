"""Near copies: frames whose perceptual hash is within a distance of an earlier frame's that stays. It does not use Ray.

A frame is a near copy where a frame before it in the tables' order, which is not a near copy itself, has a hash that
differs in at most so many bits; it is then a near copy of the first such frame (OURS; `hamming` says why). Exact copies
take no part: they are copies of their original, whatever becomes of it. Near copies are not embedded. Where the frame
that stands for them is rejected later, an exact copy of it takes its place as ever, but a near copy does not.

Blocks of consecutive parts are decided one after the other; what was decided in one, others are compared with. The
result is that of one pass over all frames, whatever the blocks.

Legend: N frames of a block; K of them stay.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.frames import copies
from curation.frames.hamming import Hashes, Index, first_within, greedy, index_of
from curation.frames.perceptual import BITS
from curation.store import schema
from curation.store.directory import File, RunDirectory

OPEN, KEPT, LEFT_OUT = 255, 254, 253  # instead of a distance
Ids = npt.NDArray[np.void]  # 16 bytes each


class Fates(NamedTuple):
    """What became of the frames of a block: the frame that stands for each near copy, and the distance, or a code."""

    keeper: Ids
    distance: npt.NDArray[np.uint8]


class Kept(NamedTuple):
    """Frames that stay, in order."""

    hashes: Hashes
    ids: Ids


class Searched(NamedTuple):
    """Frames that stay, to be compared with."""

    hashes: Index
    ids: Ids


def load(run: RunDirectory, paths: list[str]) -> tuple[Hashes, Fates]:
    """The hashes of a block's frames, and their fates: open, but for exact copies."""
    tables = [run.read_table(path, ["perceptual_hash", "copy_of"]) for path in paths]
    table = pa.concat_tables(tables)
    hashes = np.frombuffer(bytes.fromhex("".join(table["perceptual_hash"].to_pylist())), ">u8").astype(np.uint64)
    copied = table["copy_of"].is_valid().to_numpy()
    keeper = np.zeros(len(table), "V16")
    return hashes, Fates(keeper, np.where(copied, LEFT_OUT, OPEN).astype(np.uint8))


def decide(run: RunDirectory, paths: list[str], hashes_N: Hashes, fates: Fates, distance: int) -> tuple[Fates, Kept]:
    """Decide the open frames of a block among themselves; also returns those that stay."""
    keeper, found = fates.keeper.copy(), fates.distance.copy()
    ids = np.concatenate([_ids(run.read_table(path, ["frame_id"])["frame_id"]) for path in paths])
    rows = np.flatnonzero(found == OPEN)
    chosen = greedy(hashes_N[rows], distance)
    kept, gone = rows[chosen < 0], rows[chosen >= 0]
    by = rows[chosen[chosen >= 0]]
    keeper[gone], found[gone] = ids[by], np.bitwise_count(hashes_N[gone] ^ hashes_N[by])
    found[kept] = KEPT
    return Fates(keeper, found), Kept(hashes_N[kept], ids[kept])


def merge(distance: int, *kept: Kept) -> Searched:
    """An index of what stays in some blocks, in their order."""
    hashes, ids = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    return Searched(index_of(hashes, distance), ids)


def give_way(hashes_N: Hashes, fates: Fates, searched: Searched) -> Fates:
    """The fates of a block's frames after those near a frame of earlier blocks have given way to it."""
    keeper, found = fates.keeper.copy(), fates.distance.copy()
    rows = np.flatnonzero(found == OPEN)
    first, bits = first_within(hashes_N[rows], searched.hashes)
    gone = first >= 0
    keeper[rows[gone]], found[rows[gone]] = searched.ids[first[gone]], bits[gone]
    return Fates(keeper, found)


def write(run: RunDirectory, paths: list[str], fates: Fates) -> tuple[int, list[File]]:
    """Record the near copies of a block in its parts, and return how many there are, and the parts that changed."""
    near_N = fates.distance < LEFT_OUT
    start, files = 0, list[File]()
    for path in paths:
        table = run.read_table(path)
        rows = slice(start, start := start + len(table))
        values = [
            {"near_copy_of": bytes(keeper).hex(), "near_distance": int(bits)} if near else {}
            for near, keeper, bits in zip(near_N[rows], fates.keeper[rows], fates.distance[rows], strict=True)
        ]
        columns = pa.Table.from_pylist(values, pa.schema(list(schema.NEAR)[1:]))
        marked = table
        for field, column in zip(columns.schema, columns.columns, strict=True):
            marked = marked.set_column(marked.schema.get_field_index(field.name), field, column)
        if not marked.equals(table):
            files.append(run.write_table(path, marked))
    return int(near_N.sum()), files


def copies_of_all_kinds(table: pa.Table, replacements: copies.Replacements) -> pa.Table:
    """The copies among rows of frames, in their order: frame_id, reason, because_of and similarity (float32).

    The similarity of a near copy is the share of the hash's bits that are equal: 1 - distance / 64. `because_of` names
    the frame that was embedded: an exact copy where the frame that stood for it was rejected.
    """
    table = table.append_column("row", pa.array(np.arange(len(table))))
    exact = copies.copies_in(table, replacements)
    found = [_given(exact, "exact copy", pa.array(np.ones(len(exact), np.float32)))]
    if "near_copy_of" in table.column_names:
        near = table.filter(pc.is_valid(table["near_copy_of"]))
        replacement = replacements.replaced_by.take(pc.index_in(near["near_copy_of"], replacements.rejected))
        near = near.append_column("because_of", pc.coalesce(replacement, near["near_copy_of"]))
        equal = 1 - near["near_distance"].to_numpy() / BITS
        found.append(_given(near, "near copy", pa.array(equal.astype(np.float32))))
    return pa.concat_tables(found).sort_by("row").drop_columns(["row"])


def _given(table: pa.Table, reason: str, similarity: pa.Array) -> pa.Table:
    columns = [table["frame_id"], pa.array([reason] * len(table), pa.string()), table["because_of"], similarity]
    return pa.table([*columns, table["row"]], ["frame_id", "reason", "because_of", "similarity", "row"])


def _ids(column: pa.ChunkedArray) -> Ids:
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), "V16")
