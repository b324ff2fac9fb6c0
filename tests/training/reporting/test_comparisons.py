"""Results in short: NormDEL of either ratio, and who is compared with whom, against values worked out here."""

import csv
import io
import math
from typing import Any

import numpy as np
import pytest

from training.metrics import iou as metrics
from training.metrics.intervals import paired_comparison
from training.reporting import results
from training.reporting.comparisons import comparison_table, comparisons, measures, p_text, summary_table

IOUS = {
    "m20": [0.6, 0.8, 0.7, 0.5],
    "r20": [0.5, 0.7, 0.5, 0.4],
    "r50": [0.6, 0.6, 0.6, 0.6],
    "all": [0.9, 0.7, 0.8, 0.6],
}
ABOUT = {
    "m20": ("meddel", 0.2, 0.1902),
    "r20": ("random", 0.2, 0.2),
    "r50": ("random", 0.5, 0.5),
    "all": ("full", 1.0, 0.94),
}


def row(subset: str, seed: int = 0, **values: Any) -> dict[str, Any]:
    method, nominal, actual = ABOUT[subset]
    ious = [iou - 0.02 * seed for iou in IOUS[subset]]
    told = {
        "subset": subset,
        "method": method,
        "ratio_nominal": nominal,
        "ratio_actual": actual,
        "pretrain_epochs": 10.0,
    }
    tested = {"train_dataset": "a", "test_dataset": "a", "seed": seed, "epoch": 3, "final": True, "images": len(ious)}
    return told | tested | {"miou": float(np.mean(ious)), "image_iou": ious} | values


def both(*subsets: str) -> Any:
    return results.as_table([row(subset, seed) for subset in subsets for seed in (0, 1)])


@pytest.mark.parametrize("reading", ["nominal", "actual"])
def test_normdel_is_of_the_ratio_as_read(reading: Any) -> None:
    made = summary_table(both("m20", "all"), reading)
    records = {record["subset"]: record for record in csv.DictReader(io.StringIO(made.csv))}
    for subset in ("m20", "all"):
        ratio = ABOUT[subset][1 if reading == "nominal" else 2]
        miou = np.mean(IOUS[subset]) - 0.01
        expected = 1 / (1 + math.exp(-miou * math.exp(-ratio)))
        assert float(records[subset]["miou"]) == pytest.approx(miou)
        assert float(records[subset]["normdel"]) == pytest.approx(expected)
        assert float(records[subset]["std"]) == pytest.approx(0.02 / math.sqrt(2))
        assert records[subset]["reading"] == reading
        [line] = [line for line in made.markdown.splitlines() if f"| {subset} |" in line]
        assert f"| {100 * ratio:.2f} % | {100 * miou:.2f} ± 1.41 [" in line
        assert f"] | {100 * expected:.2f} [" in line
        assert line.endswith("| 4 | 2 |")
    assert f"{reading} ratio" in made.markdown


def test_an_encoder_without_pretraining_data_has_no_normdel() -> None:
    made = summary_table(results.as_table([row("m20", ratio_nominal=None, ratio_actual=None)]), "nominal")
    [record] = csv.DictReader(io.StringIO(made.csv))
    assert record["normdel"] == record["normdel_low"] == ""
    assert "| none | 65.00 [" in made.markdown
    assert made.markdown.splitlines()[-1].endswith("|  | 4 | 1 |")


def test_each_subset_meets_random_of_its_ratio_and_the_full_data() -> None:
    made = comparisons(both("all", "r50", "r20", "m20"))
    expected = [("m20", "r20"), ("m20", "all"), ("r20", "all"), ("r50", "all")]
    assert [(record["subset"], record["against"]) for record in made] == expected
    for record in made:
        mine, theirs = (
            [[iou - 0.02 * seed for iou in IOUS[name]] for seed in (0, 1)]
            for name in (record["subset"], record["against"])
        )
        found = paired_comparison(mine, theirs)
        assert record["difference"] == pytest.approx(np.mean(mine) - np.mean(theirs))
        assert (record["low"], record["high"], record["p_value"]) == (found.low, found.high, found.p_value)
        assert record["images"] == 4


def test_each_encoder_meets_the_first() -> None:
    made = comparisons(both("r20", "m20", "all"), "r20")
    assert [(record["subset"], record["against"]) for record in made] == [("m20", "r20"), ("all", "r20")]


def test_the_longest_pretraining_counts_and_sets_stay_apart() -> None:
    longer = {"pretrain_epochs": 20.0, "image_iou": [0.1] * 4, "miou": 0.1}
    rows = [
        row("m20"),
        row("m20", **longer),
        row("r20"),
        row("r20", test_dataset="b"),
        row("m20", test_dataset="b", **longer),
    ]
    made = comparisons(results.as_table(rows))
    assert [(record["test_dataset"], record["subset"]) for record in made] == [("a", "m20"), ("b", "m20")]
    assert made[0]["difference"] == pytest.approx(0.1 - np.mean(IOUS["r20"]))


def test_every_measure_has_its_deviation_and_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((6, 8, 8)) < 0.4
    counts = [metrics.confusion_counts(truth ^ (rng.random(truth.shape) < 0.2), truth) for _ in range(3)]
    rows = [row("m20", seed, **results.measures_of(each)) for seed, each in enumerate(counts)]
    made = measures(results.as_table([*rows, row("r20")]))  # the last kept no counts
    records = {record["measure"]: record for record in csv.DictReader(io.StringIO(made.csv))}
    assert set(records) == {"miou", "miou_dataset", "miou_background", "dice", "precision", "recall"}
    for name, record in records.items():
        found = metrics.estimate(np.stack(counts), name)
        assert float(record["mean"]) == pytest.approx(np.mean([one[name] for one in rows]))
        assert [float(record[key]) for key in ("std", "low", "high")] == [found.std, found.low, found.high]
        assert (record["subset"], record["seeds"], record["images"]) == ("m20", "3", "6")
    [line] = made.markdown.splitlines()[2:]
    recall = records["recall"]
    shown = {key: f"{100 * float(recall[key]):.2f}" for key in ("mean", "std", "low", "high")}
    assert line.startswith("| a | m20 | meddel |")
    assert line.endswith(f"| {shown['mean']} ± {shown['std']} [{shown['low']}, {shown['high']}] |")


def test_nothing_to_compare() -> None:
    assert comparisons(both("all")) == []
    assert comparisons(results.as_table([row("m20", image_iou=None), row("r20", image_iou=None)])) == []


def test_a_table_of_comparisons() -> None:
    made = comparison_table(comparisons(both("r20", "m20")))
    [record] = csv.DictReader(io.StringIO(made.csv))
    assert float(record["difference"]) == pytest.approx(0.125)
    assert "| a | m20 | r20 | +12.50 [+" in made.markdown
    assert (p_text(0.04321), p_text(0.00001), p_text(math.nan)) == ("0.0432", "< 0.0001", "")
