"""Outlines counted by hand, the image untouched elsewhere, and the right images on the sheet."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.segmentation import outlines


def test_the_outline_of_a_square_is_its_rim() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    rim, thick = mask > 0, mask > 0
    rim[3:6, 3:6] = False
    thick[4, 4] = False
    assert (outlines.outline(mask, 1) == rim).all()
    assert (outlines.outline(mask, 2) == thick).all()


def test_classes_that_touch_are_divided_and_the_edge_closes() -> None:
    mask = np.ones((4, 6), np.uint8)
    mask[:, 3:] = 2
    found = outlines.outline(mask, 1)
    assert found[:, [0, 2, 3, 5]].all()
    assert not found[1:3, [1, 4]].any()
    assert not outlines.outline(mask * 0).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_outlines_are_those_of_brute_force(seed: int, width: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 3, (4, 4), dtype=np.uint8).repeat(3, axis=0).repeat(3, axis=1)

    def value(row: int, column: int) -> int:
        return int(mask[row, column]) if 0 <= row < 12 and 0 <= column < 12 else 0

    for row in range(12):
        for column in range(12):
            here = value(row, column)
            near = [value(row + s, column) for s in range(-width, width + 1)]
            near += [value(row, column + s) for s in range(-width, width + 1)]
            assert outlines.outline(mask, width)[row, column] == (here > 0 and any(each != here for each in near))


def test_outlined_draws_truth_left_and_prediction_right() -> None:
    image = np.full((40, 40, 3), 7, np.uint8)
    truth, found = np.zeros((2, 40, 40), np.uint8)
    truth[5:15, 5:15], found[20:30, 20:30] = 1, 1
    sheet = outlines.outlined(image, truth, found, "IoU 0.000")
    left, right = sheet[outlines.BAR :, :40], sheet[outlines.BAR :, 40 + outlines.SHEET_GAP :]
    for panel, mask, colour in ((left, truth, outlines.TRUTH_COLOUR), (right, found, outlines.PREDICTION_COLOUR)):
        drawn = (panel == colour).all(axis=2)
        assert (drawn == outlines.outline(mask, 1)).all()
        assert (panel[~drawn] == 7).all()
    assert sheet[: outlines.BAR].any()
    assert (image == 7).all()
    with pytest.raises(ValueError, match="differ in size"):
        outlines.outlined(image, truth[:20], found, "")


def test_best_and_worst_are_in_order_and_share_none() -> None:
    def chosen(ious: list[float], count: int) -> list[list[int]]:
        return [each.tolist() for each in outlines.best_and_worst(np.array(ious), count)]

    assert chosen([0.5, 0.9, 0.1, 0.9, 0.3], 2) == [[1, 3], [2, 4]]
    assert chosen([0.5, 0.9, 0.1], 5) == [[1, 0], [2]]
    assert chosen([0.5], 1) == [[0], []]
    assert chosen([0.5, 0.5, 0.5, 0.5], 2) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="both must be at least 1"):
        chosen([], 1)


@pytest.mark.parametrize("count", [1, 5])
def test_the_sheet_is_a_png_of_the_right_images(count: int) -> None:
    images = np.stack([np.full((30, 30, 3), 10 * place, np.uint8) for place in range(1, 4)])
    masks = np.zeros((3, 30, 30), np.uint8)
    png = outlines.outline_sheet(images, masks, masks, np.array([0.2, 0.8, 0.5]), count, ["one", "two", "three"])
    assert png == outlines.outline_sheet(
        images, masks, masks, np.array([0.2, 0.8, 0.5]), count, ["one", "two", "three"]
    )
    sheet = np.array(Image.open(io.BytesIO(png)))
    middle, right = outlines.BAR + 15, 60 + 4 * outlines.SHEET_GAP + 15
    assert (sheet[middle, 15] == 20).all()  # the best is the second
    assert (sheet[middle, right] == 10).all()  # the worst the first
    if count == 5:
        assert (sheet[middle + 30 + outlines.BAR + outlines.SHEET_GAP, 15] == 30).all()
        assert (sheet[middle + 30 + outlines.BAR + outlines.SHEET_GAP, right] == 0).all()
    with pytest.raises(ValueError, match="pass one of each per image"):
        outlines.outline_sheet(images, masks, masks[1:], np.array([0.2, 0.8, 0.5]), count)
