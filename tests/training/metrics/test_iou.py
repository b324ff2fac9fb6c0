"""Counts and scores against a slow reference in plain Python; intervals and paired tests on what is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchmetrics.functional.classification import binary_f1_score, binary_precision, binary_recall, binary_stat_scores
from torchmetrics.functional.segmentation import mean_iou

from training.metrics import intervals, iou

EMPTY, FULL = np.zeros((3, 4), bool), np.ones((3, 4), bool)
PIXEL = np.eye(3, 4, dtype=bool) & (np.arange(4) == 1)
LEFT = np.arange(4) < np.full((3, 1), 2)


def reference_counts(prediction: np.ndarray, truth: np.ndarray, number: int) -> list[int]:
    tally = dict.fromkeys([(True, True), (True, False), (False, True), (False, False)], 0)
    for found, right in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        tally[found == number, right == number] += 1
    return list(tally.values())


def reference_score(counts: list[int], score: str) -> float | None:
    tp, fp, fn, _ = counts
    if tp + fp + fn == 0:
        return None
    bottom = {"iou": tp + fp + fn, "dice": tp + (fp + fn) / 2, "precision": tp + fp, "recall": tp + fn}[score]
    return tp / bottom if bottom else 0.0


def reference_mean(values: list[float | None], empty: float) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else empty


def reference(prediction: np.ndarray, truth: np.ndarray, classes: int, empty: float) -> dict[str, float]:
    pairs = list(zip(prediction, truth, strict=True))
    counts = [[reference_counts(p, t, number) for number in range(classes)] for p, t in pairs]
    sums = [[sum(image[number][k] for image in counts) for k in range(4)] for number in range(classes)]
    result = {}
    for score, name in (("iou", "miou"), ("dice", "dice"), ("precision", "precision"), ("recall", "recall")):
        images = [reference_mean([reference_score(c, score) for c in image[1:]], empty) for image in counts]
        kept = [value for value in images if not math.isnan(value)]
        result[name] = sum(kept) / len(kept) if kept else math.nan
        result[f"{name}_dataset"] = reference_mean([reference_score(c, score) for c in sums[1:]], empty)
    result["miou_background"] = reference_mean([reference_score(c, "iou") for c in sums], empty)
    return result


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    classes = draw(st.integers(2, 4))
    shape = draw(arrays.array_shapes(min_dims=3, max_dims=3, max_side=5))
    top = st.integers(0, draw(st.integers(0, classes - 1)))  # often classes that are nowhere
    prediction, truth = (draw(arrays.arrays(np.uint8, shape, elements=top)) for _ in range(2))
    return prediction, truth, classes


@given(masks(), st.sampled_from(["one", "zero", "skip"]))
@example((np.stack([EMPTY, FULL, PIXEL, LEFT]), np.stack([EMPTY, FULL, PIXEL, LEFT]), 2), "one")
@example((np.stack([EMPTY, FULL, PIXEL, EMPTY]), np.stack([FULL, EMPTY, EMPTY, PIXEL]), 2), "one")
@example((np.stack([EMPTY, EMPTY]), np.stack([EMPTY, EMPTY]), 2), "skip")
@example((np.stack([PIXEL * 3, LEFT * 2]), np.stack([LEFT * 3, LEFT * 1]), 4), "skip")
def test_metrics_are_the_references(given_masks: tuple[np.ndarray, np.ndarray, int], empty: Any) -> None:
    prediction, truth, classes = given_masks
    counts = iou.confusion_counts(prediction, truth, classes)
    assert counts.dtype == np.int64
    for image, (p, t) in enumerate(zip(prediction, truth, strict=True)):
        for number in range(classes):
            assert counts[image, number].tolist() == reference_counts(p, t, number)
    found = iou.summarise(counts, empty)
    assert found == pytest.approx(reference(prediction, truth, classes, iou.EMPTY[empty]), nan_ok=True)
    assert set(found) == set(iou.METRICS)


def test_degenerate_masks_by_hand() -> None:
    """Of 12 pixels: nothing and nothing, a miss, a false alarm, one pixel of six, all."""
    prediction, truth = np.stack([EMPTY, EMPTY, PIXEL, PIXEL, FULL]), np.stack([EMPTY, LEFT, EMPTY, LEFT, FULL])
    counts = iou.confusion_counts(prediction, truth)
    assert counts[:, 1].tolist() == [[0, 0, 0, 12], [0, 0, 6, 6], [0, 1, 0, 11], [1, 0, 5, 6], [12, 0, 0, 0]]
    assert counts[:, 0].tolist() == [[12, 0, 0, 0], [6, 6, 0, 0], [11, 0, 1, 0], [6, 5, 0, 1], [0, 0, 0, 12]]
    found = iou.per_image(counts)
    assert found["iou"].tolist() == [1, 0, 0, 1 / 6, 1]
    assert found["dice"].tolist() == [1, 0, 0, 2 / 7, 1]
    assert found["precision"].tolist() == [1, 0, 0, 1, 1]
    assert found["recall"].tolist() == [1, 0, 0, 1 / 6, 1]
    assert np.isnan(iou.per_image(counts, "skip")["iou"]).tolist() == [True, False, False, False, False]
    summary = iou.summarise(counts)
    assert summary["miou"] == pytest.approx((2 + 1 / 6) / 5)
    assert summary["miou_dataset"] == pytest.approx(13 / 25)
    assert summary["miou_background"] == pytest.approx((13 / 25 + 35 / 47) / 2)
    assert iou.summarise(counts, "zero")["miou"] == pytest.approx((1 + 1 / 6) / 5)
    assert iou.summarise(counts, "skip")["miou"] == pytest.approx((1 + 1 / 6) / 4)


def test_torchmetrics_agrees_where_no_mask_is_empty() -> None:
    generator = np.random.default_rng(1)
    prediction, truth = generator.random((2, 6, 9, 7)) < 0.4
    counts = iou.confusion_counts(prediction, truth)
    found = iou.per_image(counts)
    p, t = (torch.from_numpy(mask.astype(np.int64)) for mask in (prediction, truth))
    by_image = binary_stat_scores(p, t, multidim_average="samplewise").numpy()[:, [0, 1, 3, 2]]
    np.testing.assert_array_equal(counts[:, 1], by_image)
    for name, score in (("precision", binary_precision), ("recall", binary_recall), ("dice", binary_f1_score)):
        np.testing.assert_allclose(found[name], score(p, t, multidim_average="samplewise").numpy(), rtol=1e-6)
    np.testing.assert_allclose(found["iou"], mean_iou(p[:, None], t[:, None], num_classes=1).numpy(), rtol=1e-6)


def test_kinds_of_masks_count_alike() -> None:
    prediction, truth = np.stack([LEFT, PIXEL]), np.stack([PIXEL, FULL])
    prediction.flags.writeable = False
    expected = iou.confusion_counts(prediction, truth)
    for kind in (np.uint8, np.uint16, np.int64):
        np.testing.assert_array_equal(iou.confusion_counts(prediction.astype(kind), truth), expected)
    tensors = torch.from_numpy(prediction.copy()), torch.from_numpy(truth)
    np.testing.assert_array_equal(iou.confusion_counts(*tensors), expected)
    np.testing.assert_array_equal(iou.confusion_counts(prediction[:1], truth[:1]), expected[:1])


def test_wrong_masks_are_told() -> None:
    mask = np.stack([LEFT])
    with pytest.raises(ValueError, match=r"prediction is \[1, 3, 4\], truth \[1, 4, 3\]"):
        iou.confusion_counts(mask, mask.swapaxes(1, 2))
    with pytest.raises(ValueError, match=r"has shape \[3, 4\], expected \[images, height, width\]"):
        iou.confusion_counts(LEFT, LEFT)
    with pytest.raises(ValueError, match=r"prediction holds torch\.float64, expected bool or whole numbers"):
        iou.confusion_counts(mask * 0.5, mask)
    with pytest.raises(ValueError, match="truth holds values 0 to 255, expected 0 to 1; threshold"):
        iou.confusion_counts(mask, mask.astype(np.uint8) * 255)
    with pytest.raises(ValueError, match="classes is 1; it must be at least 2"):
        iou.confusion_counts(mask & False, mask & False, 1)
    with pytest.raises(ValueError, match="with at least one image"):
        iou.summarise(iou.confusion_counts(mask[:0], mask[:0]))
    with pytest.raises(ValueError, match="there is no metric 'iou'; expected one of miou, miou_dataset"):
        iou.estimate(iou.confusion_counts(mask, mask), "iou")


def drawn_counts(seeds: int, images: int) -> np.ndarray:
    generator = np.random.default_rng(5)
    pairs = generator.integers(0, 3, (seeds, 2, images, 6, 6))
    return np.stack([iou.confusion_counts(prediction, truth, 3) for prediction, truth in pairs])


@pytest.mark.parametrize("metric", iou.METRICS)
def test_a_replicate_is_the_metric_of_the_drawn_images(metric: str) -> None:
    counts_SNC4 = drawn_counts(2, 7)
    drawn = np.array([0, 3, 3, 3, 5, 6, 6])
    weights = np.bincount(drawn, minlength=7).astype(np.float64)[None]
    expected = [iou.summarise(counts[drawn])[metric] for counts in counts_SNC4]
    found = iou.statistic(counts_SNC4, metric, "one")(weights)
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


def test_an_estimate_is_mean_deviation_and_seeded_interval() -> None:
    counts_SNC4 = drawn_counts(3, 9)
    each = [iou.summarise(counts)["miou"] for counts in counts_SNC4]
    found = iou.estimate(counts_SNC4)
    assert (found.seeds, found.images) == (3, 9)
    assert found.mean == pytest.approx(np.mean(each))
    assert found.std == pytest.approx(math.sqrt(sum((value - np.mean(each)) ** 2 for value in each) / 2))
    assert found.low < found.mean < found.high
    assert found == iou.estimate(counts_SNC4)
    other = iou.estimate(counts_SNC4, bootstrap=intervals.Bootstrap(seed=1))
    assert (other.mean, other.std) == (found.mean, found.std)
    assert (other.low, other.high) != (found.low, found.high)
    values_SN = [iou.per_image(counts)["iou"] for counts in counts_SNC4]
    by_value = intervals.estimate_values(values_SN)
    assert (by_value.low, by_value.high) == pytest.approx((found.low, found.high))
    alone = iou.estimate(counts_SNC4[0])
    assert alone.seeds == 1
    assert math.isnan(alone.std)
    narrow = iou.estimate(counts_SNC4, bootstrap=intervals.Bootstrap(level=0.5))
    assert found.low < narrow.low < narrow.high < found.high
