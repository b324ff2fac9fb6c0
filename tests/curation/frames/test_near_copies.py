"""Near copies in the tables of a run: by hand, in any blocks, beside exact copies, and as decisions name them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.frames import copies, hamming, near_copies
from curation.store import schema
from curation.store.directory import RunDirectory


def frame(number: int) -> str:
    return f"{number:032x}"


def written(run: RunDirectory, parts: Sequence[Sequence[int]], copied: dict[int, int]) -> list[str]:
    """frames/ of parts of hashes, frames numbered throughout; `copied`: exact copies and their originals."""
    start = 0
    for number, hashes in enumerate(parts):
        blank = {"source": "s", "uri": "u", "path": "p", "content_hash": "c", "byte_size": 1}
        rows = [
            blank
            | {"frame_id": frame(start + row), "perceptual_hash": f"{value:016x}"}
            | {"copy_of": frame(copied[start + row]) if start + row in copied else None}
            for row, value in enumerate(hashes)
        ]
        start += len(hashes)
        run.write_table(f"frames/part-{number:06d}.parquet", pa.Table.from_pylist(rows, schema.frames((), near=True)))
    return list(run.parts("frames").values())


def mark(run: RunDirectory, blocks: list[list[str]], distance: int) -> int:
    """Block after block, each compared with all before it."""
    kept: list[near_copies.Kept] = []
    total = 0
    for paths in blocks:
        hashes, fates = near_copies.load(run, paths)
        if kept:
            fates = near_copies.give_way(hashes, fates, near_copies.merge(distance, *kept))
        fates, stays = near_copies.decide(run, paths, hashes, fates, distance)
        kept.append(stays)
        total += near_copies.write(run, paths, fates)[0]
    return total


def marks(run: RunDirectory) -> list[tuple[str | None, int | None]]:
    tables = [run.read_table(path).to_pylist() for path in run.parts("frames").values()]
    return [(row["near_copy_of"], row["near_distance"]) for table in tables for row in table]


PARTS = [[0b0000, 0b0001, 0b0111], [], [0b0011, 0xF0, 0b0000], [0xF1, 0xFF00]]
COPIED = {5: 0}
EXPECTED = [(None, None), (frame(0), 1), (None, None), (frame(0), 2), (None, None), (None, None), (frame(4), 1)]
EXPECTED += [(None, None)]


@pytest.mark.parametrize("cuts", [[4], [1, 1, 1, 1], [2, 2], [3, 1]])
def test_near_copies_by_hand(run: RunDirectory, cuts: list[int]) -> None:
    paths = written(run, PARTS, COPIED)
    blocks = [paths[sum(cuts[:place]) : sum(cuts[: place + 1])] for place in range(len(cuts))]
    assert mark(run, blocks, 2) == 3
    assert marks(run) == EXPECTED
    hashes, fates = near_copies.load(run, paths[:1])
    assert hashes.tolist() == PARTS[0]
    assert fates.distance.tolist() == [near_copies.OPEN] * 3


def test_what_is_recorded_already_is_not_written_again(run: RunDirectory) -> None:
    paths = written(run, PARTS, COPIED)
    hashes, fates = near_copies.load(run, paths)
    fates, kept = near_copies.decide(run, paths, hashes, fates, 2)
    assert [bytes(name).hex() for name in kept.ids] == [frame(number) for number in (0, 2, 4, 7)]
    count, files = near_copies.write(run, paths, fates)
    assert (count, [file.path for file in files]) == (3, [paths[0], paths[2], paths[3]])
    assert near_copies.write(run, paths, fates) == (3, [])
    assert run.read_table(paths[1]).schema.equals(schema.frames((), near=True))


@settings(max_examples=25, deadline=None)
@given(
    hashes=st.lists(st.integers(0, 255), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 30), max_size=4),
    distance=st.integers(0, 4),
    copied=st.sets(st.integers(1, 29)),
)
def test_blocks_do_not_show(hashes: list[int], cuts: list[int], distance: int, copied: set[int]) -> None:
    run = RunDirectory("memory://near")
    if run.holds_files("frames"):
        run.delete_folder("frames")
    ends = sorted({min(cut, len(hashes)) for cut in cuts} | {0, len(hashes)})
    parts = [hashes[start:end] for start, end in pairwise(ends)]
    copies_of = {number: 0 for number in copied if number < len(hashes)}
    blocks = [[path] for path in written(run, parts, copies_of)]
    mark(run, blocks, distance)
    alone = [number for number in range(len(hashes)) if number not in copies_of]
    keeper = hamming.greedy(np.array([hashes[number] for number in alone], np.uint64), distance)
    expected: dict[int, Any] = {
        number: (frame(alone[place]), (hashes[number] ^ hashes[alone[place]]).bit_count())
        for number, place in zip(alone, keeper.tolist(), strict=True)
        if place >= 0
    }
    assert marks(run) == [expected.get(number, (None, None)) for number in range(len(hashes))]


def test_copies_as_decisions_name_them(run: RunDirectory) -> None:
    paths = written(run, PARTS, COPIED)
    mark(run, [paths], 2)
    blank = dict.fromkeys(schema.REJECTED.names, "x")
    row = blank | {"frame_id": frame(0), "reason": "missing", "replaced_by": frame(5)}
    tables = [run.read_table(path) for path in paths]

    def named() -> list[tuple[Any, ...]]:
        known = copies.read_replacements(run)
        found = pa.concat_tables([near_copies.copies_of_all_kinds(table, known) for table in tables])
        return [tuple(row.values()) for row in found.to_pylist()]

    near = [(frame(1), "near copy", frame(0), 1 - 1 / 64), (frame(3), "near copy", frame(0), 1 - 2 / 64)]
    last = (frame(6), "near copy", frame(4), 1 - 1 / 64)
    assert named() == [*near, (frame(5), "exact copy", frame(0), 1.0), last]
    run.write_table("rejected/part-000000-embed.parquet", pa.Table.from_pylist([row], schema.REJECTED))
    by_other = [(name, reason, frame(5), similarity) for name, reason, _, similarity in near]
    assert named() == [*by_other, last]
    old = tables[2].drop_columns(schema.NEAR.names)
    found = near_copies.copies_of_all_kinds(old, near_copies.copies.Replacements(*[pa.array([], pa.string())] * 2))
    assert found["reason"].to_pylist() == ["exact copy"]
