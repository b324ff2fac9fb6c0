"""The paper's figure 6 from a results table: sets trained on against sets tested on. It trains nothing."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curation.options import require
from training.reporting import results
from training.reporting.figures import in_order
from training.reporting.results import Row
from training.reporting.style import STYLE
from training.reporting.tables import Cell, cell_of

CELL_INCHES = 0.62

Panel = dict[tuple[int, int], Cell]  # by the indices of the sets trained on and tested on


def matrix(table: pa.Table, methods: Sequence[str] = (), ratios: Sequence[float | None] = ()) -> Figure:
    """Return figure 6: mean mIoU by data set trained on (row) and tested on (column), per method and ratio.

    Below each mean is half its interval (training/reporting/tables.py). Without `methods` and `ratios` all are drawn;
    subsets of one method and ratio get separate panels. At ratio 1 every method is the full pool, so `full` is
    drawn where a method has none. All panels share one colour scale; a pair that was not run is blank. ValueError where
    none of the panels has a value.
    """
    final = results.longest(results.final_rows(table).to_pylist())
    labels_of = results.labels(final)
    names = sorted({row[key] for row in final for key in ("train_dataset", "test_dataset")}, key=results.dataset_order)
    given = methods or sorted({row["method"] for row in final} - {"full"}) or ["full"]
    shares = ratios or sorted({row["ratio_nominal"] for row in final}, key=lambda ratio: ratio or 0)
    lines = in_order([row for row in final if row["method"] in given], labels_of)
    panels: dict[tuple[str, float | None], tuple[str, Panel]] = {}
    for label in lines:
        for ratio in shares:
            own = [row for row in final if labels_of[row["subset"]] == label and row["ratio_nominal"] == ratio]
            whole = [row for row in final if row["method"] == "full"] if ratio == 1 and not own else []
            panels[label, ratio] = ("full" if whole else label), panel(own or whole, names)
    present = [ratio for ratio in shares if any(panels[label, ratio][1] for label in lines)]
    require(bool(present), f"no final row is of {' or '.join(given)} at one of the ratios {list(shares)}")
    means = [cell.mean for _, cells in panels.values() for cell in cells.values()]
    limits = 100 * min(means), 100 * max(means)
    side = max(2.2, CELL_INCHES * len(names))
    figure = Figure(figsize=(side * len(present) + 2.6, (side + 0.5) * len(lines) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        axes = figure.subplots(len(lines), len(present), squeeze=False, sharex=True, sharey=True)
        for line, label in zip(axes, lines, strict=True):
            for axis, ratio in zip(line, present, strict=True):
                title, cells = panels[label, ratio]
                image = heat(axis, cells, names, limits)
                axis.set_title(f"{title}, {results.percent_label(ratio)}")
        figure.supxlabel("tested on", fontsize=11)
        figure.supylabel("trained on", fontsize=11)
        figure.colorbar(image, ax=axes, label="mean test mIoU (%)", shrink=0.8)
    return figure


def panel(rows: Sequence[Row], names: Sequence[str]) -> Panel:
    """Return the cells of a panel that were run."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        place = names.index(row["train_dataset"]), names.index(row["test_dataset"])
        groups.setdefault(place, []).append(row)
    return {place: cell_of(groups[place]) for place in sorted(groups)}


def heat(axis: Axes, cells: Panel, names: Sequence[str], limits: tuple[float, float]) -> Any:
    """Draw one panel with its values written in it; returns the image that a colour bar belongs to."""
    mean_TT = np.full((len(names), len(names)), np.nan)
    for place, cell in cells.items():
        mean_TT[place] = 100 * cell.mean
    image = axis.imshow(mean_TT, cmap="cividis", vmin=limits[0], vmax=limits[1])
    for (line, column), cell in cells.items():
        half = "" if np.isnan(cell.low) else f"\n± {50 * (cell.high - cell.low):.1f}"
        colour = "white" if 100 * cell.mean < sum(limits) / 2 else "black"
        axis.text(column, line, f"{100 * cell.mean:.1f}{half}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image
