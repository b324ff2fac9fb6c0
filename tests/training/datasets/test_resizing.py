"""Masks of another size: each pixel is the majority of what it stands for, and open ones take no part."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.datasets import masks
from training.datasets.masks import resize_mask


@given(st.integers(0, 2**32 - 1))
def test_masks_shrink_by_area(seed: int) -> None:
    """Each pixel of the small mask is the majority of its 4 x 4; half and half counts as foreground."""
    mask = np.random.default_rng(seed).integers(0, 2, (16, 24), np.uint8)
    shares = mask.reshape(4, 4, 6, 4).mean(axis=(1, 3))
    assert np.array_equal(masks.resize_mask(mask, (6, 4)), (shares >= 0.5).astype(np.uint8))


def test_a_mask_grows_without_new_shapes() -> None:
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    assert np.array_equal(masks.resize_mask(mask, (6, 4)), mask.repeat(2, axis=0).repeat(3, axis=1))


def test_open_pixels_shrink_by_area() -> None:
    mask = np.array([[1, 255, 255, 255], [1, 0, 0, 255], [1, 1, 1, 255], [255, 0, 0, 0]], np.uint8)
    # three quarters of what is told is foreground; three of four open; two of three told; one of three told
    assert resize_mask(mask, (2, 2)).tolist() == [[1, 255], [1, 0]]
