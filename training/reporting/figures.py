"""The paper's figures 3 and 4 from a results table: curves and box plots. It trains nothing.

Figures are matplotlib's own objects drawn by Agg: no pyplot, no window, no global state. Equal tables give equal SVG
bytes; its text stays text. Colours are Okabe and Ito's, which colour-blind readers can distinguish, and lines also
differ in marker and dash. mIoU is shown in percent.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curation.options import require
from training.reporting import results
from training.reporting.results import Row
from training.reporting.style import STYLE, legend, line_style, panel_grid


def curves(table: pa.Table, *, columns: int = 3) -> Figure:
    """Return figure 3: test mIoU by fine-tune epoch, one panel per data set, one line per subset.

    A line is the mean over seeds and the band around it runs from the lowest to the highest seed; an epoch that a
    seed lacks is left out. Only tests on the data set that was trained on. ValueError if there are none, or if no line
    has two epochs.
    """
    panels = by_dataset(table)
    subsets = subset_order([row for rows in panels.values() for row in rows])
    drawn = {
        (dataset, key): curve([row for row in rows if subset_key(row) == key])
        for dataset, rows in panels.items()
        for key in subsets
    }
    require(
        max(len(epochs_E) for epochs_E, _ in drawn.values()) > 1,
        "no subset was tested after several epochs of fine-tuning; test more often, with --test-every 1",
    )
    figure, axes = panel_grid(len(panels), columns)
    with mpl.rc_context(STYLE):
        for axis, dataset in zip(axes, panels, strict=True):
            for place, (key, label) in enumerate(subsets.items()):
                epochs_E, miou_SE = drawn[dataset, key]
                if not len(epochs_E):
                    continue
                colour, marker, dash = line_style(place)
                axis.fill_between(epochs_E, miou_SE.min(axis=0), miou_SE.max(axis=0), color=colour, alpha=0.15, lw=0)
                every = max(1, len(epochs_E) // 8)
                axis.plot(
                    epochs_E,
                    miou_SE.mean(axis=0),
                    dash,
                    color=colour,
                    marker=marker,
                    markevery=(place % every, every),
                    markersize=5,
                    label=label,
                )
            axis.set(title=dataset, xlabel="fine-tune epoch", ylabel="test mIoU (%)")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
            axis.grid(axis="y", color="0.9")
        legend(figure, axes)
    return figure


def curve(rows: Sequence[Row]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the epochs that every seed has [E], and mIoU in percent of each seed [S, E]."""
    seeds: dict[int, dict[int, float]] = {}
    for row in rows:
        seeds.setdefault(row["seed"], {})[row["epoch"]] = 100 * row["miou"]
    shared = sorted(set.intersection(*map(set, seeds.values()))) if seeds else []
    values = [[seeds[seed][epoch] for epoch in shared] for seed in sorted(seeds)]
    return np.array(shared, np.int64), np.array(values, np.float64).reshape(len(seeds), len(shared))


