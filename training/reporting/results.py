"""The table of a benchmark's results: its columns, how a row is made from counts, how rows are grouped. No drawing.

One row per (subset, data set trained on, data set tested on, seed, fine-tune epoch). `final` marks the epoch that the
run is judged by (chosen on the validation part, never on the test part); the other rows are for curves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.options import require
from training.metrics import iou
from training.metrics.intervals import Bootstrap
from training.reporting import published

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        pa.field("subset", pa.string(), nullable=False),  # its name
        pa.field("method", pa.string(), nullable=False),  # how it was selected; `full`: the whole pool
        pa.field("ratio_nominal", pa.float64()),  # null: no pre-training data, as for a random encoder
        pa.field("ratio_actual", pa.float64()),
        pa.field("pretrain_epochs", pa.float64()),
        pa.field("train_dataset", pa.string(), nullable=False),
        pa.field("test_dataset", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),  # of fine-tuning, 1 for the first
        pa.field("final", pa.bool_(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),  # tested on
        pa.field("miou", pa.float64(), nullable=False),  # shares, not percent
        pa.field("miou_dataset", pa.float64()),
        pa.field("miou_background", pa.float64()),
        pa.field("dice", pa.float64()),
        pa.field("precision", pa.float64()),
        pa.field("recall", pa.float64()),
        pa.field("low", pa.float64()),  # interval of miou over images
        pa.field("high", pa.float64()),
        pa.field("image_iou", pa.list_(pa.float64())),  # in the test set's order; null where it was not kept
        pa.field(
            "image_counts", pa.list_(pa.int64())
        ),  # [images, classes, 4] in one row, as training/metrics/iou.py counts
    ]
)
RUN_KEY = ("subset", "method", "pretrain_epochs", "train_dataset", "test_dataset", "seed")
MEASURES = ("miou", "miou_dataset", "miou_background", "dice", "precision", "recall", "low", "high")
LAST_METHODS = ("random", "full")  # the baselines are listed below the others


def as_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of SCHEMA, checked; a column that a row lacks is null."""
    return checked(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA))


def checked(results: pa.Table) -> pa.Table:
    """Return the table with the columns in order.

    ValueError: a column missing, null where it must not be, or of another type; a share outside [0, 1]; a run with
    two rows for one epoch, or with two final ones.
    """
    missing = [name for name in SCHEMA.names if name not in results.column_names]
    require(
        not missing, f"the results lack the columns {', '.join(missing)}; write them with training/reporting/results.py"
    )
    results = results.select(SCHEMA.names)
    wrong = [field.name for field in SCHEMA if results.schema.field(field.name).type != field.type]
    require(
        not wrong,
        f"the results' columns {', '.join(wrong)} have another type than SCHEMA of training/reporting/results.py",
    )
    null = [field.name for field in SCHEMA if not field.nullable and results[field.name].null_count]
    require(not null, f"the results have no value in {', '.join(null)} of some rows; each needs one")
    for name in (*MEASURES, "ratio_nominal", "ratio_actual"):
        if not len(results) or results[name].null_count == len(results):
            continue
        found = pc.min_max(results[name]).as_py()
        require(
            found["min"] >= 0 and found["max"] <= 1,
            f"{name} runs from {found['min']:g} to {found['max']:g}; expected shares within 0 and 1, not percent",
        )
    lengths = pc.list_value_length(results["image_iou"])
    uneven = pc.sum(pc.not_equal(lengths, results["images"])).as_py()
    require(not uneven, f"{uneven} rows hold another number of image_iou than of images; write one per image")
    for rows, keys in ((results, (*RUN_KEY, "epoch")), (results.filter(results["final"]), RUN_KEY)):
        counted = rows.group_by(list(keys)).aggregate([([], "count_all")])
        twice = counted.filter(pc.greater(counted["count_all"], 1)).to_pylist()
        require(
            not twice,
            f"{len(twice)} runs have several {'epochs of one number' if 'epoch' in keys else 'final rows'}, "
            f"the first { ({key: twice[0][key] for key in keys} if twice else '') }; keep one",
        )
    return results.cast(SCHEMA)


def measures_of(counts_NC4: npt.NDArray[Any], seed: int = 0) -> Row:
    """Return images, every score, the interval of mIoU over images, image_iou and image_counts of one test, by name.

    Empty masks count as by default in training/metrics/iou.py; `seed` is the bootstrap's.
    """
    everything = iou.summarise(counts_NC4)
    image_iou = iou.per_image(counts_NC4)["iou"]
    found = asdict(iou.estimate(counts_NC4, bootstrap=Bootstrap(seed=seed)))
    interval = {name: found[name] for name in ("low", "high")}
    named = {name: everything[name] for name in MEASURES if name in everything}
    kept = {"image_iou": image_iou.tolist(), "image_counts": counts_NC4.ravel().tolist()}
    return {"images": len(image_iou), **named, **interval, **kept}


def rows_by(results: pa.Table, keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of some columns; groups and their rows are sorted by run, seed and epoch."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    run = [name for name in RUN_KEY if name != "seed"]
    ordered = sorted(results.to_pylist(), key=lambda row: (str([row[n] for n in run]), row["seed"], row["epoch"]))
    for row in ordered:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def final_rows(results: pa.Table) -> pa.Table:
    """Return the rows that runs are judged by; ValueError where there are none."""
    final = checked(results).filter(results["final"])
    require(len(final) > 0, f"none of {len(results)} rows of results is final; finish a run first")
    return final


def longest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of each subset's longest pre-training on each pair of data sets."""

    def key(row: Row) -> tuple[str, str, str]:
        return row["subset"], row["train_dataset"], row["test_dataset"]

    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        best[key(row)] = max(best.get(key(row), 0.0), row["pretrain_epochs"] or 0.0)
    return [row for row in rows if (row["pretrain_epochs"] or 0.0) == best[key(row)]]


def values_of(rows: Sequence[Row], column: str = "miou") -> npt.NDArray[np.float64]:
    """Return one column of rows as float64 [rows]."""
    return np.array([row[column] for row in rows], np.float64)


def counts_of(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Return the counts [S, N, classes, 4] that rows of one test kept, one row per seed."""
    return np.stack([np.array(row["image_counts"], np.int64).reshape(row["images"], -1, 4) for row in rows])


def labels(rows: Iterable[Row]) -> dict[str, str]:
    """Return each subset's label in tables and figures, by name.

    That is its method, with the subset's name where another one has the same method and nominal ratio.
    """
    groups: dict[tuple[str, float | None], set[str]] = {}
    methods = {}
    for row in rows:
        methods[row["subset"]] = row["method"]
        groups.setdefault((row["method"], row["ratio_nominal"]), set()).add(row["subset"])
    shared = {name for group in groups.values() if len(group) > 1 for name in group}
    return {name: f"{method} ({name})" if name in shared else method for name, method in methods.items()}


def dataset_order(name: str) -> tuple[int, str]:
    """Sort key of data sets: the paper's order, then by name."""
    known = list(published.MIOU)
    name = published.ALIASES.get(name, name)
    return (known.index(name) if name in known else len(known)), name


def method_order(name: str) -> tuple[int, str]:
    """Sort key of methods: by name, the baselines last, the full pool at the end."""
    return (LAST_METHODS.index(name) + 1 if name in LAST_METHODS else 0), name


def percent_label(ratio: float | None) -> str:
    """Return a ratio as tables and axes name it: 20 %; `none` without pre-training data."""
    return "none" if ratio is None else f"{round(100 * ratio, 1):g} %"
