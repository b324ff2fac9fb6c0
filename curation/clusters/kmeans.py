"""Spherical k-means: assignment, partial sums, empty clusters. It knows neither files nor the engine.

Vectors are unit length and of float16 (or of float32 rounded to multiples of 2^-24), and so are centroids. Such numbers
add up without any rounding in float64, up to 2^29 vectors per cluster, and so do their products (vectors.py): so the
assignments, the sums and with them the centroids are the same to the last bit however the vectors are sharded and in
whatever order they come.

Legend: N vectors of D dimensions, K clusters.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from curation.clusters import bounds
from curation.clusters.bounds import Bounds
from curation.clusters.seeding import FEWEST_CENTERED
from curation.embeddings.nearest import Prepared, nearest, prepare, quantised, vectors_of
from curation.embeddings.nearest_cpu import Quantised
from curation.embeddings.vectors import Float32, Keys, Vectors, as_tensor, on_grid, paired, to_unit

FARTHEST = 64  # vectors that a shard offers for empty clusters
SUM_ROWS = 1024  # vectors added up at once: what a core's cache holds
FEW_CLUSTERS = 1024  # up to which keeping a group's sums is cheaper than adding them up anew
RANGE_BYTES = 64 << 20  # of sums that travel as one object
Shard = tuple[Keys, Prepared]  # of some frames: their keys [N], their vectors [N, D]
STILL = 1e-3  # spread below which centring leaves noise
LOOSE = 0.3  # mean cosine with the centroid below which it is hardly a direction


def centering_warnings(spread: float | None, mean_cosine: float, clusters: int) -> list[str]:
    """Return what may be wrong with clusters of centred vectors (OURS); nothing where they are not (spread None).

    `spread` is the mean squared distance of the vectors from their mean, `mean_cosine` that with their centroids. On
    the artificial colonoscopy and an untrained ViT-Ti all scenes have a spread of 0.21, and one frame with noise of 1,
    3 and 10 grey levels 6e-6, 5e-5 and 5e-4: centred, its copies have cosines below 0.5. With one cluster the mean
    cosine is 0.24 and 36 % are outliers at epsilon 0.9; with two or more it is at least 0.79 and none are.
    """
    if spread is None:
        return []
    found = []
    if spread < STILL:
        found.append(
            f"the vectors are nearly equal (spread {spread:.1g}, centring wants {STILL:g}): what differs after "
            "subtracting the mean is noise, and duplicates are not found; cluster without --center"
        )
    if clusters == 1 or mean_cosine < LOOSE:
        found.append(
            f"the mean cosine of frames with their centroid is {mean_cosine:.2f}: centred vectors of few clusters have "
            f"no direction in common, so many are outliers; use --clusters auto or at least {FEWEST_CENTERED}"
        )
    return found


def exact_sum(x_ND: Vectors) -> npt.NDArray[np.float64]:
    """Return the sum of the rows, float64 [D], free of rounding."""
    return as_tensor(on_grid(x_ND)).double().sum(dim=0).numpy()


def assign(x_ND: Prepared, centroids_KD: Float32, device: str = "cpu") -> tuple[npt.NDArray[np.int32], Float32]:
    """Return each row's nearest centroid, int32 [N], and its dot product with it, float32 [N].

    Costs at most 2 N K D operations, in blocks of about a million products. Of equal centroids the first wins.
    """
    rows, columns = (x if isinstance(x, Quantised) else prepare(x, device) for x in (x_ND, centroids_KD))
    similarity, index = nearest(rows, columns, device=device)
    return index.astype(np.int32), similarity


@dataclass(frozen=True)
class Sums:
    """What one or more shards add to an iteration."""

    sums_KD: npt.NDArray[np.float64]
    counts_K: npt.NDArray[np.int64]
    far_similarity: Float32  # of the FARTHEST worst-placed vectors, ascending
    far_keys: Keys
    far_vectors: Vectors

    def inertia(self, centroids_KD: Float32) -> float:
        """Return the sum of squared Euclidean distances to the centroids assigned to: 2 - 2 cosine for unit vectors."""
        cosines = np.einsum("kd,kd->", self.sums_KD, centroids_KD, dtype=np.float64)
        return float(2 * self.counts_K.sum() - 2 * cosines)


def partial_sums(keys_N: Keys, shard: Prepared, centroids_KD: Float32, device: str = "cpu") -> Sums:
    """Assign a shard's vectors [N, D], add them up by cluster, and offer the farthest."""
    rows = shard if isinstance(shard, Quantised) else prepare(shard, device)
    total, tracked = group_sums([(keys_N, rows)], centroids_KD, None, device)
    far = group_farthest([(keys_N, rows)], tracked)
    return replace(far, sums_KD=total.sums_KD, counts_K=total.counts_K)


