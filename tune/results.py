"""What a sweep found: a row per configuration, the Pareto fronts, the answer to its question. It trains nothing.

mIoU is the mean over all test images of all sets, each image alike, and over seeds. Its interval (bootstrap) is over
images and seeds; `standard_error` is over seeds alone. NormDEL's interval is its formula applied to that of mIoU.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.metrics.intervals import Bootstrap, Comparison, estimate_values, paired_comparison
from training.metrics.normdel import nominal_ratio, normdel
from training.reporting import results
from tune.config import Question
from tune.space import AXES, Candidate

Row = dict[str, Any]
Float64 = npt.NDArray[np.float64]
SIZE_AXES = ("d", "budget")  # the axes that say how many frames are kept, and nothing else
TAIL_DRAWS = 20  # of a bootstrap, beyond the bound that is read off it
STATES = ("finished", "halted", "failed", "unfinished")
SWEEP_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("baseline", pa.string()),  # random, full or semdedup; null: of the search
        pa.field("select", pa.string(), nullable=False),
        *(pa.field(axis, pa.float64()) for axis in ("epsilon", "d", "budget")),
        pa.field("keep", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("clusters", pa.int64()),
        pa.field("state", pa.string(), nullable=False),  # one of STATES
        pa.field("reason", pa.string()),  # why it failed
        pa.field("trained", pa.string()),  # whose subset was trained for it
        pa.field("folder", pa.string()),  # of that subset
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("ratio", pa.float64(), nullable=False),
        pa.field("ratio_read", pa.float64()),  # as NormDEL takes it
        pa.field("seeds", pa.int64()),
        pa.field("miou", pa.float64()),  # of a halted one: of its last probe
        *(pa.field(name, pa.float64()) for name in ("standard_error", "miou_low", "miou_high")),
        *(pa.field(name, pa.float64()) for name in ("normdel", "normdel_low", "normdel_high")),
        pa.field("by_set", pa.map_(pa.string(), pa.float64())),  # mIoU by `train > test`
        pa.field("updates", pa.int64()),
        pa.field("flops", pa.float64()),
        pa.field("device_hours", pa.float64()),
        pa.field("on_ratio_front", pa.bool_(), nullable=False),
        pa.field("on_cost_front", pa.bool_(), nullable=False),
    ]
)
assert set(AXES) <= set(SWEEP_SCHEMA.names)


@dataclass(frozen=True)
class Answer:
    """The configuration that the question asks for, in words, and what it was compared with."""

    best: Row | None
    words: str
    against: list[tuple[str, Comparison]]


def ious_of(table: pa.Table) -> list[list[float]]:
    """IoU of every test image [seeds][images] from rows of training/reporting/results.py; sets in order of name."""
    final = sorted(
        results.final_rows(table).to_pylist(), key=lambda row: (row["seed"], row["train_dataset"], row["test_dataset"])
    )
    seeds = sorted({row["seed"] for row in final})
    return [[iou for row in final if row["seed"] == seed for iou in row["image_iou"]] for seed in seeds]


def sweep_row(
    candidate: Candidate, record: Mapping[str, Any] | None, table: pa.Table | None, question: Question, reason: str = ""
) -> Row:
    """A configuration's row. `record` and `table` are of the trial that was finished for it, or None."""
    row: Row = dict.fromkeys(SWEEP_SCHEMA.names) | candidate.point.values()
    row |= {"name": candidate.name, "select": candidate.point.select, "frames": candidate.frames}
    row |= {"ratio": candidate.ratio, "trained": candidate.trained or None, "folder": candidate.folder or None}
    row |= {"on_ratio_front": False, "on_cost_front": False}
    reason = candidate.reason or reason
    row |= {"state": "failed" if reason else "unfinished", "reason": reason or None}
    if record is None or table is None:
        return row
    ratio = ratio_read(candidate, question)
    ious = ious_of(table)
    found = estimate_values(ious)
    levels = {"normdel": found.mean, "normdel_low": found.low, "normdel_high": found.high}
    row |= {"state": "finished", "reason": None, "ratio_read": ratio, "seeds": found.seeds, "miou": found.mean}
    row |= {"miou_low": found.low, "miou_high": found.high}
    row["standard_error"] = None if math.isnan(found.std) else found.std / math.sqrt(found.seeds)
    row |= {name: float(normdel(value, ratio, question.alpha)) for name, value in levels.items()}
    pairs = results.rows_by(results.final_rows(table), ("train_dataset", "test_dataset"))
    row["by_set"] = [(" > ".join(pair), float(results.values_of(rows).mean())) for pair, rows in pairs.items()]
    row |= {name: record[name] for name in ("updates", "flops")}
    row["device_hours"] = record["pretrain_hours"] + record["evaluate_hours"]
    return row


