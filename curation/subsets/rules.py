"""Which frames are kept, which dropped, and why, from their scores alone. It uses neither files nor Ray."""

import math

import numpy as np
import numpy.typing as npt

from curation.embeddings.vectors import Keys, scramble
from curation.options import require
from curation.scores.config import ScoreConfig
from curation.scores.duplicates import standing
from curation.store import schema
from curation.subsets.config import SelectConfig
from curation.subsets.scored import Columns

KEPT, OUTLIER, DUPLICATE, EXACT_COPY, NEAR_COPY, OVER_BUDGET, REJECTED = range(len(schema.REASONS))


Reasons = npt.NDArray[np.int8]


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
    first = left[ranking(columns, config, left)[: budget_count(config, len(left), pool)]]
    reason[left] = OVER_BUDGET
    reason[first] = KEPT
    return reason, float(columns.similarity[first].max()) if config.compares else None


def budget_count(config: SelectConfig, left: int, pool: int) -> int:
    """Return how many of the `left` frames a budget keeps. ValueError, with the largest possible budget, if too few."""
    assert config.budget is not None
    if config.budget == 1:
        return left
    count = max(1, round(config.budget * pool)) if config.budget < 1 else int(config.budget)
    share = math.floor(10_000 * left / pool) / 10_000
    thresholds = " Or raise --epsilon or --d." if config.compares else ""
    require(
        count <= left,
        f"budget {config.budget:g} asks for {count} frames of the pool of {pool}, but {left} are left after "
        f"copies, rejected frames and thresholds; give a count up to {left}, a share up to {share:g}, or 1 for all "
        f"that are left.{thresholds}",
    )
    return count


def ranking(columns: Columns, config: SelectConfig, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the order in which a budget takes `rows`, by the method; ties are broken by key."""
    distance, similarity, keys = columns.distance[rows], columns.similarity[rows], columns.keys[rows]
    if config.compares:
        measure = None if columns.measure is None else columns.measure[rows]
        return np.lexsort((*standing(distance, keys, config.order, config.seed, measure), similarity))
    if config.method == "prototypes-hard":
        return np.lexsort((keys, -distance))
    if config.method == "prototypes-easy":
        return np.lexsort((keys, distance))
    drawn = scramble(keys, config.seed, config.method)
    if config.method == "random":
        return np.argsort(drawn, kind="stable")
    last_round = scramble(keys, config.seed, "last round of cluster-balanced")  # else it would favour large clusters
    return np.lexsort((last_round, rank_in_cluster(columns.cluster[rows], drawn)))


def rank_in_cluster(cluster_N: npt.NDArray[np.int32], drawn_N: Keys) -> npt.NDArray[np.intp]:
    """Return each frame's rank within its cluster, in the order of `drawn_N`; 0 for the first of each."""
    order = np.lexsort((drawn_N, cluster_N))
    first = np.flatnonzero(np.diff(cluster_N[order], prepend=-1))
    sizes = np.diff(first, append=len(order))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order)) - np.repeat(first, sizes)
    return rank
