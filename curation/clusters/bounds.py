"""The nearest centroids of an iteration, from those of the one before: exact, without most products. It knows no files.

A centroid c that moved to c' changes the product with a vector x by at most |x| |c' - c| (Cauchy and Schwarz). So of
each vector it is known between which limits the product with its centroid lies, and what that with any other does not
exceed; where the limits do not cross, nothing is computed. This is Hamerly's k-means (2010) for products of unit
vectors, as by Schubert, Lang and Feher (2021, arXiv 2107.04074). OURS: the centroids that moved most are compared with
every vector in one product of matrices, and only the others' greatest move loosens the limit; how many that are is
chosen from a sample of the vectors by what it saves. It never shows in a result.

Legend: N vectors of D dimensions, K centroids, M of them that moved most.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.embeddings.nearest import Prepared, nearest_index
from curation.embeddings.nearest_cpu import Quantised
from curation.embeddings.vectors import ROUNDING, UNIT_TOLERANCE, Float32, Indices, as_tensor, paired

LENGTH = (1 + UNIT_TOLERANCE) ** 0.5  # that a stored vector may have
SLACK = 1e-6  # for the rounding of limits in float32
PROBED = 2048  # vectors from which it is reckoned how many centroids to compare with all
SHARES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the centroids, that may be compared with all vectors
BLOCK = 1 << 20  # products at once
ROWS = 4096  # vectors at once, at most


@dataclass(frozen=True)
class Bounds:
    """Each vector's centroid, int32 [N], and limits of its products, float32 [N]."""

    assignment_N: npt.NDArray[np.int32]
    low_N: Float32  # the product with its centroid is not below
    high_N: Float32  # nor above
    others_N: Float32  # the product with no other centroid is above


def computed(rows: Prepared, centroids: Prepared, device: str = "cpu") -> Bounds:
    """Compute all products of vectors [N, D] and centroids [K, D]; of equal centroids the first is named."""
    best, error, others, index = nearest_index(rows, centroids, device)
    error += np.float32(SLACK)  # of an exact product too, which is rounded to float32
    return Bounds(index.astype(np.int32), best - error, best + error, others + np.float32(SLACK))


def drift(before_KD: Float32, after_KD: Float32) -> Float32:
    """Return by how much each centroid's product with any vector may have changed, float32 [K]; 0 where it is still."""
    moved = np.linalg.norm(after_KD.astype(np.float64) - before_KD, axis=1)
    return np.where(moved > 0, LENGTH * moved + SLACK, 0).astype(np.float32)


def followed(rows: Quantised, centroids: Quantised, before: Bounds, drift_K: Float32) -> Bounds:
    """As `computed`, from the bounds before the centroids moved by `drift_K`, on a CPU."""
    far, rest = compared_with_all(before, drift_K)
    own = before.assignment_N
    now = Bounds(own.copy(), before.low_N - drift_K[own], before.high_N + drift_K[own], before.others_N + rest)
    if len(far) == len(drift_K):
        return computed(rows, centroids)
    if len(far):
        _meet(rows, centroids, now, far)
    unsure = np.flatnonzero(now.low_N <= now.others_N)
    unsure = unsure[_tightened(rows, centroids, now, unsure)]
    if len(unsure):
        again = computed(rows.taken(unsure), centroids)
        now.assignment_N[unsure], now.others_N[unsure] = again.assignment_N, again.others_N
        now.low_N[unsure], now.high_N[unsure] = again.low_N, again.high_N
    return now


def compared_with_all(before: Bounds, drift_K: Float32) -> tuple[Indices, np.float32]:
    """Return which centroids to compare with every vector, int64 [M], and the greatest move of all others.

    Chosen is what takes the fewest products, reckoned on a sample of the vectors; all K where nothing is saved.
    """
    order = np.argsort(-drift_K, kind="stable")
    some = slice(None, None, max(1, len(before.low_N) // PROBED))
    own = before.assignment_N[some]
    room = before.low_N[some] - drift_K[own] - before.others_N[some]
    best, cost, rest = order, 1.0, np.float32(0)
    for share in SHARES:
        count = int(share * len(order))
        left = drift_K[order[count]]
        unsure = float(np.mean(room <= left)) if len(room) else 0.0
        if (needed := count / len(order) + 1.2 * unsure) < cost:
            best, cost, rest = order[:count], needed, left
    return best, rest


def _meet(rows: Quantised, centroids: Quantised, now: Bounds, far_M: Indices) -> None:
    """Compare all vectors with some centroids, and put what is found into the bounds."""
    place_K = np.full(len(centroids), -1)
    place_K[far_M] = np.arange(len(far_M))
    some_MD = as_tensor(centroids.vectors_ND[far_M]).float().numpy()
    height = min(ROWS, max(64, BLOCK // len(far_M)))
    for top in range(0, len(rows), height):
        here = slice(top, top + height)
        products = as_tensor(rows.vectors_ND[here]).float().numpy() @ some_MD.T
        place = place_K[now.assignment_N[here]]
        mine = np.flatnonzero(place >= 0)
        own = products[mine, place[mine]]
        now.low_N[here][mine], now.high_N[here][mine] = own - np.float32(ROUNDING), own + np.float32(ROUNDING)
        products[mine, place[mine]] = -np.inf
        np.maximum(now.others_N[here], products.max(axis=1) + np.float32(ROUNDING), out=now.others_N[here])


def _tightened(rows: Quantised, centroids: Quantised, now: Bounds, unsure: Indices) -> npt.NDArray[np.bool_]:
    """Compute the products of some vectors with their own centroids; return which of them stay unsure."""
    left = np.zeros(len(unsure), np.bool_)
    for top in range(0, len(unsure), ROWS):
        some = unsure[top : top + ROWS]
        own = paired(rows.vectors_ND[some], centroids.vectors_ND[now.assignment_N[some]])
        now.low_N[some], now.high_N[some] = own - np.float32(SLACK), own + np.float32(SLACK)
        left[top : top + ROWS] = now.low_N[some] <= now.others_N[some]
    return left
