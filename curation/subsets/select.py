"""Scores to a subset: which frames are kept, which dropped, and why. It knows no engine.

With rule any and the nearest kept, a frame stays at (epsilon, d) exactly when its centroid distance is at most
epsilon and its duplicate similarity at most d: what epsilon drops comes later in the order than what stays, so it
never causes another removal. Two columns thus answer every (epsilon, d), and its subsets are nested. Thresholds
are compared in float32, the type of the columns.

Holds 28 bytes a scored frame in memory, 16 a kept one and 64 one that embed rejected; tables are streamed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.config import ScoreConfig, SelectConfig
from curation.console import Stopwatch
from curation.embeddings.vectors import Float32, Keys, keys_of, scramble
from curation.options import digest, hashed_fields, require
from curation.scores.duplicates import RANDOM
from curation.store import schema
from curation.store.directory import RunDirectory, holding
from curation.store.markers import Step, marker_of
from curation.subsets import decisions

KEPT, OUTLIER, DUPLICATE, EXACT_COPY, OVER_BUDGET, REJECTED = range(len(schema.REASONS))
Reasons = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Columns:
    """The scored frames, one entry a frame."""

    distance: Float32
    similarity: Float32
    cluster: npt.NDArray[np.int32]
    keys: Keys


def pass_of(config: SelectConfig) -> ScoreConfig:
    """Return the scoring pass that a selection reads.

    The default pass serves every threshold. Keeping the farthest or a random one of two needs frames beyond epsilon
    left out beforehand; a greedy pass needs d too. SemDeDup has no epsilon.
    """
    if not config.compares:
        return ScoreConfig(run_dir=config.run_dir)
    greedy = config.compared == "greedy"
    require(not greedy or config.d is not None, "a greedy selection depends on the threshold; give --d")
    return ScoreConfig(
        run_dir=config.run_dir,
        keep=config.order,
        rule=config.compared,
        epsilon=config.outlier_distance if greedy or config.order != "nearest" else None,
        d=config.d if greedy else None,
        seed=config.seed if config.order == "random" else 0,
    )


def check_request(config: SelectConfig) -> None:
    """ValueError unless the method has what it needs: a size for baselines, a size or d for the others."""
    require(config.compares or config.budget is not None, f"method {config.method} needs a size: give --budget")
    require(
        config.budget is not None or config.d is not None,
        "give --d or --budget; `select --grid` shows the sizes that thresholds lead to",
    )


def reasons(columns: Columns, config: SelectConfig, pool: int) -> tuple[Reasons, float | None]:
    """Return a reason (index in schema.REASONS) for each scored frame, and the effective d of a budget.

    Thresholds apply first; a budget (a share of `pool`, or a count) then keeps the first frames in the method's
    order and is met exactly; a budget of 1 keeps all that are left. The effective d is the highest duplicate similarity
    among the kept frames. ValueError when fewer frames are left than the budget asks for.
    """
    reason = np.full(len(columns.keys), KEPT, np.int8)
    if config.outlier_distance is not None:
        reason[columns.distance > np.float32(config.outlier_distance)] = OUTLIER
    if config.d is not None:
        reason[(reason == KEPT) & (columns.similarity > np.float32(config.d))] = DUPLICATE
    left = np.flatnonzero(reason == KEPT)
    require(
        len(left) > 0,
        f"epsilon {config.outlier_distance} and d {config.d} keep none of {len(reason)} frames; the nearest is "
        f"{columns.distance.min(initial=np.inf):.4g} from its centroid: raise --epsilon, or see `select --grid`",
    )
    if config.budget is None:
        return reason, None
    first = left[ranking(columns, config, left)[: wanted(config, len(left), pool)]]
    reason[left] = OVER_BUDGET
    reason[first] = KEPT
    return reason, float(columns.similarity[first].max()) if config.compares else None


def wanted(config: SelectConfig, left: int, pool: int) -> int:
    """Return how many of the frames `left` a budget keeps. ValueError, with the most there can be, for too many."""
    assert config.budget is not None
    if config.budget == 1:
        return left
    asked = max(1, round(config.budget * pool)) if config.budget < 1 else int(config.budget)
    share = math.floor(10_000 * left / pool) / 10_000
    thresholds = " Or raise --epsilon or --d." if config.compares else ""
    require(
        asked <= left,
        f"budget {config.budget:g} asks for {asked} frames of the pool of {pool}, but {left} are left after exact "
        f"copies, rejected frames and thresholds; ask for a count up to {left}, a share up to {share:g}, or 1 for all "
        f"that are left.{thresholds}",
    )
    return asked


def ranking(columns: Columns, config: SelectConfig, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the order in which a budget takes `rows`, by the method; ties go by key."""
    distance, similarity, keys = columns.distance[rows], columns.similarity[rows], columns.keys[rows]
    if config.compares:
        visited = {"nearest": distance, "farthest": -distance}
        second: Any = visited.get(config.order, scramble(keys, config.seed, RANDOM))
        return np.lexsort((keys, second, similarity))
    if config.method == "prototypes-hard":
        return np.lexsort((keys, -distance))
    if config.method == "prototypes-easy":
        return np.lexsort((keys, distance))
    drawn = scramble(keys, config.seed, config.method)
    if config.method == "random":
        return np.argsort(drawn, kind="stable")
    last_round = scramble(keys, config.seed, "last round of cluster-balanced")  # else large clusters would win it
    return np.lexsort((last_round, rank_in_cluster(columns.cluster[rows], drawn)))


