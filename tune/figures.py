"""The pictures of a sweep: Pareto fronts, the map of NormDEL, parallel coordinates, importance. It trains nothing.

Drawn in the style of training/reporting/style.py: no pyplot, equal tables give equal SVG bytes. mIoU and NormDEL are
in percent.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curation.store.directory import RunDirectory
from training.reporting.style import COLOURS, MARKERS, STYLE, legend, panel_grid, write_figure
from tune.results import Row, main_effects
from tune.space import AXES

POINT_KINDS = (None, "random", "semdedup", "full")  # the search, then the baselines
PRICES = (("ratio", "on_ratio_front", "share of the pool (%)", 100.0), ("device_hours", "on_cost_front", "hours", 1.0))
UNSET = "default"
CELLS = 12  # on a side of the map, at most


def draw_all(rows: Sequence[Row], folder: RunDirectory) -> list[str]:
    """Write every figure that the finished rows allow as PNG and SVG; return their names."""
    finished = [row for row in rows if row["state"] == "finished"]
    searched = [row for row in finished if row["baseline"] is None]
    if not finished:
        return []
    made = {"pareto": pareto(finished)}
    if len(searched) > 1:
        made["coordinates"] = coordinates(searched)
    if len({(row["epsilon"], row["d"]) for row in searched if row["d"] is not None}) > 1:
        made["map"] = normdel_map([row for row in searched if row["d"] is not None])
    if effects := main_effects(finished):
        made["importance"] = importance(effects)
    for name, figure in made.items():
        write_figure(figure, folder, name)
    return list(made)


def pareto(finished: Sequence[Row]) -> Figure:
    """Return mIoU with its interval against ratio and against cost; a line joins what nothing beats in both."""
    figure, axes = panel_grid(len(PRICES), len(PRICES))
    with mpl.rc_context(STYLE):
        for axis, (price, mark, label, scale) in zip(axes, PRICES, strict=True):
            for place, kind in enumerate(POINT_KINDS):
                of_kind = [row for row in finished if row["baseline"] == kind]
                if of_kind:
                    scatter(axis, of_kind, price, scale, place)
            best = sorted((scale * row[price], 100 * row["miou"]) for row in finished if row[mark])
            axis.plot(*zip(*best, strict=True), "-", color="0.5", lw=1, zorder=0)
            axis.set(xlabel=label, ylabel="mIoU (%)")
            axis.grid(axis="y", color="0.9")
        legend(figure, axes)
    return figure


def scatter(axis: Axes, rows: Sequence[Row], price: str, scale: float, place: int) -> None:
    """Draw points with their intervals."""
    x, y = [scale * row[price] for row in rows], [100 * row["miou"] for row in rows]
    spans = [
        [100 * (row["miou"] - row["miou_low"]) for row in rows],
        [100 * (row["miou_high"] - row["miou"]) for row in rows],
    ]
    name = POINT_KINDS[place] or "searched"
    axis.errorbar(x, y, yerr=spans, fmt=MARKERS[place], color=COLOURS[place], lw=1, markersize=5, label=name)


def normdel_map(rows: Sequence[Row]) -> Figure:
    """Return NormDEL by epsilon and d: in cells where their values are a grid, else as points."""
    pairs = {(row["epsilon"], row["d"]) for row in rows}
    sides = [len({pair[place] for pair in pairs}) for place in (0, 1)]
    return cells(rows) if max(sides) <= CELLS and 2 * len(pairs) >= sides[0] * sides[1] else points(rows)


def points(rows: Sequence[Row]) -> Figure:
    """Return NormDEL as the colour of points at d and epsilon; those without epsilon are triangles at the bottom."""
    figure, [axis] = panel_grid(1, 1)
    worth = [100 * row["normdel"] for row in rows]
    scale: dict[str, Any] = {"vmin": min(worth), "vmax": max(worth), "cmap": "viridis"}
    with mpl.rc_context(STYLE):
        for known, marker in ((True, "o"), (False, "^")):
            shown = [row for row in rows if (row["epsilon"] is not None) == known]
            x, y = [row["d"] for row in shown], [row["epsilon"] if known else 0.02 for row in shown]
            place: dict[str, Any] = {} if known else {"transform": axis.get_xaxis_transform()}
            colours = [100 * row["normdel"] for row in shown]
            drawn = axis.scatter(x, y, c=colours, marker=marker, **scale, **place)
        axis.set(xlabel="d", ylabel="epsilon", title="NormDEL (%)")
        figure.colorbar(drawn, ax=axis)
    return figure


def cells(rows: Sequence[Row]) -> Figure:
    """Return NormDEL by epsilon (rows) and d (columns), the mean where several configurations share both."""
    epsilons = sorted({row["epsilon"] for row in rows}, key=sort_key)
    ds = sorted({row["d"] for row in rows})
    value_ED = np.full((len(epsilons), len(ds)), np.nan)
    for at, epsilon in enumerate(epsilons):
        for to, d in enumerate(ds):
            here = [100 * row["normdel"] for row in rows if (row["epsilon"], row["d"]) == (epsilon, d)]
            value_ED[at, to] = np.mean(here) if here else np.nan
    figure, [axis] = panel_grid(1, 1)
    with mpl.rc_context(STYLE):
        image = axis.imshow(value_ED, cmap="viridis", aspect="auto")
        for at, to in np.argwhere(~np.isnan(value_ED)):
            axis.text(to, at, f"{value_ED[at, to]:.2f}", ha="center", va="center", color="white", fontsize=8)
        axis.set_xticks(range(len(ds)), [f"{d:g}" for d in ds], rotation=45)
        axis.set_yticks(range(len(epsilons)), [UNSET if e is None else f"{e:g}" for e in epsilons])
        axis.set(xlabel="d", ylabel="epsilon", title="NormDEL (%)")
        figure.colorbar(image, ax=axis)
    return figure


def coordinates(rows: Sequence[Row]) -> Figure:
    """Return parallel coordinates: a line per configuration over the axes that vary, ratio, mIoU and NormDEL."""
    varying = [axis for axis in AXES if len({row[axis] for row in rows}) > 1]
    columns = [*varying, "ratio", "miou", "normdel"]
    heights = {column: height(column, rows) for column in columns}
    figure, [axis] = panel_grid(1, 1)
    worth = np.array([row["normdel"] for row in rows])
    span = float(np.ptp(worth)) or 1.0
    with mpl.rc_context(STYLE):
        for place, row in enumerate(rows):
            colour = mpl.colormaps["viridis"]((row["normdel"] - worth.min()) / span)
            axis.plot(range(len(columns)), [heights[column][place] for column in columns], color=colour, lw=1.2)
        axis.set_xticks(range(len(columns)), columns, rotation=30)
        axis.set_yticks([])
        for place, column in enumerate(columns):
            low, high = value_range(column, rows)
            axis.text(place, -0.06, low, ha="center", va="top", fontsize=7)
            axis.text(place, 1.04, high, ha="center", va="bottom", fontsize=7)
            axis.axvline(place, color="0.8", lw=0.8, zorder=0)
        axis.tick_params(axis="x", pad=12)
    return figure


def height(column: str, rows: Sequence[Row]) -> list[float]:
    """Where each row lies on an axis, 0 to 1: numbers by value, others by their rank among those that occur."""
    values = [row[column] for row in rows]
    order = sorted(set(values), key=sort_key)
    numbers = [value for value in values if isinstance(value, float | int)]
    if len(numbers) == len(values) and max(numbers) > min(numbers):
        return [(value - min(numbers)) / (max(numbers) - min(numbers)) for value in numbers]
    return [order.index(value) / max(1, len(order) - 1) for value in values]


def value_range(column: str, rows: Sequence[Row]) -> tuple[str, str]:
    """The lowest and the highest value of an axis, as text."""
    order = sorted({row[column] for row in rows}, key=sort_key)
    low, high = (UNSET if v is None else f"{v:.4g}" if isinstance(v, float | int) else v for v in (order[0], order[-1]))
    return low, high


def sort_key(value: Any) -> tuple[bool, Any]:
    """Sort key of values that may be None."""
    return value is None, 0 if value is None else value


def importance(effects: dict[str, float]) -> Figure:
    """Return each axis's share of NormDEL's variance as a bar."""
    figure, [axis] = panel_grid(1, 1)
    with mpl.rc_context(STYLE):
        axis.barh(list(effects), [100 * share for share in effects.values()], color=COLOURS[0])
        axis.set(xlabel="share of NormDEL's variance (%)", xlim=(0, 100))
    return figure
