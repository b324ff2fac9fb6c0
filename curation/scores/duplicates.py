"""One cluster: the order of its frames and the similarity of each to those before it. NumPy and PyTorch only.

MedDEL's Algorithm 1 (arXiv 2401.17542) and SemDeDup (arXiv 2303.09540) walk through a cluster in some order and
drop a frame that is too similar to an earlier one. Here each frame gets one number, the highest cosine with any
earlier frame: a threshold on it is the walk's result for every threshold at once (OURS).

Legend: N frames of a cluster in their order, D dimensions.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from curation.embeddings.nearest import NOTHING, nearest, prepare
from curation.embeddings.vectors import Float32, Indices, Keys, scramble
from curation.scores.config import Keep, column_of

Measure = npt.NDArray[np.float64]
GREEDY_ROWS, GREEDY_COLUMNS = 1024, 2048  # of one block of products of the greedy walk
RANDOM = "which of two duplicates stays"  # purpose of the random order


def visiting_order(
    distance_N: Float32, keys_N: Keys, keep: Keep, seed: int, measure_N: Measure | None = None
) -> Indices:
    """Return the order in which frames are visited, so that of two duplicates the one to keep comes first.

    nearest: ascending distance to the centroid; farthest: descending; random: by key and seed; highest and lowest
    (OURS): by the measure, frames without one (NaN) last. Ties go by key. It is an order of all frames, so it is the
    same within a cluster as between clusters.
    """
    return np.lexsort(standing(distance_N, keys_N, keep, seed, measure_N))


def standing(
    distance_N: Float32, keys_N: Keys, keep: Keep, seed: int, measure_N: Measure | None = None
) -> tuple[Keys, Measure]:
    """Return what `visiting_order` sorts by, the lower first: the tie-breaker uint64 [N], and a float64 [N] before it.

    `measure_N` is the column that `keep` names.
    """
    if keep == "random":
        return scramble(keys_N, seed, RANDOM), np.zeros(len(keys_N))
    if column_of(keep) is None:
        distance = distance_N.astype(np.float64)
        return keys_N, distance if keep == "nearest" else -distance
    assert measure_N is not None, f"keep {keep} needs the column"
    return keys_N, np.nan_to_num(measure_N if keep.startswith("lowest:") else -measure_N, nan=np.inf)


def earlier_counts(rows: tuple[Keys, Measure], columns: tuple[Keys, Measure]) -> Indices:
    """Return how many columns come before each row, int64 [N], from the standing of both; a frame not before itself."""
    first, later = len(rows[0]), len(columns[0])
    is_column = np.repeat([False, True], [first, later])
    tie, value = (np.concatenate(pair) for pair in zip(rows, columns, strict=True))
    order = np.lexsort((is_column, tie, value))
    counts = np.empty(first + later, np.int64)
    counts[order] = np.cumsum(is_column[order])
    return counts[:first]


def earlier_similarity(
    units_ND: Float32, start: int = 0, stop: int | None = None, device: str = "cpu"
) -> tuple[Float32, Indices]:
    """Return, for rows start to stop, the highest cosine with any row before it, and that row's index.

    units_ND is in visiting order, float32 at unit length. A row with nothing before it gets -1 and index -1; of
    equally similar rows the first is named. Only blocks on and below the diagonal are computed: N^2 D operations at
    most, and memory for one block beside the codes (N D bytes).
    """
    stop = len(units_ND) if stop is None else stop
    if stop <= start:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    prepared = prepare(units_ND[:stop], device)
    similarity, index = nearest(prepared[slice(start, stop)], prepared, before=start, device=device)
    return bounded(similarity, index)


def bounded(similarity_N: Float32, index_N: Indices) -> tuple[Float32, Indices]:
    """Return similarities from -1 to 1, since units are of length 1 but for rounding; -1 where there is none."""
    limited = np.clip(similarity_N, np.float32(-1), np.float32(1))
    return np.where(index_N < 0, NOTHING, limited), index_N


def greedy_similarity(units_ND: Float32, d: float) -> tuple[Float32, Indices]:
    """Return, for each row, the highest cosine with any earlier row that is kept at threshold `d`, and that row.

    A row is kept where that cosine is at most d, both in float32. Otherwise as `earlier_similarity`. Costs up to N^2 D
    operations in float64.
    """
    similarity = np.full(len(units_ND), -np.inf, np.float32)
    index = np.full(len(units_ND), -1, np.int64)
    kept = np.empty(0, np.int64)
    for top in range(0, len(units_ND), GREEDY_ROWS):
        block = units_ND[top : top + GREEDY_ROWS].astype(np.float64)
        best, found = similarity[top : top + GREEDY_ROWS], index[top : top + GREEDY_ROWS]
        for left in range(0, len(kept), GREEDY_COLUMNS):
            columns = kept[left : left + GREEDY_COLUMNS]
            products = (block @ units_ND[columns].astype(np.float64).T).astype(np.float32)
            column = products.argmax(axis=1)
            value = products[np.arange(len(block)), column]
            better = value > best
            best[better], found[better] = value[better], columns[column[better]]
        inside = (block @ block.T).astype(np.float32)
        stays = np.zeros(len(block), bool)
        for row in range(len(block)):
            stays[row] = found[row] < 0 or np.clip(best[row], -1, 1) <= np.float32(d)
            if stays[row]:
                closer = inside[row] > best
                closer[: row + 1] = False
                best[closer], found[closer] = inside[row][closer], top + row
        kept = np.concatenate([kept, top + np.flatnonzero(stays)])
    return bounded(similarity, index)


def row_blocks(rows: int, size: int) -> list[tuple[int, int]]:
    """Cut `rows` into ranges of about equal work: as many as there are `size` rows, each a share of the triangle."""
    pieces = max(1, rows // size)
    edges = [round(rows * (piece / pieces) ** 0.5) for piece in range(pieces + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]