def rank_in_cluster(cluster_N: npt.NDArray[np.int32], drawn_N: Keys) -> npt.NDArray[np.intp]:
    """Return each frame's place among those of its cluster in the order of `drawn_N`: 0 for every first one."""
    order = np.lexsort((drawn_N, cluster_N))
    first = np.flatnonzero(np.diff(cluster_N[order], prepend=-1))
    sizes = np.diff(first, append=len(order))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order)) - np.repeat(first, sizes)
    return rank


def grid_sizes(
    distance_N: Float32, similarity_N: Float32, epsilons: npt.NDArray[Any], ds: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Return how many frames stay at each (epsilon, d), int64 [E, D], for ascending thresholds.

    Costs one binary search a frame and threshold column, whatever the size of the grid.
    """
    row = np.searchsorted(epsilons.astype(np.float32), distance_N)
    column = np.searchsorted(ds.astype(np.float32), similarity_N)
    shape = (len(epsilons) + 1, len(ds) + 1)
    counts = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    sums: npt.NDArray[np.int64] = counts.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return sums


def read_columns(run: RunDirectory, folder: str) -> Columns:
    """Return distance, similarity, cluster and key of every scored frame, in the order of the parts.

    ValueError, naming the part and the frame, where a number is not finite, as in tables that `score` did not make.
    """
    names = ["frame_id", "centroid_distance", "duplicate_similarity", "cluster"]
    tables = {path: run.read_table(path, names) for path in run.parts(folder).values()}
    for path, table in tables.items():
        for name in names[1:3]:
            bad = np.flatnonzero(~np.isfinite(table[name].to_numpy()))
            require(
                not len(bad),
                f"{run.uri}/{path}: {name} of frame {table['frame_id'][bad[0]] if len(bad) else ''} is not a finite "
                f"number (so of {len(bad)} frames); delete {folder}/ and score again",
            )
    keys = [keys_of(table["frame_id"].to_pylist()) for table in tables.values()]
    values = [np.concatenate([table[name].to_numpy() for table in tables.values()]) for name in names[1:]]
    distance, similarity, cluster = values
    return Columns(distance, similarity, cluster, np.concatenate(keys))


def pool_size(run: RunDirectory) -> int:
    """Return the number of frames that could be trained on: embedded ones and their exact copies."""
    marker = marker_of(run, "embeddings", "embed")
    return int(marker["rows_out"] + marker["copies"])


@holding
def select(config: SelectConfig) -> dict[str, Any]:
    """Write subsets/NAME/ (decisions.parquet, subset.json) and return the step's marker.

    ValueError: nothing to select by, the pass not scored yet, a budget that cannot be met, or a subset of that name
    made with other settings.
    """
    check_request(config)
    run = RunDirectory(config.run_dir)
    scored = pass_of(config)
    before = marker_of(run, scored.folder, "score")
    inputs = {"scores": before["output_hash"]}
    step = Step(run, "select", f"subsets/{config.name}", config, inputs)
    if marker := step.find():
        return marker | {"reused": True}
    watch = Stopwatch()
    columns, pool = read_columns(run, scored.folder), pool_size(run)
    reason, effective_d = reasons(columns, config, pool)
    step.begin()
    path = f"{step.folder}/decisions.parquet"
    counts = dict.fromkeys(schema.REASONS, 0)
    with run.create(path) as stream, pq.ParquetWriter(stream, schema.DECISIONS, compression="zstd") as writer:
        for table in decisions.tables(run, scored.folder, reason):
            writer.write_table(table)
            for item in table["reason"].value_counts().to_pylist():
                counts[item["values"]] += item["counts"]
    total = marker_of(run, "frames", "ingest")["rows_in"]
    assert sum(counts.values()) == total, f"{total} frames were listed, {sum(counts.values())} decided: {counts}"
    result = {
        "name": config.name,
        "pool": pool,
        "pool_bytes": pool_bytes(run),
        "kept": counts["kept"],
        "ratio": counts["kept"] / pool,
        "counts": counts,
        "effective_d": effective_d,
        "config": hashed_fields(config),
        "digest": digest([hashed_fields(config), inputs]),
    }
    run.write_json(f"{step.folder}/subset.json", result)
    summary = {"rows_in": total, "rows_out": counts["kept"], "rejected": counts["rejected"]}
    note = f"{config.name} keeps {counts['kept']} of {pool} frames ({counts['kept'] / pool:.2%}); " + ", ".join(
        f"{count} {reason}" for reason, count in counts.items() if reason != "kept"
    )
    note += "; a budget of 1 is all that was left" if config.budget == 1 else ""
    timing = {"copies": counts["exact copy"], "seconds": watch.seconds, "note": note}
    return step.finish(summary | timing, [run.describe(path)])


def pool_bytes(run: RunDirectory) -> int:
    """Encoded bytes of all frames that ingest listed."""
    sizes = (run.read_table(path, ["byte_size"])["byte_size"] for path in run.parts("frames").values())
    return sum(pc.sum(column).as_py() or 0 for column in sizes)
