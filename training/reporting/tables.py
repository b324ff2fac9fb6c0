"""The paper's tables 2, 3 and 4 of our own results, as Markdown to read and CSV to compute with. It draws nothing.

Values in Markdown are percent, in CSV shares. A cell covers the runs of one subset on one pair of data sets, one
run per seed: `mean ± standard deviation over seeds [95 % interval of the mean]`. The interval is over images and seeds
(bootstrap) where every run kept its images' IoU, else over seeds (Student's t, two or more), else the run's own over
images; `interval` in the CSV names it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
from scipy import stats

from curation.options import require
from training.metrics.intervals import Bootstrap, estimate_values
from training.metrics.normdel import normdel
from training.reporting import published, results
from training.reporting.markdown import Report, as_csv, finite_or_none, markdown, percent, span, text
from training.reporting.results import Row

KEYS = ("test_dataset", "train_dataset", "method", "subset", "ratio_nominal", "ratio_actual", "pretrain_epochs")
TABLE_4_RATIOS = (0.2, 0.33)
MEASURED = ("seeds", "images", "miou", "std", "low", "high", "interval")
DERIVED = ("normdel", "normdel_low", "normdel_high", "published_miou", "published_normdel")
RECORD_COLUMNS = (*KEYS, *MEASURED, *DERIVED)


@dataclass(frozen=True)
class DatasetRow:
    """A row of table 2: images in each part and in none, which sum to `images`, and how the set was split."""

    name: str
    images: int
    train: int
    validation: int
    test: int
    left_out: int = 0
    split: str = ""


@dataclass(frozen=True)
class Cell:
    """mIoU over the runs that differ only in their seed, as a share; NaN where it is not known."""

    mean: float
    std: float
    low: float
    high: float
    interval: str  # images and seeds, seeds, images, or empty
    seeds: int
    images: int


def cell_of(rows: Sequence[Row], bootstrap: Bootstrap | None = None) -> Cell:
    """Return mean, deviation and interval of final rows, one per seed. ValueError where test sets differ in size."""
    bootstrap = bootstrap or Bootstrap()
    miou_S = results.values_of(rows)
    seeds, images = len(rows), {row["images"] for row in rows}
    require(
        len(images) == 1,
        f"{rows[0]['subset']} on {rows[0]['test_dataset']}: seeds tested on {sorted(images)} images; use one test set",
    )
    mean = float(miou_S.mean())
    std = float(miou_S.std(ddof=1)) if seeds > 1 else math.nan
    low, high, interval = math.nan, math.nan, ""
    if all(row["image_iou"] for row in rows):
        found = estimate_values([row["image_iou"] for row in rows], bootstrap)
        low, high, interval = found.low, found.high, "images and seeds" if seeds > 1 else "images"
    elif seeds > 1:
        half = float(stats.t.ppf((1 + bootstrap.level) / 2, seeds - 1)) * std / math.sqrt(seeds)
        low, high, interval = max(0.0, mean - half), min(1.0, mean + half), "seeds"
    elif rows[0]["low"] is not None and rows[0]["high"] is not None:
        low, high, interval = rows[0]["low"], rows[0]["high"], "images"
    return Cell(mean, std, low, high, interval, seeds, images.pop())


def datasets_table(rows: Sequence[DatasetRow]) -> Report:
    """Return table 2: the data sets with their counts, in the paper's order."""
    ordered = sorted(rows, key=lambda row: results.dataset_order(row.name))
    names = [field.name for field in fields(DatasetRow)]
    values = [[getattr(row, name) for name in names] for row in ordered]
    header = ["data set", *(name.replace("_", " ") for name in names[1:])]
    return Report(markdown(header, [[text(value) for value in row] for row in values]), as_csv(names, values))


def records(table: pa.Table, *, external: bool = True, bootstrap: Bootstrap | None = None) -> list[Row]:
    """Return a record (COLUMNS) for each subset, pre-training length and pair of data sets, over its seeds.

    Without `external` only tests on the data set that was trained on. NormDEL is for the nominal ratio, alpha 1.
    ValueError as results.checked says.
    """
    final = results.final_rows(table)
    made = []
    for key, rows in results.rows_by(final, KEYS).items():
        record: Row = dict.fromkeys(RECORD_COLUMNS) | dict(zip(KEYS, key, strict=True))
        same = record["test_dataset"] == record["train_dataset"]
        if not (external or same):
            continue
        cell = cell_of(rows, bootstrap)
        record |= {name: finite_or_none(getattr(cell, "mean" if name == "miou" else name)) for name in MEASURED}
        ratio = record["ratio_nominal"]
        if ratio is not None:
            for name, value in (("normdel", cell.mean), ("normdel_low", cell.low), ("normdel_high", cell.high)):
                record[name] = None if math.isnan(value) else float(normdel(value, ratio))
            paper = published.published(record["test_dataset"], ratio) if same else None
            if paper and record["method"] in ("meddel", "full"):
                record["published_miou"], record["published_normdel"] = (round(value / 100, 6) for value in paper)
        made.append(record)
    return sorted(made, key=record_order)


