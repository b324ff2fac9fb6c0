"""The results table refuses what is wrong; the paper's tables come out word for word."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from curation.store.directory import RunDirectory
from training.metrics import iou
from training.metrics.intervals import Bootstrap, estimate_values
from training.metrics.normdel import normdel
from training.reporting import markdown, results, tables

RATIO = {"meddel-20": 0.2, "random-20": 0.2, "meddel-5": 0.05, "full": 1.0, "scratch": None}


def run(subset: str, seed: int, miou: float, dataset: str = "kvasir-seg", **more: Any) -> dict[str, Any]:
    train, _, test = dataset.partition(">")
    ratio = RATIO.get(subset, 0.2)
    fixed = {"subset": subset, "method": subset.partition("-")[0], "ratio_nominal": ratio, "ratio_actual": ratio}
    where = {"train_dataset": train, "test_dataset": test or train, "seed": seed, "epoch": 9, "final": True}
    length = {"pretrain_epochs": 10 / ratio if ratio else None}
    return fixed | where | length | {"images": 100, "miou": miou} | more


RUNS = [
    run("full", 0, 0.70),
    run("full", 1, 0.72),
    run("meddel-20", 1, 0.74),
    run("meddel-20", 0, 0.76),
    run("meddel-20", 0, 0.3, epoch=8, final=False),
    run("random-20", 0, 0.70, low=0.65, high=0.74),
    run("meddel-5", 0, 0.73),
    run("meddel-20", 0, 0.5, "kvasir-seg>endotect", images=200),
    run("scratch", 0, 0.4, "endotect", images=200),
]

TABLE_3 = """\
| data set | method | none | 5 % | 20 % | 100 % | images | seeds |
| --- | --- | --- | --- | --- | --- | --- | --- |
| kvasir-seg | meddel |  | 73.00 / 66.69 | 75.00 ± 1.41 [62.29, 87.71] / 64.89 |  | 100 | 1 to 2 |
| kvasir-seg | random |  |  | 70.00 [65.00, 74.00] / 63.95 |  | 100 | 1 |
| kvasir-seg | full |  |  |  | 71.00 ± 1.41 [58.29, 83.71] / 56.49 | 100 | 2 |
| kvasir-seg | meddel, published |  | 75.45 / 67.21 | 76.37 / 65.14 | 76.02 / 56.95 |  |  |
| endotect | scratch | 40.00 |  |  |  | 200 | 1 |
| kvasir-seg → endotect | meddel |  |  | 50.00 / 60.09 |  | 200 | 1 |
"""


def test_table_3_word_for_word() -> None:
    report = tables.ratio_table(results.as_table(RUNS), with_published=True)
    assert report.markdown == TABLE_3
    assert report == tables.ratio_table(results.as_table(RUNS[::-1]), with_published=True)  # whatever the rows' order
    without = tables.ratio_table(results.as_table(RUNS), external=False).markdown
    assert "→" not in without
    assert "published" not in without


def test_table_3_as_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(tables.ratio_table(results.as_table(RUNS)).csv)))
    assert [(line["subset"], line["test_dataset"]) for line in lines] == [
        ("meddel-5", "kvasir-seg"),
        ("meddel-20", "kvasir-seg"),
        ("random-20", "kvasir-seg"),
        ("full", "kvasir-seg"),
        ("scratch", "endotect"),
        ("meddel-20", "endotect"),
    ]
    twenty = lines[1]
    assert [twenty[name] for name in ("seeds", "images", "pretrain_epochs", "interval")] == [
        "2",
        "100",
        "50.0",
        "seeds",
    ]
    half = stats.t.ppf(0.975, 1) * 0.01  # deviation 0.02 / sqrt(2), over sqrt(2)
    for name, expected in (("miou", 0.75), ("std", 0.02 / math.sqrt(2)), ("low", 0.75 - half), ("high", 0.75 + half)):
        assert float(twenty[name]) == pytest.approx(expected)
    assert float(twenty["normdel"]) == pytest.approx(float(normdel(0.75, 0.2)))
    assert float(twenty["normdel_low"]) == pytest.approx(float(normdel(0.75 - half, 0.2)))
    assert float(twenty["normdel_high"]) == pytest.approx(float(normdel(0.75 + half, 0.2)))
    assert (twenty["published_miou"], twenty["published_normdel"]) == ("0.7637", "0.6514")
    assert (lines[2]["interval"], lines[2]["published_miou"]) == ("images", "")
    assert [lines[4][name] for name in ("ratio_nominal", "std", "low", "interval", "normdel")] == [""] * 5


def test_table_4_by_length() -> None:
    runs = [*RUNS, run("meddel-20", 0, 0.6, pretrain_epochs=25.0), run("meddel-20", 1, 0.6, pretrain_epochs=25.0)]
    expected = """\
