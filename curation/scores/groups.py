"""The work of scoring: groups of whole clusters, and ranges of rows of one large cluster. It knows no engine.

How frames are grouped and split never shows in a score: clusters are always scored one by one.

Legend: N frames of D dimensions, K clusters.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.embeddings.nearest import NOTHING
from curation.embeddings.vectors import Float32, Indices, Keys, Vectors, keys_of, to_unit
from curation.scores import duplicates
from curation.scores.config import ScoreConfig
from curation.store import schema

SPLIT_ROWS = 32_768  # frames in a cluster above which its pairs are shared out over several tasks
Scores = tuple[Float32, Indices]  # duplicate similarity [N], and the row that causes it [N]


@dataclass(frozen=True)
class FrameBlock:
    """Frames of some clusters: id (32 bytes) [N], cluster [N], centroid distance [N] and vector [N, D].

    `measure` is the column that decides which of two stays, float64 [N] (NaN: none), where one does.
    """

    ids: npt.NDArray[np.bytes_]
    cluster: npt.NDArray[np.int32]
    distance: Float32
    vectors: Vectors
    measure: duplicates.Measure | None = None

    def take(self, rows: npt.NDArray[Any] | slice) -> "FrameBlock":
        """Return the chosen rows."""
        measure = None if self.measure is None else self.measure[rows]
        return FrameBlock(self.ids[rows], self.cluster[rows], self.distance[rows], self.vectors[rows], measure)

    def cut(self, groups: list["ClusterGroup"]) -> list["FrameBlock"]:
        """Return the frames of each group."""
        return [self.take((group.first <= self.cluster) & (self.cluster <= group.last)) for group in groups]

    @property
    def keys(self) -> Keys:
        """The frames' keys, uint64 [N]."""
        return keys_of([self.ids.tobytes().decode()])

    @classmethod
    def joined(cls, *pieces: "FrameBlock") -> "FrameBlock":
        """Return the frames of all pieces, one piece after the other."""
        measures = [piece.measure for piece in pieces if piece.measure is not None]
        return cls(
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.cluster for piece in pieces]),
            np.concatenate([piece.distance for piece in pieces]),
            np.concatenate([piece.vectors for piece in pieces]),
            np.concatenate(measures) if measures else None,
        )

    def standing(self, config: ScoreConfig) -> tuple[Keys, duplicates.Measure]:
        """Return what the order of a pass goes by, as duplicates.standing."""
        return duplicates.standing(self.distance, self.keys, config.keep, config.seed, self.measure)

    def visiting_order(self, config: ScoreConfig) -> Indices:
        """Return the order in which a pass visits the frames."""
        return np.lexsort(self.standing(config))


@dataclass(frozen=True)
class ClusterGroup:
    """Clusters that are scored and written together, as a range of cluster numbers, and how many frames they have."""

    first: int
    last: int
    rows: int

    def ranges(self, rule: str, split_rows: int = SPLIT_ROWS) -> list[tuple[int, int]]:
        """Return the ranges of rows to score apart where the group is one large cluster; none where it is not split.

        A greedy walk goes row by row, and is never split.
        """
        if self.rows <= split_rows or rule == "greedy":
            return []
        assert self.first == self.last, f"clusters {self.first} to {self.last} would be compared with each other"
        return duplicates.row_blocks(self.rows, max(1, split_rows // 2))


def cluster_groups(sizes_K: npt.NDArray[np.int64], group_rows: int, split_rows: int = SPLIT_ROWS) -> list[ClusterGroup]:
    """Cut the clusters into consecutive groups of about `group_rows` frames.

    What has more than `split_rows` frames is one cluster, never several.
    """
    groups: list[ClusterGroup] = []
    for cluster, size in enumerate(sizes_K.tolist()):
        last = groups[-1] if groups else None
        if last is None or last.rows >= group_rows or last.rows + size > split_rows:
            groups.append(ClusterGroup(cluster, cluster, size))
        else:
            groups[-1] = ClusterGroup(last.first, cluster, last.rows + size)
    return groups


def gather(config: ScoreConfig, *pieces: FrameBlock) -> FrameBlock:
    """Return the frames of all pieces by cluster and, within one, in visiting order; frames left out come last."""
    whole = FrameBlock.joined(*pieces)
    visit = whole.visiting_order(config)
    left_out = ~in_pass(config, whole.distance[visit])
    return whole.take(visit[np.lexsort((left_out, whole.cluster[visit]))])


def in_pass(config: ScoreConfig, distance_N: Float32) -> npt.NDArray[np.bool_]:
    """Return which frames take part in the pass: those that epsilon does not leave out."""
    return distance_N <= np.float32(np.inf if config.epsilon is None else config.epsilon)


def score_clusters(config: ScoreConfig, whole: FrameBlock, device: str = "cpu") -> Scores:
    """Score each cluster of gathered frames by itself."""
    similarity, index = np.full(len(whole.ids), NOTHING), np.full(len(whole.ids), -1, np.int64)
    edges = np.flatnonzero(np.diff(whole.cluster, prepend=-1, append=-1))
    for start, stop in pairwise(edges.tolist()):
        found, cause = score_rows(config, whole.take(slice(start, stop)), (0, stop - start), device)
        similarity[start:stop], index[start:stop] = found, np.where(cause >= 0, cause + start, -1)
    return similarity, index


def score_rows(config: ScoreConfig, cluster: FrameBlock, rows: tuple[int, int], device: str = "cpu") -> Scores:
    """Score a range of rows of one gathered cluster: the duplicate similarity, and the row that causes it."""
    numbers = np.unique(cluster.cluster)
    assert len(numbers) <= 1, f"frames of clusters {numbers.tolist()} would be compared with each other"
    start, stop = rows
    similarity = np.full(stop - start, NOTHING)
    index = np.full(stop - start, -1, np.int64)
    taking_part = int(in_pass(config, cluster.distance).sum())
    end = min(stop, taking_part)
    if end > start:
        units = to_unit(cluster.vectors[:end])
        if config.rule == "greedy":
            assert config.d is not None
            assert start == 0, "a greedy walk cannot begin in the middle"
            found = duplicates.greedy_similarity(units, config.d)
        else:
            found = duplicates.earlier_similarity(units, start, end, device)
        similarity[: end - start], index[: end - start] = found
    return similarity, index


def scores_table(whole: FrameBlock, *scored: Scores) -> pa.Table:
    """Return the table of gathered frames from the scores of their consecutive ranges.

    It is of schema.SCORES, or of MEASURED_SCORES where a column decides which of two stays.
    """
    similarity = np.concatenate([part[0] for part in scored]) if scored else np.empty(0, np.float32)
    index = np.concatenate([part[1] for part in scored]) if scored else np.empty(0, np.int64)
    ids = pa.array(whole.ids.astype(str).tolist(), pa.string())
    causes = ids.take(pa.array(np.maximum(index, 0), mask=index < 0))
    columns = [ids, *map(pa.array, (whole.cluster, whole.distance, similarity)), causes]
    if whole.measure is None:
        return pa.Table.from_arrays(columns, schema=schema.SCORES)
    measure = pa.array(whole.measure, mask=np.isnan(whole.measure))
    return pa.Table.from_arrays([*columns, measure], schema=schema.MEASURED_SCORES)
