"""How k-means begins: how many clusters, a sample, k-means++ centroids. It knows neither files nor the engine."""

import math

import numpy as np
import numpy.typing as npt

from curation import seeds
from curation.embeddings.vectors import Float32, Keys, Vectors, scramble, to_unit

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
    """Return the share of the frames that seeding looks at: all, or about 8 a cluster and at least 16,384."""
    return min(1.0, max(SAMPLE_FLOOR, SAMPLE_PER_CLUSTER * clusters) / frames)


def sample(keys_N: Keys, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which frames are in the sample of about `share`; it depends on key and seed alone."""
    limit = np.uint64(min(2**64 - 1, int(share * 2**64)))
    return scramble(keys_N, seed, "sample that k-means is seeded from") <= limit


def seed_centroids(keys_N: Keys, x_ND: Vectors, clusters: int, seed: int) -> Float32:
    """Return k-means++ centroids, float32 [K, D] (Arthur and Vassilvitskii 2007), whatever the rows' order.

    Each next centroid is a vector drawn with probability proportional to its squared distance from the nearest
    so far; uniformly where all distances are zero. Costs 2 N K D operations. ValueError for more clusters than rows.
    """
    if clusters > len(x_ND):
        raise ValueError(f"{clusters} clusters were asked for, but there are {len(x_ND)} vectors to seed them from")
    order = np.argsort(keys_N)
    x = to_unit(x_ND[order])
    generator = seeds.generator(seed, "k-means++", clusters)
    centroids = np.empty((clusters, x.shape[1]), np.float32)
    squared = np.full(len(x), 4.0, np.float32)
    for cluster in range(clusters):
        cumulative = np.cumsum(squared, dtype=np.float64)
        if cumulative[-1] > 0:
            chosen = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        else:
            chosen = generator.integers(len(x))
        centroids[cluster] = x[min(int(chosen), len(x) - 1)]
        np.minimum(squared, np.maximum(2 - 2 * (x @ centroids[cluster]), 0), out=squared)
    return centroids
