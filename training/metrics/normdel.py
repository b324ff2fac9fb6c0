"""NormDEL: the value of a subset, from mIoU and retention ratio (arXiv 2401.17542, eq. 4-5). It trains nothing.

    DEL     = mIoU * exp(-alpha * R)     mIoU in [0, 1]; R, the share of the pool that is retained, in (0, 1]
    NormDEL = 1 / (1 + exp(-DEL))

The paper does not give alpha. With alpha = 1 and the nominal ratios its 48 published values come out within 0.0062
percentage points, so alpha = 1 is the default here. The ratios of its table are nominal (0.05 for an actual 0.0505);
the column "30 %" is the 33 % subset, at 0.33.

What NormDEL rewards: with alpha = 1 it lies in [0.5, 0.7311), 0.01 of mIoU moves it by at most 0.0025, and a ratio of
0.05 instead of 1 by about 0.1. Between subsets of close mIoU it mostly says which is smaller: read it with mIoU.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from curation.options import option, require
from curation.store import chain
from curation.store.directory import RunDirectory

Float64 = npt.NDArray[np.float64]
Reading = Literal["nominal", "actual"]

NOMINAL_RATIOS = (0.05, 0.10, 0.20, 0.33, 0.50, 1.00)
NOMINAL_WITHIN = 0.1  # of a nominal ratio: the paper's own shares are within 0.05


class Sensitivity(NamedTuple):
    """Change of NormDEL for a small change of mIoU, and of the ratio (negative), each per unit of 1."""

    miou: Float64
    ratio: Float64


@dataclass(frozen=True, kw_only=True)
class NormdelConfig:
    """One mIoU and the subset it was reached with."""

    miou: float = option("mIoU on the test set, 0 to 1.")
    ratio: float | None = option("Share of the pool that the subset retains; instead of --subset.", None)
    subset: str | None = option("A subset's folder; its subset.json holds the ratio.", None)
    reading: Literal["nominal", "actual"] = option(
        "The ratio of a subset. nominal: the paper's, if one is within a tenth of the actual ratio; actual: its own.",
        "nominal",
    )
    alpha: float = option("Weight of the ratio.", 1.0)
    low: float | None = option("Lower end of the interval of mIoU.", None)
    high: float | None = option("Upper end of the interval of mIoU.", None)

    def __post_init__(self) -> None:
        given = [name for name in ("ratio", "subset") if getattr(self, name) is not None]
        require(len(given) == 1, f"give one of ratio and subset; found {' and '.join(given) or 'none'}")
        check_range(self.miou, 1.0 if self.ratio is None else self.ratio, self.alpha)
        require((self.low is None) == (self.high is None), "give both low and high, or neither")
        if self.low is not None and self.high is not None:
            require(
                0 <= self.low <= self.miou <= self.high <= 1,
                f"the interval {self.low:g} to {self.high:g} must hold mIoU {self.miou:g} and lie within 0 and 1",
            )


def check_range(miou: npt.ArrayLike, ratio: npt.ArrayLike, alpha: float) -> None:
    """ValueError for mIoU outside [0, 1], a ratio outside (0, 1], or alpha below 0."""
    miou, ratio = np.asarray(miou, np.float64), np.asarray(ratio, np.float64)
    first = miou[~((miou >= 0) & (miou <= 1))][:1]
    require(not first.size, f"mIoU is {first.sum():g}; it must lie within 0 and 1 (a share, not percent)")
    first = ratio[~((ratio > 0) & (ratio <= 1))][:1]
    require(not first.size, f"ratio is {first.sum():g}; it must be above 0 and up to 1 (a share, not percent)")
    require(alpha >= 0, f"alpha is {alpha:g}; it must be 0 or more")


def del_(miou: npt.ArrayLike, ratio: npt.ArrayLike, alpha: float = 1.0) -> Float64:
    """Return mIoU * exp(-alpha * ratio), of arrays that broadcast (eq. 4). ValueError as `check_range` says."""
    check_range(miou, ratio, alpha)
    value: Float64 = np.asarray(miou, np.float64) * np.exp(-alpha * np.asarray(ratio, np.float64))
    return value


def normdel(miou: npt.ArrayLike, ratio: npt.ArrayLike, alpha: float = 1.0) -> Float64:
    """Return 1 / (1 + exp(-DEL)), of arrays that broadcast (eq. 5). ValueError as `check_range` says.

    It rises with mIoU, so the interval of NormDEL is that of mIoU, with both ends put through this function.
    """
    return sigmoid(del_(miou, ratio, alpha))


def sigmoid(x: Float64) -> Float64:
    """Return 1 / (1 + exp(-x)) of x at least 0."""
    value: Float64 = 1 / (1 + np.exp(-x))
    return value


def sensitivity(miou: npt.ArrayLike, ratio: npt.ArrayLike, alpha: float = 1.0) -> Sensitivity:
    """Return the derivatives of NormDEL, of arrays that broadcast. ValueError as `check_range` says.

    With n = NormDEL: dn/dmIoU = n (1 - n) exp(-alpha R), dn/dR = -alpha DEL n (1 - n).
    """
    value = normdel(miou, ratio, alpha)
    slope = value * (1 - value)
    by_miou = slope * np.exp(-alpha * np.asarray(ratio, np.float64))
    return Sensitivity(by_miou, -alpha * slope * del_(miou, ratio, alpha))


def normdel_range(ratio: float | None = None, alpha: float = 1.0) -> tuple[float, float]:
    """Return the lowest and highest NormDEL at a ratio: 0.5 at mIoU 0, and the value at mIoU 1.

    Without a ratio: the bounds over all of them; the upper one, 1 / (1 + exp(-1)) for every alpha, is approached as
    the ratio goes to 0 and reached only with alpha = 0.
    """
    highest = sigmoid(np.asarray(1.0)) if ratio is None else normdel(1.0, ratio, alpha)
    return 0.5, float(highest)


def nominal_ratio(actual: float) -> float:
    """Return the one of the paper's six ratios that is within a tenth of itself, else the share, to four digits.

    The paper's subsets hold 0.0505, 0.1026, 0.1902, 0.3212, 0.4926 and all of the pool. ValueError outside (0, 1].
    """
    check_range(0.0, actual, 1.0)
    near = min(NOMINAL_RATIOS, key=lambda nominal: abs(nominal - actual))
    return near if abs(near - actual) <= NOMINAL_WITHIN * near else max(round(actual, 4), 0.0001)


def subset_ratio(subset: str, reading: Reading = "nominal") -> float:
    """Return the retention ratio of a subset's folder, from its subset.json, as `reading` says.

    ValueError where the folder has no subset.json, or that has no ratio.
    """
    folder = RunDirectory(subset)
    require(
        folder.exists("subset.json"),
        f"{subset} has no subset.json; name a subset's folder, as RUN/subsets/NAME, made with `python -m curation`",
    )
    chain.check_subset(folder)
    content = folder.read_json("subset.json")
    actual = content.get("ratio") if isinstance(content, dict) else None
    require(
        isinstance(actual, int | float) and not isinstance(actual, bool) and 0 < actual <= 1,
        f"{subset}/subset.json has the ratio {actual!r}, expected a share above 0 and up to 1; select it again",
    )
    actual = float(actual or 0)
    return nominal_ratio(actual) if reading == "nominal" else actual


def normdel_command(config: NormdelConfig) -> str:
    """Return what `python -m training normdel` prints: NormDEL with its interval, range and sensitivity."""
    if config.subset is None:
        ratio, source = config.ratio or 0.0, "as given"
    else:
        ratio, actual = subset_ratio(config.subset, config.reading), subset_ratio(config.subset, "actual")
        source = f"nominal; actual {actual:.4f}" if config.reading == "nominal" else "actual"
    value = float(normdel(config.miou, ratio, config.alpha))
    slope = sensitivity(config.miou, ratio, config.alpha)
    lowest, highest = normdel_range(ratio, config.alpha)
    lines = [
        f"mIoU      {config.miou:.4f}{between(config.low, config.high)}",
        f"ratio     {ratio:.4f}  ({source})",
        f"alpha     {config.alpha:g}",
        f"DEL       {float(del_(config.miou, ratio, config.alpha)):.4f}",
        f"NormDEL   {value:.4f}{between(*range_ends(config, ratio))}",
        f"range     {lowest:.4f} to {highest:.4f} at this ratio",
        f"0.01 of mIoU moves NormDEL by {0.01 * float(slope.miou):+.4f}, "
        f"0.01 of the ratio by {0.01 * float(slope.ratio):+.4f}",
    ]
    return "\n".join(lines)


def range_ends(config: NormdelConfig, ratio: float) -> tuple[float | None, float | None]:
    """Return the interval of NormDEL that belongs to the config's interval of mIoU, or two None."""
    if config.low is None or config.high is None:
        return None, None
    return float(normdel(config.low, ratio, config.alpha)), float(normdel(config.high, ratio, config.alpha))


def between(low: float | None, high: float | None) -> str:
    """Return an interval as it is printed after a value, empty where there is none."""
    return "" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]"
