"""NormDEL: the paper's 48 cells, its slopes, and what the command prints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics.normdel import (
    NOMINAL_RATIOS,
    NormdelConfig,
    del_,
    nominal_ratio,
    normdel,
    normdel_command,
    normdel_range,
    sensitivity,
    subset_ratio,
)
from training.reporting import published


def test_the_papers_48_cells() -> None:
    miou = np.array(list(published.MIOU.values()))
    printed = np.array(list(published.NORMDEL.values()))
    assert miou.shape == printed.shape == (8, 6)
    assert list(published.MIOU) == list(published.NORMDEL)
    assert (miou.sum().round(2), printed.sum().round(2)) == (3_269.20, 2_979.78)  # no cell is misspelt
    assert published.RATIOS == NOMINAL_RATIOS
    worst = np.abs(100 * normdel(miou / 100, published.RATIOS) - printed).max()
    assert worst <= 0.0062
    for wrong in (0.30, 1 / 3, 0.3212):  # the 33 % subset is at 0.33 exactly
        ratios = np.where(np.array(published.RATIOS) == 0.33, wrong, published.RATIOS)
        assert np.abs(100 * normdel(miou / 100, ratios) - printed).max() > 0.02
    assert np.abs(100 * normdel(miou / 100, published.RATIOS, alpha=1.01) - printed).max() > 0.05


def test_the_papers_sizes_belong_together() -> None:
    assert [nominal_ratio(images / 88_282) for images in published.PUBLISHED_IMAGES] == list(published.RATIOS)
    assert [round(200 / ratio) for ratio in published.RATIOS if ratio != 0.33] == [4000, 2000, 1000, 400, 200]
    assert len(published.PRETRAIN_EPOCHS) == len(published.D) == 6
    assert published.published("Kvasir-SEG", 0.2) == (76.37, 65.14)
    assert published.published("etis-laribpolypdb", 1.0) == (49.13, 54.51)
    assert published.published("kvasir-seg", 0.3) is None
    assert published.published("endotect", 0.2) is None


def test_by_hand() -> None:
    assert float(del_(0.5, 1.0)) == pytest.approx(0.5 / math.e)
    assert float(normdel(0.0, 0.3)) == 0.5
    assert float(normdel(1.0, 0.5, alpha=0)) == pytest.approx(math.e / (1 + math.e))
    assert float(del_(0.8, 0.25, alpha=4)) == pytest.approx(0.8 / math.e)
    grid = normdel([[0.2], [0.4]], [0.1, 0.5, 1.0])
    assert grid.shape == (2, 3)
    assert float(grid[1, 2]) == pytest.approx(1 / (1 + math.exp(-0.4 * math.exp(-1))))


def test_range() -> None:
    assert normdel_range() == (0.5, pytest.approx(0.7310585786))
    assert normdel_range(1.0) == (0.5, pytest.approx(1 / (1 + math.exp(-math.exp(-1)))))
    assert normdel_range(0.2, alpha=3)[1] == float(normdel(1.0, 0.2, 3))


SHARES, RATIOS = st.floats(0.01, 0.99), st.floats(0.01, 0.99)


@given(SHARES, RATIOS, st.floats(0, 5))
def test_slopes_are_those_of_small_steps(miou: float, ratio: float, alpha: float) -> None:
    step = 1e-5
    slope = sensitivity(miou, ratio, alpha)
    by_miou = (normdel(miou + step, ratio, alpha) - normdel(miou - step, ratio, alpha)) / (2 * step)
    by_ratio = (normdel(miou, ratio + step, alpha) - normdel(miou, ratio - step, alpha)) / (2 * step)
    assert float(slope.miou) == pytest.approx(float(by_miou), abs=1e-8)
    assert float(slope.ratio) == pytest.approx(float(by_ratio), abs=1e-8)
    assert float(slope.miou) <= 0.25
    assert float(slope.ratio) <= 0


@given(SHARES, SHARES, RATIOS, RATIOS)
def test_more_miou_or_less_data_is_never_worse(miou: float, other: float, ratio: float, less: float) -> None:
    assert normdel(max(miou, other), min(ratio, less)) >= normdel(miou, ratio)
    assert normdel(miou, ratio) <= normdel_range(ratio)[1] <= normdel_range()[1]


@pytest.mark.parametrize(
    ("miou", "ratio", "alpha", "message"),
    [
        (76.4, 0.2, 1, r"mIoU is 76.4; it must lie within 0 and 1 \(a share, not percent\)"),
        (math.nan, 0.2, 1, "mIoU is nan"),
        ([0.5, -0.1], 0.2, 1, r"mIoU is -0.1"),
        (0.5, 0, 1, r"ratio is 0; it must be above 0 and up to 1"),
        (0.5, [0.2, 20], 1, r"ratio is 20"),
        (0.5, 0.2, -1, "alpha is -1; it must be 0 or more"),
    ],
)
def test_what_is_no_share_is_refused(miou: float, ratio: float, alpha: float, message: str) -> None:
    for function in (del_, normdel, sensitivity):
        with pytest.raises(ValueError, match=message):
            function(miou, ratio, alpha)


def test_nominal_ratios() -> None:
    near = {0.046: 0.05, 0.0505: 0.05, 0.1026: 0.1, 0.1902: 0.2, 0.3212: 0.33, 0.4926: 0.5, 0.94: 1, 1: 1}
    assert {actual: nominal_ratio(actual) for actual in near} == near
    far = {0.00001: 0.0001, 0.02: 0.02, 0.0752: 0.0752, 0.266671: 0.2667, 0.4: 0.4, 0.8: 0.8}
    assert {actual: nominal_ratio(actual) for actual in far} == far
    with pytest.raises(ValueError, match="ratio is"):
        nominal_ratio(0)


def write_subset(folder: Path, content: object) -> str:
    (folder / "subset.json").write_text(json.dumps(content))
    return str(folder)


def test_the_ratio_of_a_subset(tmp_path: Path) -> None:
    subset = write_subset(tmp_path, {"name": "a", "ratio": 0.1902})
    assert subset_ratio(subset) == 0.2
    assert subset_ratio(subset, "actual") == 0.1902
    for wrong in ({"name": "a"}, {"ratio": "0.2"}, {"ratio": 0}, {"ratio": True}, []):
        with pytest.raises(ValueError, match="expected a share above 0 and up to 1; select it again"):
            subset_ratio(write_subset(tmp_path, wrong))
    with pytest.raises(ValueError, match=r"has no subset\.json; name a subset's folder"):
        subset_ratio(str(tmp_path / "nowhere"))


def test_the_command_prints_value_interval_and_slopes(tmp_path: Path) -> None:
    assert normdel_command(NormdelConfig(miou=0.7637, ratio=0.2)).splitlines() == [
        "mIoU      0.7637",
        "ratio     0.2000  (as given)",
        "alpha     1",
        "DEL       0.6253",
        "NormDEL   0.6514",
        "range     0.5000 to 0.6940 at this ratio",
        "0.01 of mIoU moves NormDEL by +0.0019, 0.01 of the ratio by -0.0014",
    ]
    subset = write_subset(tmp_path, {"ratio": 0.1902})
    text = normdel_command(NormdelConfig(miou=0.7637, subset=subset, low=0.75, high=0.78))
    assert "mIoU      0.7637  [0.7500, 0.7800]" in text
    assert "ratio     0.2000  (nominal; actual 0.1902)" in text
    assert f"NormDEL   0.6514  [{float(normdel(0.75, 0.2)):.4f}, {float(normdel(0.78, 0.2)):.4f}]" in text
    actual = normdel_command(NormdelConfig(miou=0.7637, subset=subset, reading="actual", alpha=2))
    assert "ratio     0.1902  (actual)" in actual
    assert f"NormDEL   {float(normdel(0.7637, 0.1902, 2)):.4f}" in actual


def test_a_wrong_command_is_refused() -> None:
    with pytest.raises(ValueError, match="give one of ratio and subset; found none"):
        NormdelConfig(miou=0.5)
    with pytest.raises(ValueError, match="found ratio and subset"):
        NormdelConfig(miou=0.5, ratio=0.2, subset="a")
    with pytest.raises(ValueError, match="give both low and high, or neither"):
        NormdelConfig(miou=0.5, ratio=0.2, low=0.4)
    with pytest.raises(ValueError, match=r"interval 0.6 to 0.7 must hold mIoU 0.5"):
        NormdelConfig(miou=0.5, ratio=0.2, low=0.6, high=0.7)
    with pytest.raises(ValueError, match="not percent"):
        NormdelConfig(miou=50, ratio=0.2)
