"""How well predicted masks match the truth: counts, then mIoU by three definitions and other scores. It knows no model.

N images, H x W pixels, C classes (0 is the background, the others are lesions), S seeds, B replicates; the 4 counts
are true positive, false positive, false negative, true negative. Masks are counted and dropped: what stays is 32 bytes
per image and class.

Empty masks: a class that neither the truth nor the prediction of an image has is left out of that image's mean over
classes. Where that leaves no lesion class, `empty` decides: "one" (the default: predicting nothing was
right), "zero", or "skip" (the image is left out). Where only one of the two is empty every score is 0, so precision
is 0, not undefined, when a lesion is missed entirely. torchmetrics differs there, so it is not used: where both are
empty it gives 0 (precision, recall, F1) or NaN (mean_iou), and its counts by image fail on a single image. On other
masks it agrees, as the tests show.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from curation.options import require
from training.datasets.codings import IGNORED, UInt8, highest_class
from training.metrics.intervals import Bootstrap, Estimate, Statistic, mean_of, resampled

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Masks = npt.NDArray[Any] | torch.Tensor
Empty = Literal["one", "zero", "skip"]

EMPTY = {"one": 1.0, "zero": 0.0, "skip": np.nan}
METRICS = {  # name: score, over which counts, from which class on
    "miou": ("iou", "image", 1),
    "miou_dataset": ("iou", "dataset", 1),
    "miou_background": ("iou", "dataset", 0),
    "dice": ("dice", "image", 1),
    "dice_dataset": ("dice", "dataset", 1),
    "precision": ("precision", "image", 1),
    "precision_dataset": ("precision", "dataset", 1),
    "recall": ("recall", "image", 1),
    "recall_dataset": ("recall", "dataset", 1),
}


def confusion_counts(prediction_NHW: Masks, truth_NHW: Masks, classes: int = 2, *, ignored: int | None = None) -> Int64:
    """Return the four counts of each image and class, int64 [N, C, 4]; counted on the prediction's device.

    Pixels where the truth is `ignored` are in none of them. ValueError unless both are whole numbers or bool
    [N, H, W], alike in shape, with values 0 to classes - 1 (and `ignored` in the truth).
    """
    prediction, truth = as_masks(prediction_NHW, "prediction"), as_masks(truth_NHW, "truth")
    truth = truth.to(prediction.device)
    require(
        prediction.shape == truth.shape,
        f"prediction is {list(prediction.shape)}, truth {list(truth.shape)}; scale the prediction to the truth's size",
    )
    require(classes >= 2, f"classes is {classes}; it must be at least 2, background and one lesion class")
    counted = torch.ones_like(truth, dtype=torch.bool) if ignored is None else truth != ignored
    for name, mask in (("prediction", prediction), ("truth", truth[counted])):
        low, high = (int(mask.min()), int(mask.max())) if mask.numel() else (0, 0)
        require(
            low >= 0 and high < classes,
            f"{name} holds values {low} to {high}, expected 0 to {classes - 1}; threshold the mask, or set classes",
        )
    counts_C = []
    for number in range(classes):
        found, right = (prediction == number) & counted, (truth == number) & counted
        both, only_found, only_right = found & right, found & ~right, right & ~found
        three = torch.stack([one.sum(dim=(1, 2)) for one in (both, only_found, only_right)], dim=1)
        rest = counted.sum(dim=(1, 2))[:, None] - three.sum(dim=1, keepdim=True)
        counts_C.append(torch.cat([three, rest], dim=1))
    counts_NC4: Int64 = torch.stack(counts_C, dim=1).cpu().numpy().astype(np.int64)
    return counts_NC4


def as_masks(masks_NHW: Masks, name: str) -> torch.Tensor:
    """Return masks as a tensor of whole numbers [N, H, W]; ValueError where they are not."""
    if isinstance(masks_NHW, torch.Tensor):
        tensor = masks_NHW
    else:
        wide = masks_NHW.dtype.kind == "u" and masks_NHW.dtype.itemsize > 1  # torch does not compare these
        tensor = torch.as_tensor(np.require(masks_NHW, np.int64 if wide else None, "W"))
    require(tensor.ndim == 3, f"{name} has shape {list(tensor.shape)}, expected [images, height, width]")
    require(
        not (tensor.is_floating_point() or tensor.is_complex()),
        f"{name} holds {tensor.dtype}, expected bool or whole numbers; threshold it first",
    )
    return tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor


def scores(counts_X4: npt.NDArray[Any]) -> dict[str, Float64]:
    """Return iou, dice, precision and recall of counts [..., 4], each [...]; NaN where truth and prediction are empty.

    iou = tp / (tp + fp + fn), dice = 2 tp / (2 tp + fp + fn), precision = tp / (tp + fp), recall = tp / (tp + fn).
    """
    tp, fp, fn, _ = np.moveaxis(np.asarray(counts_X4, np.float64), -1, 0)
    union = np.asarray(tp + fp + fn)
    bottoms = {"iou": union, "dice": tp + union, "precision": tp + fp, "recall": tp + fn}
    result = {}
    for name, bottom in bottoms.items():
        top = 2 * tp if name == "dice" else tp
        other = np.where(union > 0, 0.0, np.nan)
        result[name] = np.divide(top, bottom, out=other, where=np.asarray(bottom) > 0)
    return result


def per_image(counts_NC4: npt.NDArray[Any], empty: Empty = "one") -> dict[str, Float64]:
    """Return iou, dice, precision and recall of each image, each [N]: the mean over its lesion classes."""
    return {name: class_mean(score_NC[..., 1:], empty) for name, score_NC in scores(counts_NC4).items()}


def class_mean(score_XC: Float64, empty: Empty) -> Float64:
    """Return the mean over the last axis of what is not NaN, and the value of `empty` where all of it is."""
    known = ~np.isnan(score_XC)
    number = known.sum(axis=-1)
    total = np.where(known, score_XC, 0.0).sum(axis=-1)
    mean: Float64 = np.divide(total, number, out=np.full(total.shape, EMPTY[empty]), where=number > 0)
    return mean


def summarise(counts_NC4: npt.NDArray[Any], empty: Empty = "one") -> dict[str, float]:
    """Return every metric of a test set by name.

    miou: mean over images of the lesion's IoU (several lesion classes: their mean in each image).
    miou_dataset: IoU of the lesion with the counts of all images summed first (mean over lesion classes).
    miou_background: the same sums, mean over all classes with the background.
    dice, precision, recall: mean over images; with _dataset: of the summed counts.
    """
    counts_SNC4 = np.asarray(counts_NC4)[None]
    check_counts(counts_SNC4)
    weights_BN = np.ones((1, counts_SNC4.shape[1]))
    return {name: float(statistic(counts_SNC4, name, empty)(weights_BN)[0, 0]) for name in METRICS}


def check_counts(counts_SNC4: npt.NDArray[Any]) -> None:
    """ValueError unless counts are [S, N, C, 4] with at least one seed and one image."""
    require(
        counts_SNC4.ndim == 4 and counts_SNC4.shape[-1] == 4 and min(counts_SNC4.shape[:2]) >= 1,
        f"counts have shape {list(counts_SNC4.shape)}, expected [seeds, images, classes, 4] with at least one image",
    )


def statistic(counts_SNC4: npt.NDArray[Any], metric: str, empty: Empty) -> Statistic:
    """Return the function from weights of images [B, N] to a metric of each seed [B, S]."""
    require(metric in METRICS, f"there is no metric {metric!r}; expected one of {', '.join(METRICS)}")
    score, level, first = METRICS[metric]
    if level == "image":
        return mean_of(per_image(counts_SNC4, empty)[score])

    def over_the_set(weights_BN: Float64) -> Float64:
        totals_BSC4 = np.tensordot(weights_BN, counts_SNC4.astype(np.float64), (1, 1))
        return class_mean(scores(totals_BSC4)[score][..., first:], empty)

    return over_the_set


def estimate(
    counts_SNC4: npt.NDArray[Any], metric: str = "miou", empty: Empty = "one", bootstrap: Bootstrap | None = None
) -> Estimate:
    """Return a metric over seeds on one test set, with its bootstrap interval; [N, C, 4] is one seed.

    Seeds are drawn with replacement, and images too; one draw of images serves every seed, since all are tested on
    the same ones (drawing again for each seed would average away what the images contribute). With one seed only
    images vary. Few seeds make the interval too narrow by up to a factor sqrt(S / (S - 1)), and so do frames of one
    sequence, which are not independent. ValueError: no image, or an unknown metric.
    """
    counts_SNC4 = np.asarray(counts_SNC4)
    counts_SNC4 = counts_SNC4[None] if counts_SNC4.ndim == 3 else counts_SNC4
    check_counts(counts_SNC4)
    return resampled(statistic(counts_SNC4, metric, empty), counts_SNC4.shape[:2], bootstrap or Bootstrap())


def image_ious(found: UInt8, truth: UInt8) -> npt.NDArray[np.float64]:
    """Return the IoU of each image [N]: its mean over the classes found or true there; 1 where there are none.

    Pixels where the truth is IGNORED do not count.
    """
    classes = max(int(found.max(initial=1)), highest_class(truth), 1) + 1
    return per_image(confusion_counts(found, truth, classes, ignored=IGNORED))["iou"]
