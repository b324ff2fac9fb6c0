"""Scores to a subset: which frames are kept, which dropped, and why. It knows no engine.

With rule any and the nearest kept, a frame stays at (epsilon, d) exactly when its centroid distance is at most
epsilon and its duplicate similarity at most d: what epsilon drops comes later in the order than what stays, so it
never causes another removal. Two columns thus answer every (epsilon, d), and its subsets are nested. Thresholds
are compared in float32, the type of the columns.

Holds 28 bytes a scored frame in memory, 16 a kept one and 64 one that embed rejected; tables are streamed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import copies, schema
from curation.config import ScoreConfig, SelectConfig
from curation.console import Stopwatch
from curation.markers import Step, marker_of
from curation.options import digest, hashed_fields, require
from curation.store import RunDirectory
from curation.vectors import Float32, Keys, keys_of, scramble

KEPT, OUTLIER, DUPLICATE, EXACT_COPY, OVER_BUDGET, REJECTED = range(len(schema.REASONS))
Reasons = npt.NDArray[np.int8]
GRID_SHARES = (0.05, 0.1, 0.2, 0.33, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


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
    if config.method not in ("meddel", "semdedup"):
        return ScoreConfig(run_dir=config.run_dir)
    require(config.rule == "any" or config.d is not None, "a greedy selection depends on the threshold; give --d")
    applies = config.method == "meddel" and (config.order != "nearest" or config.rule == "greedy")
    return ScoreConfig(
        run_dir=config.run_dir,
        keep=config.order,
        rule=config.rule,
        epsilon=config.epsilon if applies else None,
        d=config.d if config.rule == "greedy" else None,
        seed=config.seed if config.order == "random" else 0,
    )


def check_request(config: SelectConfig) -> None:
    """ValueError unless the method has what it needs: a size for baselines, a size or d for the others."""
    baseline = config.method not in ("meddel", "semdedup")
    require(
        config.budget is not None or (config.d is not None and not baseline),
        f"method {config.method} needs a size: give --budget"
        if baseline
        else "give --d or --budget; `select --grid` shows the sizes that thresholds lead to",
    )
    require(config.d is None or not baseline, f"d does not apply to {config.method}; give --budget alone")


def reasons(columns: Columns, config: SelectConfig, pool: int) -> tuple[Reasons, float | None]:
    """Return a reason (index in schema.REASONS) for each scored frame, and the effective d of a budget.

    Thresholds apply first; a budget (a share of `pool`, or a count) then keeps the first frames in the method's
    order and is met exactly. The effective d is the highest duplicate similarity among the kept frames.
    ValueError when fewer frames are left than the budget asks for.
    """
    reason = np.full(len(columns.keys), KEPT, np.int8)
    if config.method == "meddel":
        reason[columns.distance > np.float32(config.epsilon)] = OUTLIER
    if config.d is not None:
        reason[(reason == KEPT) & (columns.similarity > np.float32(config.d))] = DUPLICATE
    require(
        bool((reason == KEPT).any()),
        f"epsilon {config.epsilon:g} and d {config.d} keep none of {len(reason)} frames; the nearest is "
        f"{columns.distance.min():.4g} from its centroid: raise --epsilon, or see `select --grid`",
    )
    if config.budget is None:
        return reason, None
    wanted = max(1, round(config.budget * pool)) if config.budget <= 1 else int(config.budget)
    left = np.flatnonzero(reason == KEPT)
    require(
        wanted <= len(left),
        f"budget {config.budget:g} asks for {wanted} frames of the pool of {pool}, but {len(left)} are left after "
        "exact copies, rejected frames and thresholds; ask for fewer, or raise --epsilon or --d",
    )
    first = left[ranking(columns, config, left)[:wanted]]
    reason[left] = OVER_BUDGET
    reason[first] = KEPT
    by_similarity = config.method in ("meddel", "semdedup")
    return reason, float(columns.similarity[first].max()) if by_similarity else None


def ranking(columns: Columns, config: SelectConfig, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the order in which a budget takes `rows`, by the method; ties go by key."""
    distance, similarity, keys = columns.distance[rows], columns.similarity[rows], columns.keys[rows]
    drawn = scramble(keys, config.seed)
    if config.method in ("meddel", "semdedup"):
        second: Any = {"nearest": distance, "farthest": -distance, "random": drawn}[config.order]
        return np.lexsort((keys, second, similarity))
    if config.method == "prototypes-hard":
        return np.lexsort((keys, -distance))
    if config.method == "prototypes-easy":
        return np.lexsort((keys, distance))
    if config.method == "random":
        return np.argsort(drawn, kind="stable")
    return np.lexsort((drawn, rank_in_cluster(columns.cluster[rows], drawn)))


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


