"""Which shard a frame goes to, and where in it. Pure NumPy: it knows neither tables nor Ray.

Legend: N rows (frames), G groups of rows, S shards.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.seeds import generator

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Of each row the shard and the place in it, int64 [N]; `rows_S` is how many rows each shard has, int64 [S]."""

    shard_N: Integers
    place_N: Integers
    rows_S: Integers


def plan(sizes_N: npt.ArrayLike, keys_N: npt.ArrayLike | None, seed: int | None, shard_bytes: int) -> Plan:
    """Cut rows of the sizes `sizes_N` (bytes) into shards of at most `shard_bytes`, in order: next fit (OURS).

    Rows with equal `keys_N` (any sortable type; without keys each row by itself) are a group: they follow each other in
    one shard. Groups stand in the order of their first rows, and rows in theirs; a `seed` shuffles the groups, and the
    rows in each. A group larger than a shard is a shard by itself, larger than the others. The result depends on the
    arguments only. About 60 bytes of memory per row.
    """
    sizes_N = np.asarray(sizes_N, np.int64)
    count = len(sizes_N)
    group_N = np.arange(count) if keys_N is None else first_come(np.asarray(keys_N))
    groups = int(group_N.max()) + 1 if count else 0
    row_order = np.arange(count)
    if seed is not None:
        draw = generator(seed, "export")
        group_N = draw.permutation(groups)[group_N]
        row_order = draw.permutation(count)
    order_N = row_order[np.argsort(group_N[row_order], kind="stable")]
    rows_G = np.bincount(group_N, minlength=groups)
    bytes_G = np.zeros(groups, np.int64)
    np.add.at(bytes_G, group_N, sizes_N)
    first_group_S = fill(bytes_G, shard_bytes)
    before_G = np.concatenate([[0], np.cumsum(rows_G)])
    start_S = before_G[first_group_S]
    rows_S = np.diff(np.append(start_S, count))
    shard_N, place_N = np.empty(count, np.int64), np.empty(count, np.int64)
    shard_N[order_N] = np.repeat(np.arange(len(start_S)), rows_S)
    place_N[order_N] = np.arange(count) - np.repeat(start_S, rows_S)
    return Plan(shard_N, place_N, rows_S.astype(np.int64))


def first_come(keys_N: npt.NDArray[np.generic]) -> Integers:
    """Number each row's key by where it appears first: 0 for the first row's, int64 [N]."""
    _, first_G, key_N = np.unique(keys_N, return_index=True, return_inverse=True)
    number_G = np.empty(len(first_G), np.int64)
    number_G[np.argsort(first_G)] = np.arange(len(first_G))
    return number_G[key_N]


def fill(sizes_G: npt.NDArray[np.integer], limit: int) -> Integers:
    """The first item of each box, int64 [S], when items fill boxes in order, each as far as its sizes fit `limit`.

    An item larger than `limit` has a box to itself.
    """
    total_G = np.cumsum(sizes_G, dtype=np.int64)
    starts: list[int] = []
    start = 0
    while start < len(total_G):
        starts.append(start)
        full = limit + (total_G[start - 1] if start else 0)
        start = max(start + 1, int(np.searchsorted(total_G, full, side="right")))
    return np.array(starts, np.int64)