@dataclass(frozen=True)
class Tracked:
    """What a group of shards keeps for the next iteration, to save work; results are the same without."""

    centroids_KD: Float32
    bounds: list[Bounds]  # of each shard
    total: Sums | None  # where there are few clusters


def group_sums(
    shards: Iterable[Shard], centroids_KD: Float32, before: Tracked | None, device: str = "cpu"
) -> tuple[Sums, Tracked]:
    """Assign the vectors of several shards, one after another, and add them up by cluster.

    With what the same group kept of an earlier iteration only products that can matter are computed, and only vectors
    that changed their cluster are added and taken away: both exact. Costs at most 2 N K D operations.
    """
    columns = prepare(centroids_KD, device)
    drift_K = None if before is None or device != "cpu" else bounds.drift(before.centroids_KD, centroids_KD)
    base = before.total if before is not None else None
    sums = torch.zeros(centroids_KD.shape, dtype=torch.float64)
    counts = np.zeros(len(centroids_KD), np.int64)
    if base is not None:
        sums, counts = as_tensor(base.sums_KD).clone(), base.counts_K.copy()
    found = []
    for number, (_, rows) in enumerate(shards):
        if drift_K is not None and before is not None:
            now = bounds.followed(quantised(rows), quantised(columns), before.bounds[number], drift_K)
        else:
            now = bounds.computed(rows, columns, device)
        found.append(now)
        x_ND = vectors_of(rows)
        if base is None or before is None:
            add_rows(sums, counts, x_ND, now.assignment_N)
            continue
        old = before.bounds[number].assignment_N
        changed = np.flatnonzero(now.assignment_N != old)
        add_rows(sums, counts, x_ND[changed], now.assignment_N[changed])
        add_rows(sums, counts, x_ND[changed], old[changed], sign=-1)
    total = without_far(sums.numpy(), counts)
    return total, Tracked(centroids_KD, found, total if len(centroids_KD) <= FEW_CLUSTERS else None)


def add_rows(
    sums_KD: torch.Tensor,
    counts_K: npt.NDArray[np.int64],
    x_ND: Vectors,
    assignment_N: npt.NDArray[np.int32],
    sign: int = 1,
) -> None:
    """Add vectors to the sums of their clusters, or with sign -1 take them away, free of rounding."""
    clusters = torch.from_numpy(assignment_N)
    for start in range(0, len(x_ND), SUM_ROWS):
        here = slice(start, start + SUM_ROWS)
        sums_KD.index_add_(0, clusters[here], as_tensor(x_ND[here]).double(), alpha=sign)
    counts_K += sign * np.bincount(assignment_N, minlength=len(counts_K))


def group_farthest(shards: Iterable[Shard], tracked: Tracked) -> Sums:
    """Return what several shards offer for empty clusters, given their assignment; its sums are of no cluster."""
    centroids_KD, parts = tracked.centroids_KD, []
    for (keys_N, rows), now in zip(shards, tracked.bounds, strict=True):
        middle: Float32 = (now.high_N + now.low_N) * np.float32(0.5)
        width: Float32 = (now.high_N - now.low_N) * np.float32(0.5) + np.float32(bounds.SLACK)
        x_ND = vectors_of(rows)
        far, similarity = farthest(keys_N, x_ND, centroids_KD, now.assignment_N, (middle, width))
        none = without_far(np.empty((0, x_ND.shape[1])), np.empty(0, np.int64))
        parts.append(replace(none, far_similarity=similarity, far_keys=keys_N[far], far_vectors=x_ND[far]))
    return merge(*parts)