def ratio_read(candidate: Candidate, question: Question) -> float:
    """The ratio as NormDEL takes it."""
    return nominal_ratio(candidate.ratio) if question.reading == "nominal" else candidate.ratio


def halted_row(row: Row, reported: Mapping[str, Any]) -> Row:
    """The row of a configuration that halving stopped, with what its last probe reported."""
    known = {name: reported[name] for name in ("miou", "normdel", "updates")}
    return row | known | {"state": "halted"}


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table of SCHEMA, with both fronts marked among the finished ones."""
    made = [dict(row) for row in rows]
    finished = [row for row in made if row["state"] == "finished"]
    if finished:
        miou = np.array([row["miou"] for row in finished])
        for column, mark in (("ratio", "on_ratio_front"), ("device_hours", "on_cost_front")):
            price = np.array([row[column] for row in finished])
            for row, on_front in zip(finished, front(price, miou), strict=True):
                row[mark] = bool(on_front)
    return pa.Table.from_pylist(made, schema=SWEEP_SCHEMA)


def front(price_N: Float64, worth_N: Float64) -> npt.NDArray[np.bool_]:
    """Whether no other has at most the price and at least the worth, one of them better."""
    cheaper_NN = price_N[None, :] <= price_N[:, None]
    worthier_NN = worth_N[None, :] >= worth_N[:, None]
    better_NN = (price_N[None, :] < price_N[:, None]) | (worth_N[None, :] > worth_N[:, None])
    beaten_N: npt.NDArray[np.bool_] = np.any(cheaper_NN & worthier_NN & better_NN, axis=1)
    return ~beaten_N


def answer(rows: Sequence[Row], ious: Mapping[str, list[list[float]]], question: Question) -> Answer:
    """Answer the question from finished rows and the IoU of their images by the name that was trained.

    Comparisons are paired, of mIoU, on the same images: with the full pool and with the baselines of the best one's
    size. The random subset of its size shows whether selecting was worth it.
    """
    finished = [row for row in rows if row["state"] == "finished"]
    if not finished:
        return Answer(None, "No configuration was finished, so there is no answer yet.", [])
    full = next((row for row in finished if row["baseline"] == "full"), None)
    if question.question == "non-inferior":
        if full is None:
            return Answer(None, "The full pool is not finished, so nothing can be compared with it yet.", [])
        best, words = smallest(finished, full, ious, question)
    elif question.question == "pareto":
        front = sorted((row for row in finished if row["on_ratio_front"]), key=lambda row: row["ratio"])
        best = max(front, key=lambda row: row["normdel"])
        names = ", ".join(f"{row['name']} ({row['ratio']:.1%}: {100 * row['miou']:.2f} %)" for row in front)
        words = f"On the front of ratio and mIoU: {names}. {best['name']} has the highest NormDEL of these"
    else:
        best = max(finished, key=lambda row: (row["normdel"], -row["ratio"], row["name"]))
        words = f"{best['name']} has the highest NormDEL (alpha {question.alpha:g}): {interval(best, 'normdel')}"
    others = [row for row in finished if row["baseline"] and row["trained"] != best["trained"]]
    near = [row for row in others if row["baseline"] == "full" or row["frames"] == best["frames"]]
    against = [(row["name"], paired_comparison(ious[best["trained"]], ious[row["trained"]])) for row in near]
    kept = f"{best['frames']} frames ({best['ratio']:.2%} of the pool), mIoU {interval(best, 'miou')}"
    said = [f"{words}. It keeps {kept}.", *(verdict(name, found) for name, found in against)]
    if best["trained"] != best["name"]:
        said.insert(1, f"What was trained for it, and is exported, is {best['trained']}, of nearly the same frames.")
    return Answer(best, " ".join(said), against)


def smallest(
    finished: Sequence[Row], full: Row, ious: Mapping[str, list[list[float]]], question: Question
) -> tuple[Row, str]:
    """The smallest searched subset whose mIoU is not below the full pool's by more than the margin, and that in words.

    Configurations that differ in d or budget alone are a family. In each, subsets are tested from the largest down
    until one is not shown to be that good, at 1 - confidence over the number of families (Bonferroni), so that the
    confidence holds for all subsets together. The bound is the lower end of a two-sided interval of twice that error.
    The full pool where there is none.
    """
    families: dict[tuple[Any, ...], list[Row]] = {}
    for row in finished:
        if row["baseline"] is None and row["trained"] != full["trained"]:
            families.setdefault(tuple(row[axis] for axis in AXES if axis not in SIZE_AXES), []).append(row)
    error = (1 - question.confidence) / max(1, len(families))
    bound = Bootstrap(level=max(1 - 2 * error, 1e-6), replicates=max(2000, math.ceil(TAIL_DRAWS / error)))
    shown = [full]
    for family in families.values():
        for row in sorted(family, key=lambda row: (-row["ratio"], row["name"])):
            if paired_comparison(ious[row["trained"]], ious[full["trained"]], bound).low <= -question.margin:
                break
            shown.append(row)
    best = min(shown, key=lambda row: (row["ratio"], row["name"]))
    margin = f"{100 * question.margin:g} points with {question.confidence:.0%} confidence"
    if best is full:
        return full, f"No subset is shown to be not worse than the full pool by more than {margin}"
    words = f"{best['name']} is the smallest that is not worse than the full pool by more than {margin}"
    several = f" in each of {len(families)} families" if len(families) > 1 else ""
    return best, f"{words}, tested from the largest down{several}"


def verdict(name: str, found: Comparison) -> str:
    """A comparison in words."""
    width = f"{100 * found.difference:+.2f} points of mIoU [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    if found.low > 0:
        return f"Better than {name}: {width}."
    return f"{'Worse than' if found.high < 0 else 'Not better than'} {name}: {width}."


def interval(row: Row, name: str) -> str:
    """A value of a row with its interval, in percent."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{100 * row[name]:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def main_effects(rows: Sequence[Row]) -> dict[str, float]:
    """Return, for each axis that varies, the share of NormDEL's variance between its values, less what chance gives.

    Epsilon squared (Kelley 1935), at least 0, of finished configurations of the search, by one axis at a time: shares
    need not add up to 1. Numbers are put into bins where few repeat (see `binned`); any other axis on which each
    configuration has a value of its own is left out.
    """
    searched = [row for row in rows if row["state"] == "finished" and row["baseline"] is None]
    value_N = np.array([row["normdel"] for row in searched])
    total = float(((value_N - value_N.mean()) ** 2).sum()) if searched else 0.0
    shares = {}
    for axis in AXES:
        label_N = np.array(binned([row[axis] for row in searched]))
        names = np.unique(label_N)
        if 1 < len(names) < len(label_N) and total > 0:
            groups = [value_N[label_N == name] for name in names]
            within = sum(float(((one - one.mean()) ** 2).sum()) for one in groups) / (len(label_N) - len(names))
            shares[axis] = max(0.0, (total - (len(label_N) - 1) * within) / total)
    return shares


def binned(values: Sequence[Any]) -> list[str]:
    """Return a label for each value: its own, or that of its quantile where numbers repeat less than twice on average.

    There are as many quantiles as the square root of the values, two at least.
    """
    numbers = [value for value in values if isinstance(value, float | int)]
    if 2 * len(set(numbers)) <= len(numbers):
        return [str(value) for value in values]
    bins = max(2, round(len(numbers) ** 0.5))
    edges = np.quantile(numbers, np.arange(1, bins) / bins)
    return [str(np.searchsorted(edges, value)) if isinstance(value, float | int) else str(value) for value in values]


REPORTED = ("unit", "miou", "standard_error", "updates")  # what is measured of a trial at a rung, and at the end