def record_order(record: Row) -> tuple[Any, ...]:
    """Sort key of records: data sets, methods, ratios (none first), lengths, names."""
    return (
        results.dataset_order(record["test_dataset"]),
        record["train_dataset"] != record["test_dataset"],
        results.dataset_order(record["train_dataset"]),
        results.method_order(record["method"]),
        record["ratio_nominal"] or 0,
        record["pretrain_epochs"] or 0,
        record["subset"],
    )


def ratio_table(
    table: pa.Table, *, external: bool = True, with_published: bool = False, bootstrap: Bootstrap | None = None
) -> Report:
    """Return table 3: mIoU / NormDEL by data set, method and nominal ratio.

    A subset pre-trained for several lengths is listed with the longest. Two subsets of one method and ratio get
    separate rows, named. `with_published` adds the published row under each data set that has one.
    """
    made = results.longest(records(table, external=external, bootstrap=bootstrap))
    called = results.labels(made)

    def row_of(record: Row) -> tuple[str, ...]:
        return pair_label(record), called[record["subset"]]

    def cell_text(record: Row) -> str:
        value = "" if record["normdel"] is None else f" / {percent(record['normdel'])}"
        return estimate_text(record) + value

    ratios = sorted({record["ratio_nominal"] for record in made}, key=lambda ratio: ratio or 0)
    header, lines = pivot(made, row_of, ("ratio_nominal", ratios, results.percent_label), cell_text)
    if with_published:
        lines = published_lines(lines, ratios)
    return Report(
        markdown(["data set", "method", *header], lines), as_csv(RECORD_COLUMNS, [list(r.values()) for r in made])
    )


def length_table(
    table: pa.Table, ratios: Sequence[float] = (*TABLE_4_RATIOS, 1.0), bootstrap: Bootstrap | None = None
) -> Report:
    """Return table 4: mIoU by pre-training length at some nominal ratios, on the data set that was trained on.

    The paper's two, and the full pool. ValueError where no final row has one of them.
    """
    made = [
        record for record in records(table, external=False, bootstrap=bootstrap) if record["ratio_nominal"] in ratios
    ]
    made = [record for record in made if record["pretrain_epochs"] is not None]
    require(bool(made), f"no final row has one of the ratios {', '.join(map(str, ratios))} and a pre-training length")
    called = results.labels(made)

    def row_of(record: Row) -> tuple[str, ...]:
        return pair_label(record), called[record["subset"]], results.percent_label(record["ratio_nominal"])

    lengths = sorted({record["pretrain_epochs"] for record in made})
    header, lines = pivot(made, row_of, ("pretrain_epochs", lengths, lambda n: f"{n:g} epochs"), estimate_text)
    first = ["data set", "method", "ratio"]
    return Report(
        markdown([*first, *header], lines), as_csv(RECORD_COLUMNS, [list(record.values()) for record in made])
    )


def pivot(
    made: Sequence[Row],
    row_of: Callable[[Row], tuple[str, ...]],
    column: tuple[str, Sequence[Any], Callable[[Any], str]],
    cell_text: Callable[[Row], str],
) -> tuple[list[str], list[list[str]]]:
    """Return the header's and the rows' texts: labels, a cell for each value of a column, and the number of seeds."""
    name, values, label = column
    rows: dict[tuple[str, ...], list[Row]] = {}
    for record in made:
        rows.setdefault(row_of(record), []).append(record)
    lines = []
    for labels, group in rows.items():
        cells = {record[name]: cell_text(record) for record in group}
        seeds, images = ({record[key] for record in group} for key in ("seeds", "images"))
        lines.append([*labels, *(cells.get(value, "") for value in values), span(images), span(seeds)])
    return [*map(label, values), "images", "seeds"], lines


def published_lines(lines: Sequence[list[str]], ratios: Sequence[float | None]) -> list[list[str]]:
    """Return the lines with the paper's one after the last of each data set that has one."""
    made = []
    for place, line in enumerate(lines):
        made.append(line)
        if place + 1 < len(lines) and lines[place + 1][0] == line[0]:
            continue
        paper = [None if ratio is None else published.published(line[0], ratio) for ratio in ratios]
        if any(paper):
            cells = [f"{pair[0]:.2f} / {pair[1]:.2f}" if pair else "" for pair in paper]
            made.append([line[0], "meddel, published", *cells, "", ""])
    return made


def pair_label(record: Row) -> str:
    """Return the data set tested on; before it the one trained on, if another."""
    test, train = record["test_dataset"], record["train_dataset"]
    return test if test == train else f"{train} → {test}"


def estimate_text(record: Row) -> str:
    """Return mean ± deviation [interval] in percent, without unknown parts."""
    std = "" if record["std"] is None else f" ± {percent(record['std'])}"
    interval = "" if record["low"] is None else f" [{percent(record['low'])}, {percent(record['high'])}]"
    return f"{percent(record['miou'])}{std}{interval}"
