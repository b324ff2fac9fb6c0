"""Tables as Markdown to read and CSV to compute with."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.store.directory import RunDirectory


@dataclass(frozen=True)
class Report:
    """One table in two formats."""

    markdown: str
    csv: str


def write_table(report: Report, folder: RunDirectory, name: str) -> None:
    """Write NAME.md and NAME.csv into a folder."""
    folder.write_bytes(f"{name}.md", report.markdown.encode())
    folder.write_bytes(f"{name}.csv", report.csv.encode())


def percent(share: float) -> str:
    """Return a share as percent with two decimals."""
    return f"{100 * share:.2f}"


def span(numbers: set[int]) -> str:
    """Return one number, or the lowest and highest of several."""
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def finite_or_none(value: Any) -> Any:
    """Return the value, or None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def text(value: Any) -> str:
    """Return a number with thousands separators, or a text."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with a line end after its last row."""
    every = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in every)


def as_csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Return CSV with line feeds; None is empty, floats are written in full."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *lines])
    return stream.getvalue()
