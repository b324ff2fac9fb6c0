"""How certain a mean is: bootstrap intervals over images and seeds, and a paired test. It knows no mask and no model.

S seeds, N images, B replicates. A statistic is a function from weights of images [B, N] (how often each was drawn) to
its value for each seed [B, S], so that a resample costs a product of matrices.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from curation import seeds
from curation.options import require

Float64 = npt.NDArray[np.float64]
Statistic = Callable[[Float64], Float64]

BLOCK_VALUES = 4_000_000  # weights drawn at once: 32 MB


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn: percentiles of seeded resamples."""

    replicates: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.replicates >= 1, f"replicates is {self.replicates}; it must be at least 1")
        require(0 < self.level < 1, f"level is {self.level}; it must lie between 0 and 1, as 0.95")


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, sample standard deviation over seeds (NaN for one seed), and the interval of the mean."""

    mean: float
    std: float
    low: float
    high: float
    seeds: int
    images: int


@dataclass(frozen=True)
class Comparison:
    """First minus second: the mean difference, its interval, and the p-value of no difference (two-sided)."""

    difference: float
    low: float
    high: float
    p_value: float
    images: int


def mean_of(values_SN: Float64) -> Statistic:
    """Return the function from weights of images [B, N] to the weighted mean of each seed [B, S], NaN left out."""
    known_SN = ~np.isnan(values_SN)
    filled_SN = np.where(known_SN, values_SN, 0.0)

    def weighted_mean(weights_BN: Float64) -> Float64:
        number_BS = weights_BN @ known_SN.T.astype(np.float64)
        empty_BS = np.full(number_BS.shape, np.nan)
        mean_BS: Float64 = np.divide(weights_BN @ filled_SN.T, number_BS, out=empty_BS, where=number_BS > 0)
        return mean_BS

    return weighted_mean


def bootstrap_draws(
    bootstrap: Bootstrap, images: int, seeds: tuple[int, ...]
) -> Iterator[tuple[Float64, list[Float64]]]:
    """Yield, in blocks of replicates, how often each image is drawn [b, N] and the share of each seed [b, S] per group.

    Equal for equal arguments; seeds of different groups are drawn separately, images together.
    """
    generator = np.random.default_rng(bootstrap.seed)
    block = max(1, BLOCK_VALUES // images)
    for start in range(0, bootstrap.replicates, block):
        size = min(block, bootstrap.replicates - start)
        weights_bN = generator.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
        yield weights_bN, [generator.multinomial(n, np.full(n, 1 / n), size=size) / n for n in seeds]


def percentiles(replicates_B: Float64, level: float) -> tuple[float, float]:
    """Return the ends of the middle `level` of the replicates, NaN left out."""
    known = replicates_B[~np.isnan(replicates_B)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def estimate_values(values_SN: npt.ArrayLike, bootstrap: Bootstrap | None = None) -> Estimate:
    """Return `estimate` for the mean of one value per image and seed, as per_image gives them; [N] is one seed."""
    values = as_values(values_SN)
    return resampled(mean_of(values), (values.shape[0], values.shape[1]), bootstrap or Bootstrap())


def as_values(values_SN: npt.ArrayLike) -> Float64:
    """Return one value per image and seed as float64 [S, N]; ValueError for another shape, or none."""
    values = np.atleast_2d(np.asarray(values_SN, np.float64))
    require(
        values.ndim == 2 and values.size > 0,
        f"values have shape {list(values.shape)}, expected [seeds, images] with at least one image",
    )
    return values


def resampled(of_weights: Statistic, shape_SN: tuple[int, ...], bootstrap: Bootstrap) -> Estimate:
    """Return mean, standard deviation and interval of a statistic of images and seeds."""
    seeds, images = shape_SN
    value_S = of_weights(np.ones((1, images)))[0]
    blocks = [(of_weights(w_bN) * w_bS).sum(axis=1) for w_bN, (w_bS,) in bootstrap_draws(bootstrap, images, (seeds,))]
    low, high = percentiles(np.concatenate(blocks), bootstrap.level)
    std = float(value_S.std(ddof=1)) if seeds > 1 else np.nan
    return Estimate(float(value_S.mean()), std, low, high, seeds, images)


def paired_comparison(
    first_SN: npt.ArrayLike, second_SN: npt.ArrayLike, bootstrap: Bootstrap | None = None
) -> Comparison:
    """Compare two encoders on the same images by one value per image and seed, [S, N] or [N]; S may differ.

    The p-value is of scipy's permutation test: seeds are averaged, then the sign of each image's difference is
    flipped at random (every way where there are few images). It is about these fine-tunings on other images; the
    interval also varies the seeds of either encoder. Images that are NaN for one are left out for both. ValueError
    where they hold different images, or none.
    """
    bootstrap = bootstrap or Bootstrap()
    first, second = as_values(first_SN), as_values(second_SN)
    require(
        first.shape[1] == second.shape[1],
        f"the first has {first.shape[1]} images, the second {second.shape[1]}; test both on the same ones, in order",
    )
    known = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    require(bool(known.any()), "no image has a value for both encoders; there is nothing to compare")
    first, second = first[:, known], second[:, known]
    difference_N = first.mean(axis=0) - second.mean(axis=0)
    images = len(difference_N)
    tested = stats.permutation_test(
        (difference_N,),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=max(1, BLOCK_VALUES // images),
        random_state=seeds.generator(bootstrap.seed, "permutation test"),
    )
    of_first, of_second = mean_of(first), mean_of(second)
    blocks = [
        (of_first(w_bN) * a_bS).sum(axis=1) - (of_second(w_bN) * b_bS).sum(axis=1)
        for w_bN, (a_bS, b_bS) in bootstrap_draws(bootstrap, images, (len(first), len(second)))
    ]
    low, high = percentiles(np.concatenate(blocks), bootstrap.level)
    return Comparison(float(difference_N.mean()), low, high, float(tested.pvalue), images)
