"""What the figures show is what the table holds; their files are equal twice."""

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from curation.store.directory import RunDirectory
from training.reporting import figures, results, style
from training.reporting.matrix import matrix

SUBSETS = [("random", 0.2), ("meddel", 0.2), ("meddel", 0.05), ("full", 1.0)]
SETS = ["kvasir-seg", "etis"]


def miou(method: str, ratio: float, sets: tuple[str, str], seed: int, epoch: int) -> float:
    start = {"random": 0.3, "meddel": 0.4, "full": 0.5}[method] + ratio / 10
    return round(
        start + 0.05 * epoch + 0.02 * seed + (0.1 if sets[0] == sets[1] else 0) - 0.03 * (sets[1] == "etis"), 6
    )


def rows() -> list[dict[str, Any]]:
    made = []
    for method, ratio in SUBSETS:
        subset = method if method == "full" else f"{method}-{round(100 * ratio)}"
        about = {"subset": subset, "method": method, "ratio_nominal": ratio, "ratio_actual": ratio}
        for train, test, seed, epoch in np.ndindex(2, 2, 2, 3):
            where = {"train_dataset": SETS[train], "test_dataset": SETS[test], "seed": seed, "epoch": epoch + 1}
            value = miou(method, ratio, (SETS[train], SETS[test]), seed, epoch + 1)
            made.append(about | where | {"pretrain_epochs": 4 / ratio, "final": epoch == 2, "images": 9, "miou": value})
    return made


TABLE = results.as_table(rows())


def texts(figure: Figure) -> set[str]:
    """All text of the SVG."""
    root = ET.fromstring(style.render_figure(figure, "svg"))
    return {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_hold_mean_and_range_of_seeds() -> None:
    figure = figures.curves(TABLE)
    assert [axis.get_title() for axis in figure.axes] == SETS
    assert legend_of(figure) == ["meddel-5", "meddel-20", "random-20", "full"]
    for axis in figure.axes:
        lines = {line.get_label(): line for line in axis.lines}
        assert len(lines) == 4
        for (method, ratio), name in zip(SUBSETS, ["random-20", "meddel-20", "meddel-5", "full"], strict=True):
            np.testing.assert_array_equal(lines[name].get_xdata(), [1, 2, 3])
            same = (axis.get_title(), axis.get_title())
            seeds = np.array([[miou(method, ratio, same, seed, epoch) for epoch in (1, 2, 3)] for seed in (0, 1)])
            np.testing.assert_allclose(lines[name].get_ydata(), 100 * seeds.mean(axis=0))
        band = axis.collections[0].get_paths()[0].vertices  # of the first line, meddel-5
        same = (axis.get_title(), axis.get_title())
        ends = [100 * miou("meddel", 0.05, same, seed, epoch) for seed, epoch in ((0, 1), (1, 3))]
        np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], ends)
    assert {*SETS, "fine-tune epoch", "test mIoU (%)", "meddel-5", "full"} <= texts(figure)


def test_an_epoch_that_a_seed_lacks_is_left_out() -> None:
    kept = [row for row in rows() if not (row["seed"] == 1 and row["epoch"] == 2)]
    lines = figures.curves(results.as_table(kept)).axes[0].lines
    assert [line.get_xdata().tolist() for line in lines] == [[1, 3]] * 4


def test_lengths_of_one_subset_are_told_apart() -> None:
    longer = [row | {"pretrain_epochs": 80.0} for row in rows() if row["subset"] == "meddel-5"]
    shorter = [row | {"pretrain_epochs": 2.5, "miou": row["miou"] / 2} for row in longer]
    table = results.as_table([*longer, *shorter])
    assert legend_of(figures.curves(table)) == ["meddel-5, 2.5 epochs", "meddel-5, 80 epochs"]
    box = figures.boxes(table, last_epochs=1).axes[0].lines  # the longest alone
    assert max(line.get_ydata().max() for line in box) == pytest.approx(100 * longer[5]["miou"])