def without_far(sums_KD: npt.NDArray[np.float64], counts_K: npt.NDArray[np.int64]) -> Sums:
    """Return sums that offer nothing for empty clusters."""
    dimensions = sums_KD.shape[1]
    nothing = np.empty(0, np.float32), np.empty(0, np.uint64), np.empty((0, dimensions), np.float16)
    return Sums(sums_KD, counts_K, *nothing)


def cluster_ranges(clusters: int, dimensions: int) -> list[slice]:
    """Cut the clusters into ranges whose sums are added up apart, each about RANGE_BYTES or less."""
    count = max(1, -(-clusters * dimensions * 8 // RANGE_BYTES))
    edges = np.linspace(0, clusters, min(count, clusters) + 1).astype(int).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def cut(total: Sums, ranges: Sequence[slice]) -> list[Sums]:
    """Cut sums that offer nothing by ranges of clusters."""
    return [without_far(total.sums_KD[part], total.counts_K[part]) for part in ranges]


def joined(parts: Sequence[Sums]) -> Sums:
    """Put the sums of consecutive ranges of clusters together again."""
    sums, counts = [part.sums_KD for part in parts], [part.counts_K for part in parts]
    return parts[0] if len(parts) == 1 else without_far(np.concatenate(sums), np.concatenate(counts))


def farthest(
    keys_N: Keys,
    x_ND: Vectors,
    centroids_KD: Float32,
    assignment_N: npt.NDArray[np.int32],
    estimate: tuple[Float32, Float32],
) -> tuple[npt.NDArray[np.intp], Float32]:
    """Return the FARTHEST rows with the lowest dot product with their centroid, ascending, and those products.

    `estimate` is the products and how far off each may be, float32 [N] each; what could be among the lowest is
    computed, so that the result does not depend on the estimates.
    """
    product, error = estimate
    place = min(FARTHEST, len(product)) - 1
    highest = np.partition(product + error, place)[place] if len(product) else np.float32(0)
    near = np.flatnonzero(product - error <= highest)
    exact = paired(x_ND[near], centroids_KD[assignment_N[near]])
    order = np.lexsort((keys_N[near], exact))[:FARTHEST]
    return near[order], exact[order]


def merge(*parts: Sums) -> Sums:
    """Add up the sums of several shards."""
    keys = np.concatenate([part.far_keys for part in parts])
    similarity = np.concatenate([part.far_similarity for part in parts])
    vectors = np.concatenate([part.far_vectors for part in parts])
    far = np.lexsort((keys, similarity))[:FARTHEST]
    return Sums(
        sums_KD=np.add.reduce([part.sums_KD for part in parts]),
        counts_K=np.add.reduce([part.counts_K for part in parts]),
        far_similarity=similarity[far],
        far_keys=keys[far],
        far_vectors=vectors[far],
    )


def update(total: Sums, centroids_KD: Float32) -> tuple[Float32, int, float]:
    """Return the next centroids (unit length), how many clusters were empty, and how far centroids moved.

    That is the sum of squared distances over all centroids, rounded once, so the same on every chip.

    An empty cluster is seeded again with the vector farthest from its own centroid, then the next farthest; where
    there are more empty clusters than such vectors, the rest keep their centroid for another iteration. So does a
    cluster whose vectors cancel out.
    """
    norms = np.linalg.norm(total.sums_KD, axis=1)
    moved = centroids_KD.copy()
    filled = norms > 0
    moved[filled] = on_grid(total.sums_KD[filled] / norms[filled, None])
    empty = np.flatnonzero(total.counts_K == 0)
    offered = to_unit(total.far_vectors[: len(empty)])
    moved[empty[: len(offered)]] = offered
    shift = math.fsum(np.square(moved - centroids_KD, dtype=np.float64).ravel().tolist())
    return moved, len(empty), shift


def mean_variance(total: Sums) -> float:
    """Return the variance of all vectors, which have unit length, as its mean over dimensions."""
    mean_D = total.sums_KD.sum(axis=0) / total.counts_K.sum()
    return max(0.0, 1 - math.fsum((mean_D * mean_D).tolist())) / len(mean_D)