| data set | method | ratio | 10 epochs | 25 epochs | 50 epochs | images | seeds |
| --- | --- | --- | --- | --- | --- | --- | --- |
| kvasir-seg | meddel | 20 % |  | 60.00 ± 0.00 [60.00, 60.00] | 75.00 ± 1.41 [62.29, 87.71] | 100 | 2 |
| kvasir-seg | random | 20 % |  |  | 70.00 [65.00, 74.00] | 100 | 1 |
| kvasir-seg | full | 100 % | 71.00 ± 1.41 [58.29, 83.71] |  |  | 100 | 2 |
"""
    assert tables.length_table(results.as_table(runs)).markdown == expected
    assert tables.ratio_table(results.as_table(runs), with_published=True).markdown == TABLE_3  # the longest
    with pytest.raises(ValueError, match=r"no final row has one of the ratios 0\.33"):
        tables.length_table(results.as_table(runs), [0.33])


def test_table_2() -> None:
    rows = [
        tables.DatasetRow("my|set", 10, 6, 2, 2),
        tables.DatasetRow("cvc-clinicdb", 612, 488, 62, 62, 0, "by sequence"),
        tables.DatasetRow("kvasir-seg", 1000, 798, 80, 120, 2, "official"),
    ]
    report = tables.datasets_table(rows)
    assert report.markdown == (
        "| data set | images | train | validation | test | left out | split |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| kvasir-seg | 1,000 | 798 | 80 | 120 | 2 | official |\n"
        "| cvc-clinicdb | 612 | 488 | 62 | 62 | 0 | by sequence |\n"
        "| my\\|set | 10 | 6 | 2 | 2 | 0 |  |\n"
    )
    assert report.csv.splitlines()[:2] == [
        "name,images,train,validation,test,left_out,split",
        "kvasir-seg,1000,798,80,120,2,official",
    ]


def test_subsets_of_one_method_and_ratio_are_told_apart() -> None:
    runs = [run("meddel-20", 0, 0.7), run("meddel-20k50", 0, 0.6), run("random-20", 0, 0.5)]
    lines = tables.ratio_table(results.as_table(runs)).markdown.splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["meddel (meddel-20)", "meddel (meddel-20k50)", "random"]
    assert [line.split(" | ")[2] for line in lines] == ["70.00 / 63.95", "60.00 / 62.04", "50.00 / 60.09"]


def test_intervals_over_images_and_seeds_where_images_are_kept() -> None:
    iou_SN = np.random.default_rng(0).uniform(0.4, 0.9, (3, 20))
    rows = [
        run("meddel-20", seed, iou_SN[seed].mean(), images=20, image_iou=iou_SN[seed].tolist()) for seed in range(3)
    ]
    few = Bootstrap(replicates=300, seed=4)
    cell = tables.cell_of(rows, few)
    expected = estimate_values(iou_SN, few)
    assert (cell.low, cell.high, cell.interval) == (expected.low, expected.high, "images and seeds")
    assert (cell.mean, cell.std, cell.seeds) == pytest.approx((expected.mean, expected.std, 3))
    assert tables.cell_of(rows[:1], few).interval == "images"
    assert tables.cell_of([*rows[:2], rows[2] | {"image_iou": None}], few).interval == "seeds"
    with pytest.raises(ValueError, match=r"meddel-20 on kvasir-seg: seeds tested on \[20, 21\] images"):
        tables.cell_of([rows[0], rows[1] | {"images": 21}])


def test_a_row_from_counts() -> None:
    prediction, truth = np.random.default_rng(0).random((2, 8, 5, 5)) < 0.5
    counts = iou.confusion_counts(prediction, truth)
    measured = results.measures_of(counts, seed=3)
    summary = iou.summarise(counts)
    assert {name: measured[name] for name in summary if name in measured} == {
        name: value for name, value in summary.items() if name in results.MEASURES
    }
    estimate = iou.estimate(counts, bootstrap=Bootstrap(seed=3))
    assert (measured["low"], measured["high"], measured["images"]) == (estimate.low, estimate.high, 8)
    assert np.mean(measured["image_iou"]) == pytest.approx(measured["miou"])
    assert set(measured) == {*results.MEASURES, "images", "image_iou", "image_counts"}
    np.testing.assert_array_equal(results.counts_of([measured, measured]), [counts, counts])
    assert results.as_table([run("full", 0, 0.0) | measured])["dice"].to_pylist() == [summary["dice"]]


def test_tables_and_results_survive_the_disk(tmp_path: Path) -> None:
    folder = RunDirectory(str(tmp_path))
    table = results.as_table([*RUNS, run("semdedup", 7, 0.5, images=2, image_iou=[0.25, 0.75])])
    folder.write_table("results.parquet", table)
    assert results.checked(folder.read_table("results.parquet")).equals(table)
    report = tables.length_table(table)
    markdown.write_table(report, folder, "table_4")
    assert (tmp_path / "table_4.md").read_text(encoding="utf-8") == report.markdown
    assert (tmp_path / "table_4.csv").read_text(encoding="utf-8") == report.csv


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([run("full", 0, 70.0)], "miou runs from 70 to 70; expected shares within 0 and 1, not percent"),
        ([run("full", 0, 0.7, ratio_actual=20.0)], "ratio_actual runs from 20 to 20"),
        ([run("full", 0, 0.7), run("full", 0, 0.6)], "1 runs have several epochs of one number"),
        ([run("full", 0, 0.7), run("full", 0, 0.6, epoch=10)], "1 runs have several final rows.*keep one"),
        ([run("full", 0, 0.7) | {"seed": None}], "no value in seed of some rows"),
        ([run("full", 0, 0.7, image_iou=[0.7])], "1 rows hold another number of image_iou than of images"),
    ],
)
def test_wrong_results_are_told(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.as_table(rows)


def test_results_without_a_column_or_a_final_row_are_told() -> None:
    table = results.as_table(RUNS)
    with pytest.raises(ValueError, match="lack the columns method, dice"):
        results.checked(table.drop_columns(["method", "dice"]))
    seeds = pa.array([str(seed) for seed in table["seed"].to_pylist()])
    with pytest.raises(ValueError, match="columns seed have another type"):
        results.checked(table.set_column(table.column_names.index("seed"), "seed", seeds))
    with pytest.raises(ValueError, match="none of 1 rows of results is final"):
        tables.ratio_table(results.as_table([run("full", 0, 0.7, final=False)]))
