"""Spherical k-means: assignment, partial sums, empty clusters. It knows neither files nor the engine.

Vectors are unit length and of float16 (or of float32 rounded to multiples of 2^-24), and so are centroids. Such numbers
add up without any rounding in float64, up to 2^29 vectors per cluster, and so do their products (vectors.py): so the
assignments, the sums and with them the centroids are the same to the last bit however the vectors are sharded and in
whatever order they come.

Legend: N vectors of D dimensions, K clusters.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from curation.clusters.seeding import FEWEST_CENTERED
from curation.embeddings.nearest import Prepared, nearest, nearest_index, prepare, vectors_of
from curation.embeddings.nearest_cpu import Quantised
from curation.embeddings.vectors import Float32, Keys, Vectors, as_tensor, on_grid, paired, to_unit

FARTHEST = 64  # vectors that a shard offers for empty clusters
SUM_ROWS = 4096  # vectors added up at once
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
    """Assign a shard's vectors [N, D] and add them up by cluster."""
    rows = shard if isinstance(shard, Quantised) else prepare(shard, device)
    x_ND = vectors_of(rows)
    similarity, error, index = nearest_index(rows, prepare(centroids_KD, device), device)
    assignment = index.astype(np.int32)
    sums = torch.zeros(centroids_KD.shape, dtype=torch.float64)
    clusters = torch.from_numpy(assignment)
    for start in range(0, len(x_ND), SUM_ROWS):
        sums.index_add_(0, clusters[start : start + SUM_ROWS], as_tensor(x_ND[start : start + SUM_ROWS]).double())
    far, far_similarity = farthest(keys_N, x_ND, centroids_KD, assignment, (similarity, error))
    return Sums(
        sums_KD=sums.numpy(),
        counts_K=np.bincount(assignment, minlength=len(centroids_KD)),
        far_similarity=far_similarity,
        far_keys=keys_N[far],
        far_vectors=x_ND[far],
    )


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
