"""Results in short: mIoU with NormDEL, all measures, encoders against each other on the same images. It trains nothing.

Values in Markdown are percent (differences: percentage points), in CSV shares.
"""

import math
from typing import Any

import pyarrow as pa

from training.metrics import iou
from training.metrics.intervals import Bootstrap, paired_comparison
from training.metrics.normdel import Reading, normdel
from training.reporting import markdown, results, tables
from training.reporting.markdown import Report
from training.reporting.results import Row

COMPARED = ("test_dataset", "train_dataset", "subset", "against", "difference", "low", "high", "p_value", "images")
SAME_SIZE = 0.1
MEASURED_OF = ("test_dataset", "train_dataset", "subset", "method")
SHOWN_MEASURES = {
    "miou": "mIoU",
    "miou_dataset": "of all pixels together",
    "miou_background": "with background",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
}
SPREAD = ("std", "low", "high")
LEVELS = (("normdel", "miou"), ("normdel_low", "low"), ("normdel_high", "high"))


def summary_table(table: pa.Table, reading: Reading) -> Report:
    """Return one line per encoder and pair of data sets, over its seeds: mIoU and NormDEL of the ratio as read.

    The CSV has tables.COLUMNS and `reading`. ValueError as results.checked says, or where no row is final.
    """
    lines, made = [], []
    for record in tables.records(table):
        ratio = record[f"ratio_{reading}"]
        known = ratio is not None
        record |= {
            to: float(normdel(record[of], ratio)) if known and record[of] is not None else None for to, of in LEVELS
        }
        made.append([*record.values(), reading])
        normdel_text = "" if record["normdel"] is None else markdown.percent(record["normdel"])
        if normdel_text and record["normdel_low"] is not None:
            normdel_text += f" [{markdown.percent(record['normdel_low'])}, {markdown.percent(record['normdel_high'])}]"
        share = "none" if ratio is None else f"{ratio:.2%}".replace("%", " %")
        counts = [str(record["images"]), str(record["seeds"])]
        names = [tables.pair_label(record), record["subset"], record["method"], share]
        lines.append([*names, tables.estimate_text(record), normdel_text, *counts])
    header = ["data set", "subset", "method", f"{reading} ratio", "mIoU ± std [95 %]", "NormDEL [95 %]"]
    return Report(
        markdown.markdown([*header, "images", "seeds"], lines),
        markdown.as_csv([*tables.RECORD_COLUMNS, "reading"], made),
    )


def measures(table: pa.Table) -> Report:
    """Return every measure of each encoder and pair of data sets, over seeds; one per line of the CSV.

    The interval is a bootstrap's over images and seeds. Rows without their images' counts are left out.
    """
    final, lines, values = results.final_rows(table), [], list[list[Any]]()
    groups = [rows for rows in results.rows_by(final, tables.KEYS).values() if all(row["image_counts"] for row in rows)]
    for rows in sorted(groups, key=lambda rows: tables.record_order(rows[0])):
        named = [rows[0][key] for key in MEASURED_OF]
        found = [iou.estimate(results.counts_of(rows), name) for name in SHOWN_MEASURES]
        known = [
            {"miou": one.mean, **{key: markdown.finite_or_none(getattr(one, key)) for key in SPREAD}} for one in found
        ]
        lines.append([tables.pair_label(rows[0]), *named[2:], *map(tables.estimate_text, known)])
        values += [
            [*named, name, *one.values(), rows[0]["images"], len(rows)]
            for name, one in zip(SHOWN_MEASURES, known, strict=True)
        ]
    header = ["data set", *MEASURED_OF[2:], *(f"{title} ± std [95 %]" for title in SHOWN_MEASURES.values())]
    columns = [*MEASURED_OF, "measure", "mean", *SPREAD, "images", "seeds"]
    return Report(markdown.markdown(header, lines), markdown.as_csv(columns, values))


def comparisons(table: pa.Table, first: str | None = None, bootstrap: Bootstrap | None = None) -> list[Row]:
    """Return records (COMPARED) of paired comparisons, of each encoder's longest pre-training, on the same images.

    Each is compared with the one named `first`; without it with every random subset of its size (within a tenth) and
    with the full data. Rows without their images' IoU are left out.
    """
    made: list[Row] = []
    final = [row for row in results.longest(results.final_rows(table).to_pylist()) if row["image_iou"]]
    pairs = {(row["test_dataset"], row["train_dataset"]) for row in final}
    ordered = sorted(pairs, key=lambda pair: (results.dataset_order(pair[0]), results.dataset_order(pair[1])))
    for test, train in ordered:
        here = [row for row in final if (row["test_dataset"], row["train_dataset"]) == (test, train)]
        seeds: dict[str, list[Row]] = {}
        for row in sorted(here, key=lambda row: (results.method_order(row["method"]), row["subset"], row["seed"])):
            seeds.setdefault(row["subset"], []).append(row)
        for subset, mine in seeds.items():
            for against, theirs in seeds.items():
                if against != subset and is_baseline(theirs[0], mine[0], first):
                    found = paired_comparison(ious(mine), ious(theirs), bootstrap)
                    values = (found.difference, found.low, found.high, found.p_value, found.images)
                    made.append(dict(zip(COMPARED, (test, train, subset, against, *values), strict=True)))
    return made


def is_baseline(row: Row, of: Row, first: str | None) -> bool:
    """Whether the encoder of one row is the baseline of another's."""
    if first is not None:
        return bool(row["subset"] == first)
    if of["method"] == "full":
        return False
    if row["method"] == "full":
        return True
    sizes = row["ratio_actual"], of["ratio_actual"]
    same = None not in sizes and math.isclose(*sizes, rel_tol=SAME_SIZE)
    return bool(row["method"] == "random" and of["method"] != "random" and same)


def ious(rows: list[Row]) -> list[list[float]]:
    """The images' IoU of each seed."""
    return [row["image_iou"] for row in rows]


def comparison_table(made: list[Row]) -> Report:
    """Return comparisons as a table."""
    lines = []
    for record in made:
        points = (f"{100 * record[name]:+.2f}" for name in ("difference", "low", "high"))
        difference, low, high = points
        names = [tables.pair_label(record), record["subset"], record["against"]]
        lines.append([*names, f"{difference} [{low}, {high}]", p_text(record["p_value"]), str(record["images"])])
    header = ["data set", "subset", "against", "mIoU difference [95 %]", "p", "images"]
    values: list[list[Any]] = [[record[name] for name in COMPARED] for record in made]
    return Report(markdown.markdown(header, lines), markdown.as_csv(COMPARED, values))


def p_text(p_value: float) -> str:
    """A p-value with as many digits as are reliable."""
    return "" if math.isnan(p_value) else f"{p_value:.4f}" if p_value >= 0.0001 else "< 0.0001"
