"""The sizes that thresholds lead to, before one is chosen: a table over (epsilon, d). It does not use Ray.

Every threshold is printed as the shortest decimal that selects exactly as many frames as printed with it.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.embeddings.vectors import Float32
from curation.options import require
from curation.scores.config import ScoreConfig
from curation.store.directory import RunDirectory
from curation.store.markers import marker_of
from curation.subsets.config import SelectConfig
from curation.subsets.rules import pass_of
from curation.subsets.scored import pool_size, read_columns

SHARES = (0.05, 0.1, 0.2, 0.33, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EPSILON_SHARES = (0.5, 0.9, 0.95, 0.99)


def check_grid(config: SelectConfig) -> None:
    """ValueError where the selection has no grid: a baseline, or a greedy one."""
    require(config.compares, f"method {config.method} needs a size: give --budget")
    require(config.compared == "any", "a greedy selection depends on the threshold; give --d")


def passes(config: SelectConfig) -> list[ScoreConfig]:
    """Return the scoring passes that the grid reads: one, or one for each epsilon where that comes first."""
    check_grid(config)
    epsilons = config.grid_epsilon or (config.outlier_distance,)
    return list(dict.fromkeys(pass_of(at(config, epsilon)) for epsilon in epsilons))


def at(config: SelectConfig, epsilon: float | None) -> SelectConfig:
    """Return the selection at one epsilon of its grid."""
    return dataclasses.replace(config, grid=False, grid_epsilon=(), grid_d=(), epsilon=epsilon)


def size_table(config: SelectConfig) -> str:
    """Return a table of subset sizes and shares of the pool over a grid of (epsilon, d), or of d for SemDeDup.

    ValueError: a pass that was not scored, or a selection without a grid.
    """
    run = RunDirectory(config.run_dir)
    folders = [scoring.folder for scoring in passes(config)]
    for folder in folders:
        marker_of(run, folder, "score")
    columns, pool = {folder: read_columns(run, folder) for folder in folders}, pool_size(run)
    first = columns[folders[0]]
    epsilons = epsilons_of(config, first.distance)
    ds = thresholds(config.grid_d, first.similarity, SHARES)
    lines = [
        f"frames kept of {pool} (share): {config.method}, {config.order} kept, rule {config.compared}",
        f"{'epsilon' if epsilons else 'no epsilon':>11} \\ d" + "".join(f"{d:>16}" for d in ds),
    ]
    limits = np.array([float(d) for d in ds])
    for label in epsilons or ["-"]:
        epsilon = float(label) if epsilons else None
        chosen = columns[pass_of(at(config, epsilon)).folder]
        row = np.array([np.inf if epsilon is None else epsilon])
        [sizes] = grid_sizes(chosen.distance, chosen.similarity, row, limits)
        lines.append(f"{label:>15}" + "".join(f"{size:>8} ({size / pool:>5.1%})" for size in sizes))
    return "\n".join(lines)


def epsilons_of(config: SelectConfig, distance_N: Float32) -> list[str]:
    """Return the epsilons of the grid, ascending: those given, or the selection's and, if free, quantiles."""
    if config.outlier_distance is None:
        return []
    if config.grid_epsilon or config.order != "nearest":
        return ascending(config.grid_epsilon or (config.outlier_distance,))
    chosen = thresholds((), distance_N, EPSILON_SHARES)
    return ascending([*map(float, chosen), config.outlier_distance])


def thresholds(given: tuple[float, ...], values_N: Float32, shares: tuple[float, ...]) -> list[str]:
    """Return thresholds as decimals, ascending: those given, or some that keep about these shares of the values."""
    if given:
        return ascending(given)
    ordered = np.sort(values_N)
    return ascending([float(rounded(quantile, ordered)) for quantile in np.quantile(ordered, shares)])


def ascending(values: tuple[float, ...] | list[float]) -> list[str]:
    """Return the values as decimals, each once, ascending."""
    return [shortest(value) for value in np.unique(np.asarray(values, np.float32))]


def shortest(value: float | np.float32) -> str:
    """Return the shortest decimal that reads as the same float32."""
    return np.format_float_positional(np.float32(value), trim="-")


def rounded(threshold: float, ordered_N: npt.NDArray[np.float32]) -> str:
    """Return the shortest decimal that, as a threshold in float32, keeps as many of the ascending values."""
    kept = int(np.searchsorted(ordered_N, np.float32(threshold), side="right"))
    low = ordered_N[max(kept, 1) - 1]
    above = ordered_N[kept] if kept < len(ordered_N) else np.inf
    for digits in range(1, 10):
        scaled = float(low) * 10**digits
        for whole in (round(scaled), math.ceil(scaled)):
            text = f"{whole / 10**digits:.{digits}f}"
            if low <= np.float32(float(text)) < above:
                return text
    return shortest(low)


def grid_sizes(
    distance_N: Float32, similarity_N: Float32, epsilons: npt.NDArray[Any], ds: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Return how many frames stay at each (epsilon, d), int64 [E, D], for ascending thresholds.

    Costs one binary search per frame and threshold column, whatever the size of the grid.
    """
    row = np.searchsorted(epsilons.astype(np.float32), distance_N)
    column = np.searchsorted(ds.astype(np.float32), similarity_N)
    shape = (len(epsilons) + 1, len(ds) + 1)
    counts = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    sums: npt.NDArray[np.int64] = counts.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return sums
