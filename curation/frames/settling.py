"""Near copies of all frames, decided as Ray tasks: blocks one after the other, comparisons with later ones at once.

The first half of the blocks is decided, the second half loses what is near it, and so on downwards: a block is compared
with the merged frames of as many blocks before it, a few times, and not with each by itself. The driver holds
references only; Ray's object store holds 25 bytes a frame, and 24 (and the tables of an index, `hamming`) for each
frame that stays. A killed call begins anew here: the hashes, which take the time, are in the parts.
"""

from typing import Any

import ray

from curation.console import progress
from curation.engine.stream import stream
from curation.engine.tasks import Task
from curation.frames import near_copies
from curation.store.directory import File, RunDirectory
from curation.store.parts import grouped

BLOCK_ROWS = 65_536
WHAT = "finding near copies"


def mark_near_copies(run: RunDirectory, distance: int, part_rows: int) -> tuple[int, list[File]]:
    """Set near_copy_of and near_distance in frames/; return how many near copies there are, and the files written."""
    blocks = list(grouped(run.parts("frames").values(), BLOCK_ROWS, by=lambda _: part_rows))
    load, decide = (Task(work, WHAT, num_returns=2) for work in (near_copies.load, near_copies.decide))
    merge, give_way = (Task(work, WHAT) for work in (near_copies.merge, near_copies.give_way))
    loaded = [load.remote(run, paths) for paths in blocks]
    hashes: list[Any] = [first for first, _ in loaded]
    fates: list[Any] = [second for _, second in loaded]
    kept: list[Any] = []

    def settle(low: int, high: int) -> None:
        if high - low == 1:
            fates[low], stays = decide.remote(run, blocks[low], hashes[low], fates[low], distance)
            kept.append(stays)
            ray.wait([stays], fetch_local=False)  # so that what is submitted does not pile up
            bar.update()
            return
        middle = (low + high) // 2
        settle(low, middle)
        searched = merge.remote(distance, *kept[low:middle])
        for block in range(middle, high):
            fates[block] = give_way.remote(hashes[block], fates[block], searched)
        settle(middle, high)

    with progress("near", len(blocks), unit="block") as bar:
        settle(0, len(blocks))
    calls = ((run, paths, fate) for paths, fate in zip(blocks, fates, strict=True))
    written = list(stream(Task(near_copies.write, WHAT), calls))
    return sum(count for count, _ in written), [file for _, files in written for file in files]
