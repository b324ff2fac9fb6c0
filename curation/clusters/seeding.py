"""How k-means begins: how many clusters, a sample, k-means++ centroids. It knows neither files nor the engine."""

import math

import numpy as np
import numpy.typing as npt

from curation import seeds
from curation.embeddings.vectors import GRID, Float32, Keys, Vectors, scramble, to_unit

MEAN_CLUSTER, FEWEST_CENTERED = 20_000, 8


SAMPLE_FLOOR, SAMPLE_PER_CLUSTER = 16_384, 8


def automatic_clusters(frames: int, center: bool = False) -> int:
    """Return the k of `--clusters auto` (OURS): as few clusters as keep their mean at 20,000 frames or fewer.

    Two alike on either side of a border are never compared, so each border costs duplicates (README, measured);
    and comparing with up to 20,000 others costs a thousandth of embedding a frame.
    """
    fewest = min(frames, FEWEST_CENTERED) if center else 1  # all centred vectors together have no direction
    return max(fewest, math.ceil(frames / MEAN_CLUSTER))


def sample_share(frames: int, clusters: int) -> float:
    """Return the share of the frames that seeding looks at: all, or about 8 per cluster and at least 16,384."""
    return min(1.0, max(SAMPLE_FLOOR, SAMPLE_PER_CLUSTER * clusters) / frames)


def sample(keys_N: Keys, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which frames k-means is seeded from, about `share` of them; it depends on key and seed alone."""
    return _drawn(keys_N, share, seed, "sample that k-means is seeded from")


def trained_on(keys_N: Keys, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which frames k-means is trained on, about `share` of them; it depends on key and seed alone.

    Each frame is drawn by itself, so that the sample is the same in whatever parts and shards the frames come.
    """
    return _drawn(keys_N, share, seed, "sample that k-means is trained on")


def _drawn(keys_N: Keys, share: float, seed: int, purpose: str) -> npt.NDArray[np.bool_]:
    limit = np.uint64(min(2**64 - 1, int(share * 2**64)))
    return scramble(keys_N, seed, purpose) <= limit


def seed_centroids(keys_N: Keys, x_ND: Vectors, clusters: int, seed: int) -> Float32:
    """Return greedy k-means++ centroids, float32 [K, D], whatever the rows' order.

    The first is any vector. For each next one, 2 + ln K vectors are drawn with probability proportional to their
    squared distance from the nearest centroid so far (uniformly where all distances are zero), and the one that lowers
    the sum of these distances most is taken (Arthur and Vassilvitskii 2007, section 5). Distances are rounded to a grid
    on which sums are exact, so every chip draws alike. Costs 2 N K D (2 + ln K) operations. ValueError for more
    clusters than rows.
    """
    if clusters > len(x_ND):
        raise ValueError(f"{clusters} clusters were asked for, but there are {len(x_ND)} vectors to seed them from")
    units_ND = to_unit(x_ND[np.argsort(keys_N)]).astype(np.float64)
    generator = seeds.generator(seed, "k-means++", clusters)
    trials = 2 + int(math.log(clusters))
    chosen = [int(generator.integers(len(units_ND)))]
    distance_N = grid_distances(units_ND[chosen], units_ND)[0]  # squared, to the nearest centroid so far
    while len(chosen) < clusters:
        cumulative = np.cumsum(distance_N)
        if cumulative[-1] > 0:
            drawn = np.searchsorted(cumulative, generator.random(trials) * cumulative[-1], side="right")
            drawn = np.minimum(drawn, len(units_ND) - 1)
        else:
            drawn = generator.integers(len(units_ND), size=1)
        distance_TN = np.minimum(grid_distances(units_ND[drawn], units_ND), distance_N)
        best = int(distance_TN.sum(axis=1).argmin())
        distance_N = distance_TN[best]
        chosen.append(int(drawn[best]))
    return units_ND[chosen].astype(np.float32)


def grid_distances(x_TD: npt.NDArray[np.float64], y_ND: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return squared distances of unit vectors, float64 [T, N], as multiples of 2^-24."""
    distances: npt.NDArray[np.float64] = np.rint(np.maximum(2 - 2 * (x_TD @ y_ND.T), 0) * GRID) / GRID
    return distances
