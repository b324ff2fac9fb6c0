"""What all figures share: style, colours, panels, and their files."""

import io
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from curation.store.directory import RunDirectory

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")
PANEL_INCHES = (4.2, 3.4)
DPI = 150
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "endosieve",
    "svg.fonttype": "none",
}


def render_figure(figure: Figure, kind: Literal["png", "svg"], dpi: int = DPI) -> bytes:
    """Return a figure's file. PNG has inches * dpi pixels; SVG is equal for equal figures."""
    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format=kind, dpi=dpi, metadata=metadata)
    return stream.getvalue()


def write_figure(figure: Figure, folder: RunDirectory, name: str) -> None:
    """Write NAME.png and NAME.svg into a folder."""
    folder.write_bytes(f"{name}.png", render_figure(figure, "png"))
    folder.write_bytes(f"{name}.svg", render_figure(figure, "svg"))


def line_style(place: int) -> tuple[str, str, str]:
    """Return colour, marker and dash of the line with an index."""
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    return colour, marker, DASHES[place % len(DASHES)]


def panel_grid(panels: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with one axis per panel, in even rows of at most `columns`."""
    lines = -(-panels // columns)
    columns = -(-panels // lines)
    figure = Figure(
        figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * lines + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08),
    )
    FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend for all panels below them."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(4, len(entries)), frameon=False
    )