def boxes(table: pa.Table, *, last_epochs: int = 10, columns: int = 3) -> Figure:
    """Return figure 4: box plots of test mIoU by nominal ratio, one panel per set, one colour per method (or subset).

    A box holds the last `last_epochs` epochs of every seed (all if there are fewer): the line is the
    median, the box the middle half, the whiskers reach to the lowest and highest value, the dots are the values. Only
    tests on the data set that was trained on; the longest pre-training of a subset. ValueError if there are none.
    """
    require(last_epochs >= 1, f"last_epochs is {last_epochs}; it must be at least 1")
    panels = by_dataset(table)
    every = [row for rows in panels.values() for row in rows]
    labels_of = results.labels(every)
    methods = in_order(every, labels_of)
    ratios = sorted({row["ratio_nominal"] for row in every}, key=lambda ratio: ratio or 0)
    figure, axes = panel_grid(len(panels), columns)
    width = 0.8 / len(methods)
    with mpl.rc_context(STYLE):
        for axis, (dataset, rows) in zip(axes, panels.items(), strict=True):
            ran = {(labels_of[row["subset"]], row["ratio_nominal"]) for row in rows}
            for place, method in enumerate(methods):
                groups, positions = [], []
                for number, ratio in enumerate(ratios):
                    present = [name for name in methods if (name, ratio) in ran]
                    if method in present:
                        own = [
                            row for row in rows if (labels_of[row["subset"]], row["ratio_nominal"]) == (method, ratio)
                        ]
                        groups.append(last_values(own, last_epochs))
                        positions.append(number + width * (present.index(method) - (len(present) - 1) / 2))
                if groups:
                    draw_boxes(axis, groups, positions, (line_style(place)[0], method, 0.8 * width))
            labels = [results.percent_label(ratio) for ratio in ratios]
            axis.set_xticks(range(len(ratios)), labels)
            axis.set(title=dataset, xlabel="share of the pool retained", ylabel="test mIoU (%)")
            axis.set_xlim(-0.6, len(ratios) - 0.4)
            axis.grid(axis="y", color="0.9")
        legend(figure, axes)
    return figure


def in_order(rows: Sequence[Row], labels_of: Mapping[str, str]) -> list[str]:
    """Return the labels of the rows' subsets, each once, by method."""
    return [
        label for _, label in sorted({(results.method_order(row["method"]), labels_of[row["subset"]]) for row in rows})
    ]


def draw_boxes(
    axis: Axes, groups: Sequence[Sequence[float]], positions: Sequence[float], style: tuple[str, str, float]
) -> None:
    """Draw one box per group, all with the colour, legend text and width of `style`."""
    colour, name, width = style
    drawn = axis.boxplot(
        groups,
        positions=positions,
        widths=width,
        whis=(0, 100),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        medianprops={"color": "black"},
        boxprops={"facecolor": colour, "alpha": 0.7},
    )
    drawn["boxes"][0].set_label(name)
    for x, group in zip(positions, groups, strict=True):
        axis.plot([x] * len(group), group, "o", color=colour, markersize=3, alpha=0.6, zorder=3)


def last_values(rows: Sequence[Row], last_epochs: int) -> list[float]:
    """Return mIoU in percent of the last epochs of each run, the runs in order."""
    runs: dict[tuple[str, int], list[Row]] = {}
    for row in results.longest(rows):
        runs.setdefault((row["subset"], row["seed"]), []).append(row)
    kept = [sorted(runs[key], key=lambda row: row["epoch"])[-last_epochs:] for key in sorted(runs)]
    return [100 * row["miou"] for run in kept for row in run]


def by_dataset(table: pa.Table) -> dict[str, list[Row]]:
    """Return the rows tested on the data set they were trained on, by name in the paper's order."""
    groups = results.rows_by(results.checked(table), ("train_dataset", "test_dataset"))
    same = {train: rows for (train, test), rows in groups.items() if train == test}
    require(bool(same), "no row is tested on the data set it was trained on; this figure shows no others")
    return {name: same[name] for name in sorted(same, key=results.dataset_order)}


def subset_key(row: Row) -> tuple[str, float | None]:
    """Return the key of a subset and length of pre-training."""
    return row["subset"], row["pretrain_epochs"]


def subset_order(rows: Sequence[Row]) -> dict[tuple[str, float | None], str]:
    """Return the legend's text of each subset, by method and ratio; the length where one subset has several."""
    ordered = sorted(
        rows, key=lambda row: (results.method_order(row["method"]), row["ratio_nominal"] or 0, str(subset_key(row)))
    )
    keys = list(dict.fromkeys(map(subset_key, ordered)))
    several = {name for name, _ in keys if sum(other == name for other, _ in keys) > 1}
    return {(name, length): f"{name}, {length:g} epochs" if name in several else name for name, length in keys}
