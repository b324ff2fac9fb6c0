"""Pictures of predictions: the outlines of truth and prediction on an image, side by side. It knows no model.

Legend: N images of H x W pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from curation.options import require
from training.datasets.codings import IGNORED

UInt8 = npt.NDArray[np.uint8]
Order = npt.NDArray[np.int64]

TRUTH_COLOUR, PREDICTION_COLOUR = (0, 220, 90), (60, 160, 255)  # green and blue: endoscopy is red
BAR = 16  # pixels for the text above an image
SHEET_GAP = 4


def outline(mask_HW: UInt8, width: int = 2) -> npt.NDArray[np.bool_]:
    """Return the border of a mask's regions, bool [H, W]: their pixels within `width` of a pixel of another class.

    Distance is counted along rows and columns. Beyond the image's edge is background, so an outline is
    always closed; it never covers a pixel outside its region.
    """
    height, wide = mask_HW.shape
    inner = mask_HW > 0
    for step in range(1, width + 1):
        padded = np.pad(mask_HW, step)
        for down, right in ((-step, 0), (step, 0), (0, -step), (0, step)):
            moved = padded[step + down : step + down + height, step + right : step + right + wide]
            inner = inner & (moved == mask_HW)
    return (mask_HW > 0) & ~inner


def outlined(image_HW3: UInt8, truth_HW: UInt8, found_HW: UInt8, text: str) -> UInt8:
    """Return the image with the truth's outline and, to its right, with the prediction's: uint8 [H + 16, 2 W + 4, 3].

    Green is the truth, blue the prediction; `text` is written above. ValueError where the sizes differ.
    """
    require(
        image_HW3.shape[:2] == truth_HW.shape == found_HW.shape,
        f"image {image_HW3.shape[:2]}, truth {truth_HW.shape} and prediction {found_HW.shape} differ in size; "
        "scale them alike",
    )
    height, width = truth_HW.shape
    sheet = np.zeros((height + BAR, 2 * width + SHEET_GAP, 3), np.uint8)
    thick = max(1, min(height, width) // 150)
    for left, mask, colour in ((0, truth_HW, TRUTH_COLOUR), (width + SHEET_GAP, found_HW, PREDICTION_COLOUR)):
        panel = image_HW3.copy()
        lesion = np.where(mask == IGNORED, 0, mask)  # what is ignored is not outlined
        panel[outline(lesion, thick)] = colour
        sheet[BAR:, left : left + width] = panel
    picture = Image.fromarray(sheet)
    ImageDraw.Draw(picture).text((2, 2), text, fill=(255, 255, 255))
    return np.array(picture)


def best_and_worst(iou_N: npt.NDArray[np.floating], count: int) -> tuple[Order, Order]:
    """Return the images of the highest IoU, best first, and of the lowest, worst first; ties in order.

    Where there are fewer than 2 * count images, none is in both: the best include the odd one.
    """
    require(count >= 1 and len(iou_N) >= 1, f"{count} of {len(iou_N)} images requested; both must be at least 1")
    best = np.argsort(-np.asarray(iou_N), kind="stable")
    worst = np.argsort(np.asarray(iou_N), kind="stable")
    high = best[: min(count, (len(best) + 1) // 2)]
    low = worst[~np.isin(worst, high)][:count]
    return high, low


def outline_sheet(
    images: UInt8,
    truth: UInt8,
    found: UInt8,
    iou_N: npt.NDArray[np.floating],
    count: int = 3,
    names: Sequence[str] | None = None,
) -> bytes:
    """Return a PNG: the `count` best images by IoU, and next to them the worst, each as `outlined`.

    images uint8 [N, H, W, 3], truth and found uint8 [N, H, W]; names are written next to the IoU (default: indices).
    """
    sizes = {len(images), len(truth), len(found), len(iou_N), len(iou_N if names is None else names)}
    require(len(sizes) == 1, f"images, masks, IoUs and names are {sorted(sizes)} in number; pass one of each per image")

    def column(kind: str, places: Order) -> list[UInt8]:
        shown = [str(place) if names is None else names[place] for place in places]
        texts = [f"{kind} IoU {iou_N[place]:.3f}  {name}" for place, name in zip(places, shown, strict=True)]
        return [outlined(images[p], truth[p], found[p], text) for p, text in zip(places, texts, strict=True)]

    high, low = best_and_worst(iou_N, count)
    columns = [column("best", high), column("worst", low)]
    tall, wide, _ = columns[0][0].shape
    sheet = np.zeros((len(high) * (tall + SHEET_GAP) - SHEET_GAP, 2 * wide + 3 * SHEET_GAP, 3), np.uint8)
    for left, pictures in zip((0, wide + 3 * SHEET_GAP), columns, strict=True):
        for row, picture in enumerate(pictures):
            sheet[row * (tall + SHEET_GAP) :, left:][:tall, :wide] = picture
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, format="PNG")
    return sink.getvalue()