def grid_thresholds(columns: Columns, config: SelectConfig) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the epsilons and ds of the grid, ascending: the config's, or quantiles of what was scored."""
    epsilons = config.grid_epsilon or (*np.quantile(columns.distance, (0.5, 0.9, 0.95, 0.99)), config.epsilon)
    ds = config.grid_d or np.quantile(columns.similarity, GRID_SHARES)
    return np.unique(np.asarray(epsilons, np.float32)), np.unique(np.asarray(ds, np.float32))


def read_columns(run: RunDirectory, folder: str) -> Columns:
    """Return distance, similarity, cluster and key of every scored frame, in the order of the parts."""
    wanted = ["frame_id", "centroid_distance", "duplicate_similarity", "cluster"]
    tables = [run.read_table(path, wanted) for path in run.parts(folder).values()]
    keys = [keys_of(table["frame_id"].to_pylist()) for table in tables]
    values = [np.concatenate([table[name].to_numpy() for table in tables]) for name in wanted[1:]]
    distance, similarity, cluster = values
    return Columns(distance, similarity, cluster, np.concatenate(keys))


def pool_size(run: RunDirectory) -> int:
    """Return the number of frames that could be trained on: embedded ones and their exact copies."""
    marker = marker_of(run, "embeddings", "embed")
    return int(marker["rows_out"] + marker["copies"])


def grid(config: SelectConfig) -> str:
    """Return a table of subset sizes and shares of the pool over a grid of (epsilon, d), from two columns alone."""
    run = RunDirectory(config.run_dir)
    marker_of(run, "scores", "score")
    columns, pool = read_columns(run, "scores"), pool_size(run)
    epsilons, ds = grid_thresholds(columns, config)
    sizes = grid_sizes(columns.distance, columns.similarity, epsilons, ds)
    lines = [
        f"frames kept of {pool} (share), nearest kept, rule any",
        "epsilon \\ d" + "".join(f"{d:>16.4f}" for d in ds),
    ]
    for epsilon, row in zip(epsilons, sizes, strict=True):
        lines.append(f"{epsilon:>11.4f}" + "".join(f"{size:>8} ({size / pool:>5.1%})" for size in row))
    return "\n".join(lines)


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
        for table in decisions(run, scored.folder, reason):
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
        "config": hashed_fields(config) | {"keep": config.order},
        "digest": digest([hashed_fields(config), inputs]),
    }
    run.write_json(f"{step.folder}/subset.json", result)
    summary = {"rows_in": total, "rows_out": counts["kept"], "rejected": counts["rejected"]}
    note = f"{config.name} keeps {counts['kept']} of {pool} frames ({counts['kept'] / pool:.2%}); " + ", ".join(
        f"{count} {reason}" for reason, count in counts.items() if reason != "kept"
    )
    timing = {"copies": counts["exact copy"], "seconds": watch.seconds, "note": note}
    return step.finish(summary | timing, [run.describe(path)])


def pool_bytes(run: RunDirectory) -> int:
    """Encoded bytes of all frames that ingest listed."""
    sizes = (run.read_table(path, ["byte_size"])["byte_size"] for path in run.parts("frames").values())
    return sum(pc.sum(column).as_py() or 0 for column in sizes)


def decisions(run: RunDirectory, folder: str, reason_N: Reasons) -> Iterator[pa.Table]:
    """Yield tables of schema.DECISIONS for all frames: scored ones, then exact copies, then rejected ones."""
    start = 0
    for path in run.parts(folder).values():
        table = run.read_table(path)
        code = reason_N[start : start + len(table)]
        start += len(table)
        gave_way = (code == DUPLICATE) | (code == OVER_BUDGET)
        named = pa.array(gave_way)
        known = pc.and_(named, pc.is_valid(table["duplicate_of"]))
        yield decided(
            table["frame_id"],
            pa.array(schema.REASONS).take(pa.array(code)),
            pc.if_else(known, table["duplicate_of"], pa.scalar(None, pa.string())),
            pc.if_else(known, table["duplicate_similarity"], pa.scalar(None, pa.float32())),
            table["centroid_distance"],
            table["cluster"],
        )
    fates = copies.read_fates(run)
    for path in run.parts("frames").values():
        table = copies.copies_in(run.read_table(path, ["frame_id", "copy_of"]), fates)
        yield decided(table["frame_id"], "exact copy", table["because_of"], 1.0)
    for name in run.names("rejected"):
        yield decided(run.read_table(f"rejected/{name}", ["frame_id"])["frame_id"], "rejected")


def decided(
    frame_id: pa.ChunkedArray,
    reason: pa.Array | str,
    because_of: pa.Array | None = None,
    similarity: pa.Array | float | None = None,
    *measures: pa.Array,
) -> pa.Table:
    """Return a table of schema.DECISIONS; a single value stands for all rows."""
    given = [reason, because_of, similarity, *(measures or (None, None))]
    fields = list(schema.DECISIONS)[2:]
    filled = [
        column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array([column] * len(frame_id), field.type)
        for column, field in zip(given, fields, strict=True)
    ]
    return pa.Table.from_arrays([frame_id, pc.equal(filled[0], "kept"), *filled], schema=schema.DECISIONS)
