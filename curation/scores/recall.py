"""How many duplicates a pass found: what an exact search over all frames finds for a sample of them. Not on Ray. OURS.

A pass compares a frame with those of its own cluster (and of its probes), so it misses duplicates on the other side of
a border. A frame of the sample is compared with every frame of the run that comes before it in the pass's own order,
by the same arithmetic (nearest.py), so the answer is exact and the same on every chip. Of the frames that have a
duplicate before them anywhere, recall is the share for which the pass found one too; since both similarities of each
frame of the sample are kept, recall is known at every d.

Legend: S frames of the sample, in visiting order; N frames of a shard.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import binomtest

from curation.embeddings.nearest import NOTHING, nearest, prepare
from curation.embeddings.vectors import Float32, Indices, Keys, scramble, to_unit
from curation.scores import duplicates
from curation.scores.config import ScoreConfig
from curation.scores.groups import FrameBlock, in_pass
from curation.store import schema

SHOWN = (0.33, 0.5, 0.8)  # shares of the sample that the thresholds named by `score` keep
Found = list["Nearest"]


@dataclass(frozen=True)
class Nearest:
    """For each frame of the sample: the highest similarity to a frame before it so far, and that frame."""

    similarity: Float32  # -1 where there is none
    ids: npt.NDArray[np.bytes_]  # 32 bytes each; empty where there is none
    cluster: npt.NDArray[np.int32]  # of that frame
    standing: tuple[Keys, duplicates.Measure]  # of that frame, as duplicates.standing


def drawn(config: ScoreConfig, frames: int, keys_N: Keys, distance_N: Float32) -> npt.NDArray[np.bool_]:
    """Return which frames are in the sample: by key and seed, of those that take part in the pass; all if few."""
    share = min(1.0, config.recall_frames / frames)
    limit = np.uint64(min(2**64 - 1, int(share * 2**64)))
    return (scramble(keys_N, config.seed, "sample of which recall is measured") <= limit) & in_pass(config, distance_N)


def search(config: ScoreConfig, sample: FrameBlock, shard: FrameBlock, device: str = "cpu") -> Nearest:
    """Compare the sample with the frames of a shard that come before each, exactly. Costs at most S N D operations."""
    shard = shard.take(in_pass(config, shard.distance))
    shard = shard.take(shard.visiting_order(config))
    ranks = shard.standing(config)
    before = duplicates.earlier_counts(sample.standing(config), ranks)
    rows, columns = (prepare(to_unit(block.vectors), device) for block in (sample, shard))
    best, index = nearest(rows, columns, before, device) if len(shard.ids) else nothing(len(sample.ids))
    similarity, index = duplicates.bounded(best, index)
    if not len(shard.ids):
        return Nearest(
            similarity,
            np.zeros(len(index), "S32"),
            np.full(len(index), -1, np.int32),
            (np.zeros(len(index), np.uint64), np.full(len(index), np.inf)),
        )
    none, place = index < 0, np.maximum(index, 0)
    return Nearest(
        similarity,
        np.where(none, b"", shard.ids[place]),
        np.where(none, np.int32(-1), shard.cluster[place]),
        (ranks[0][place], np.where(none, np.inf, ranks[1][place])),
    )


def nothing(rows: int) -> tuple[Float32, Indices]:
    """Return what a search without columns finds."""
    return np.full(rows, NOTHING), np.full(rows, -1, np.int64)


def nearer(one: Nearest, other: Nearest) -> Nearest:
    """Return the more similar frame of each two; of equally similar ones that which comes first."""
    tie, value = zip(one.standing, other.standing, strict=True)
    earlier = (value[1] < value[0]) | ((value[1] == value[0]) & (tie[1] < tie[0]))
    known = (one.ids == b"") & (other.ids != b"")
    equal = (other.similarity == one.similarity) & (other.ids != b"") & (one.ids != b"") & earlier
    wins = (other.similarity > one.similarity) | known | equal
    return Nearest(
        np.where(wins, other.similarity, one.similarity),
        np.where(wins, other.ids, one.ids),
        np.where(wins, other.cluster, one.cluster),
        (np.where(wins, tie[1], tie[0]), np.where(wins, value[1], value[0])),
    )


def recall_table(config: ScoreConfig, sample: FrameBlock, found: Nearest, scored: dict[str, float]) -> pa.Table:
    """Return the table of schema.RECALL, by frame id, from what the search and the pass (by frame id) found.

    A greedy pass has no similarity to dropped frames; there a duplicate counts as found where both are of one cluster.
    """
    ids = sample.ids.astype(str).tolist()
    passed = np.array([scored[frame] for frame in ids], np.float32)
    if config.rule == "greedy":
        passed = np.where(found.cluster == sample.cluster, found.similarity, NOTHING)
    causes = [cause or None for cause in found.ids.astype(str).tolist()]
    columns = [ids, sample.cluster, passed, found.similarity, causes]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema.RECALL, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema.RECALL).sort_by("frame_id")


def recall_at(table: pa.Table, d: float, whole: bool) -> dict[str, float | int | None]:
    """Return recall at a threshold: frames of the sample with a duplicate, those found, their share and its interval.

    The interval is Wilson's at 95 % over the frames of the sample, and no wider than the share where the sample is
    `whole`, that is all frames. None without duplicates.
    """
    passed, exact = (table[name].to_numpy() for name in ("duplicate_similarity", "exact_similarity"))
    true = exact > np.float32(d)
    duplicate, found = int(true.sum()), int((true & (passed > np.float32(d))).sum())
    result: dict[str, float | int | None] = {"d": d, "duplicates": duplicate, "found": found}
    if not duplicate:
        return result | {"recall": None, "low": None, "high": None}
    share = found / duplicate
    interval = binomtest(found, duplicate).proportion_ci(method="wilson")
    low, high = (share, share) if whole else (float(interval.low), float(interval.high))
    return result | {"recall": share, "low": low, "high": high}


def shown_thresholds(table: pa.Table) -> list[float]:
    """Return some d, ascending, that keep about the shares SHOWN of the sample where nothing is missed."""
    exact = table["exact_similarity"].to_numpy()
    return sorted({round(float(np.quantile(exact, share)), 4) for share in SHOWN}) if len(exact) else []


def clause(found: dict[str, float | int | None]) -> str:
    """Return recall at a threshold as text."""
    if found["recall"] is None:
        return f"d = {found['d']:.6g}: no duplicates"
    return (
        f"d = {found['d']:.6g}: {found['recall']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of "
        f"{found['duplicates']}"
    )