def test_boxes_hold_the_last_epochs_of_every_seed() -> None:
    figure = figures.boxes(TABLE, last_epochs=2)
    assert legend_of(figure) == ["meddel", "random", "full"]
    for axis in figure.axes:
        same = (axis.get_title(), axis.get_title())
        assert [label.get_text() for label in axis.get_xticklabels()] == ["5 %", "20 %", "100 %"]
        drawn = sorted((patch.get_path().vertices[:, 0].mean(), patch) for patch in axis.patches)
        expected = [("meddel", 0.05), ("meddel", 0.2), ("random", 0.2), ("full", 1.0)]
        for (x, patch), (method, ratio) in zip(drawn, expected, strict=True):
            values = [100 * miou(method, ratio, same, seed, epoch) for seed in (0, 1) for epoch in (2, 3)]
            heights = patch.get_path().vertices[:-1, 1]
            np.testing.assert_allclose([heights.min(), heights.max()], np.percentile(values, (25, 75)))
            near = [line for line in axis.lines if abs(np.mean(line.get_xdata()) - x) < 0.1]
            ends = [line.get_ydata() for line in near]
            np.testing.assert_allclose([min(map(min, ends)), max(map(max, ends))], [min(values), max(values)])
            assert sorted(next(end for end in ends if len(end) == 4)) == pytest.approx(sorted(values))  # the dots
            assert any(np.allclose(end, np.median(values)) for end in ends)
        assert [round(x) for x, _ in drawn] == [0, 1, 1, 2]
        assert drawn[1][0] < 1 < drawn[2][0]  # side by side
    assert {"share of the pool retained", "test mIoU (%)", "20 %", "random"} <= texts(figure)
    with pytest.raises(ValueError, match="last_epochs is 0; it must be at least 1"):
        figures.boxes(TABLE, last_epochs=0)


@pytest.mark.parametrize("draw", [figures.curves, figures.boxes, matrix])
def test_files_have_the_size_and_are_equal_twice(draw: Any, tmp_path: Path) -> None:
    folder = RunDirectory(str(tmp_path))
    style.write_figure(draw(TABLE), folder, "once")
    style.write_figure(draw(results.as_table(rows()[::-1])), folder, "again")  # whatever the rows' order
    for kind in ("png", "svg"):
        content = (tmp_path / f"once.{kind}").read_bytes()
        assert content == (tmp_path / f"again.{kind}").read_bytes()
    figure = draw(TABLE)
    for dpi in (style.DPI, 40):
        with Image.open(io.BytesIO(style.render_figure(figure, "png", dpi))) as image:
            image.load()
            assert image.format == "PNG"
            assert image.size == tuple(int(dpi * inches) for inches in figure.get_size_inches())
            assert len(image.getcolors(1 << 24)) > 20  # not blank


def test_what_cannot_be_drawn_is_told() -> None:
    abroad = results.as_table([row for row in rows() if row["train_dataset"] != row["test_dataset"]])
    for draw in (figures.curves, figures.boxes):
        with pytest.raises(ValueError, match="no row is tested on the data set it was trained on"):
            draw(abroad)
    matrix(abroad)
    with pytest.raises(ValueError, match="no row is tested"):
        figures.curves(results.as_table([]))
    with pytest.raises(ValueError, match="no subset was tested after several epochs"):
        figures.curves(results.as_table([row for row in rows() if row["final"]]))


def test_subsets_of_one_method_and_ratio_have_boxes_and_panels_of_their_own() -> None:
    other = [
        row | {"subset": "meddel-20-k50", "miou": row["miou"] / 2} for row in rows() if row["subset"] == "meddel-20"
    ]
    table = results.as_table([*rows(), *other])
    called = ["meddel", "meddel (meddel-20)", "meddel (meddel-20-k50)", "random", "full"]
    assert legend_of(figures.boxes(table)) == called
    assert {f"{name}, 20 %" for name in called[1:4]} <= {axis.get_title() for axis in matrix(table).axes}


def test_the_matrix_holds_means_of_final_rows() -> None:
    figure = matrix(TABLE)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.images}
    assert list(panels) == ["meddel, 5 %", "meddel, 20 %", "full, 100 %", "random, 5 %", "random, 20 %"]
    for name, (method, ratio) in (("random, 20 %", ("random", 0.2)), ("full, 100 %", ("full", 1.0))):
        shown = panels[name].images[0].get_array()
        values = np.array(
            [
                [[100 * miou(method, ratio, (train, test), seed, 3) for seed in (0, 1)] for test in SETS]
                for train in SETS
            ]
        )
        np.testing.assert_allclose(np.asarray(shown), values.mean(axis=2))
        half = stats.t.ppf(0.975, 1) * values[0, 0].std(ddof=1) / np.sqrt(2)  # as far apart everywhere
        expected = [f"{value:.1f}\n± {half:.1f}" for value in values.mean(axis=2).ravel()]
        assert [text.get_text() for text in panels[name].texts] == expected
    assert not panels["random, 5 %"].texts
    limits = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert len(limits) == 1  # one colour scale
    assert {"trained on", "tested on", "mean test mIoU (%)", *SETS, "meddel, 20 %"} <= texts(figure)
    with pytest.raises(ValueError, match=r"no final row is of semdedup at one of the ratios \[0\.2\]"):
        matrix(TABLE, ["semdedup"], [0.2])


def test_panels_fill_even_rows() -> None:
    assert [axis.get_subplotspec().get_gridspec().get_geometry() for axis in style.panel_grid(4, 3)[1]] == [(2, 2)] * 4
    figure, axes = style.panel_grid(8, 3)
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 3)
    assert len(figure.axes) == len(axes) == 8
