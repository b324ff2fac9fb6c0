"""Intervals cover what they say; the paired test finds what was planted and nothing else."""

import math

import numpy as np
import pytest

from training.metrics import intervals
from training.metrics.intervals import Bootstrap, estimate_values, paired_comparison

FEW = Bootstrap(replicates=400)


def test_the_interval_covers_a_known_mean() -> None:
    generator = np.random.default_rng(0)
    found = [estimate_values(generator.exponential(1, 60), FEW) for _ in range(300)]
    covered = np.mean([one.low <= 1 <= one.high for one in found])
    assert 0.88 <= covered <= 0.98  # skewed values and 60 of them: a little below 0.95
    width = np.mean([one.high - one.low for one in found])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(60), rel=0.08)


def test_the_interval_over_seeds_and_images_covers_where_that_over_images_does_not() -> None:
    generator = np.random.default_rng(1)
    both, images_only, widths = [], [], []
    for _ in range(300):
        seed_S1, image_N = generator.normal(0, 0.2, (10, 1)), generator.normal(0, 1, 80)
        values_SN = 0.5 + seed_S1 + image_N + generator.normal(0, 0.1, (10, 80))
        one, flat = estimate_values(values_SN, FEW), estimate_values(values_SN[0], FEW)
        both.append(one.low <= 0.5 <= one.high)
        images_only.append(flat.low <= 0.5 <= flat.high)
        widths.append(one.high - one.low)
    assert 0.89 <= np.mean(both) <= 0.98
    assert np.mean(images_only) < 0.85
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.2**2 / 10 + 1 / 80), rel=0.08)


def test_degenerate_values() -> None:
    constant = estimate_values(np.full((2, 5), 0.25))
    assert (constant.mean, constant.std, constant.low, constant.high) == (0.25, 0, 0.25, 0.25)
    missing = estimate_values([np.nan, 0.5, 0.5])
    assert (missing.mean, missing.low, missing.high, missing.images) == (0.5, 0.5, 0.5, 3)
    nothing = estimate_values([np.nan, np.nan])
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.low)
    with pytest.raises(ValueError, match=r"shape \[1, 0\], expected \[seeds, images\] with at least one image"):
        estimate_values([])
    with pytest.raises(ValueError, match="replicates is 0"):
        Bootstrap(replicates=0)
    with pytest.raises(ValueError, match=r"level is 95; it must lie between 0 and 1, as 0.95"):
        Bootstrap(level=95)


def test_draws_hold_every_image_and_replicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "BLOCK_VALUES", 30)  # blocks of 6 replicates
    blocks = list(intervals.bootstrap_draws(Bootstrap(replicates=20), 5, (3, 1)))
    assert [len(images) for images, _ in blocks] == [6, 6, 6, 2]
    weights_BN = np.concatenate([images for images, _ in blocks])
    assert (weights_BN.sum(axis=1) == 5).all()
    assert len(np.unique(weights_BN, axis=0)) > 10
    for _, (three, one) in blocks:
        np.testing.assert_allclose(three.sum(axis=1), 1)
        assert (one == 1).all()


def test_the_paired_test_by_hand() -> None:
    """Three equal differences: 2 of the 8 ways to sign them are as far from 0."""
    found = paired_comparison([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert found.p_value == pytest.approx(0.25)
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    same = paired_comparison([0.5, 0.7, 0.9], [0.5, 0.7, 0.9])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    half = paired_comparison([0.5, np.nan, 0.9, 0.1], [0.25, 0.6, np.nan, 0.6])
    assert (half.images, half.difference) == (2, pytest.approx(-0.125))
    with pytest.raises(ValueError, match="the first has 2 images, the second 3; test both on the same ones"):
        paired_comparison([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="no image has a value for both encoders"):
        paired_comparison([0.1, np.nan], [np.nan, 0.2])


def test_a_planted_difference_is_found_because_images_are_paired() -> None:
    generator = np.random.default_rng(2)
    hard_N = generator.uniform(0.2, 0.9, 80)  # images differ far more than encoders do
    first = hard_N + 0.03 + generator.normal(0, 0.05, (3, 80))
    second = hard_N + generator.normal(0, 0.05, (2, 80))
    found = paired_comparison(first, second)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert 0 < found.low < found.difference < found.high < 0.06
    assert found.p_value < 0.001
    assert found == paired_comparison(first, second)
    turned = paired_comparison(second, first)
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p_value < 0.001
    apart = paired_comparison(first, generator.permutation(second, axis=1))
    assert apart.high - apart.low > 3 * (found.high - found.low)


def test_no_difference_is_seldom_found() -> None:
    generator = np.random.default_rng(3)
    found = [paired_comparison(*generator.normal(0.6, 0.1, (2, 1, 30)), FEW) for _ in range(60)]
    assert np.mean([one.p_value < 0.05 for one in found]) <= 0.12
    assert 0.3 < np.mean([one.p_value for one in found]) < 0.7
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.85
