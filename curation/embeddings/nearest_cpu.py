"""The exact nearest of many vectors on a CPU, found through 8-bit integers. nearest.py is its front door.

Chips with VNNI multiply 8-bit integers about four times as fast as float32 (tests/bench/bench_kmeans.py). So rows x and
columns y are quantised around origins o and p, with a scale per vector, int8 codes c and d, and residuals e and f:

    x = o + s c + e,    y = p + t d + f
    <x, y> = <o, y> + <x, p> - <o, p> + <x - o, y - p>
    <x - o, y - p> = s t <c, d> + <s c, f> + <e, t d + f>

All but the last two terms are cheap; by the Cauchy-Schwarz inequality these are at most |s c| |f| + |e| (|t d| + |f|)
(OURS). Only pairs that could still beat the best known one, by that bound, are computed. With origins, what all vectors
have in common costs no precision.

Legend: N rows and M columns of D dimensions, P pairs of one of each.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from curation.embeddings.vectors import PAIRS, ROUNDING, Float32, Indices, Vectors, as_tensor, paired

# Chosen with tests/bench/bench_score.py and bench_kmeans.py:
BLOCK = 1 << 20  # products at once: what a core's cache holds
COLUMNS = 2048
FEW_COLUMNS = 256  # below which the codes do not pay
DENSE_SHARE = 1 / 100  # of a block's pairs left to compute, above which computing all at once is faster
TIES = 16  # columns a row, on average, above which all are computed in float64 at once


@dataclass(frozen=True)
class Quantised:
    """Vectors, and their int8 codes: vector = origin + scale * code + residual; codes are N x 0 if not `coded`."""

    vectors_ND: Vectors
    codes_ND: npt.NDArray[np.int8]
    scale_N: Float32
    length_N: Float32  # of scale * code
    residual_N: Float32  # length of the residual
    origin_D: Float32

    def __getitem__(self, rows: slice) -> "Quantised":
        """Return some of the rows, without copying."""
        scale, length, residual = self.scale_N[rows], self.length_N[rows], self.residual_N[rows]
        return Quantised(self.vectors_ND[rows], self.codes_ND[rows], scale, length, residual, self.origin_D)

    def __len__(self) -> int:
        return len(self.vectors_ND)

    @property
    def coded(self) -> bool:
        """Whether there are codes: where they were prepared, products of 8-bit integers were fast."""
        return bool(self.codes_ND.shape[1] > 0)

    def taken(self, rows_P: Indices) -> "Quantised":
        """Return some of the rows, copied."""
        scale, length, residual = (
            x[rows_P] if self.coded else x for x in (self.scale_N, self.length_N, self.residual_N)
        )
        return Quantised(self.vectors_ND[rows_P], self.codes_ND[rows_P], scale, length, residual, self.origin_D)


@functools.cache
def integers_are_fast() -> bool:
    """Whether this chip has instructions for products of 8-bit integers."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def quantise(vectors_ND: Vectors, origin_D: Float32) -> Quantised:
    """Quantise vectors (float16 or float32) as int8 around an origin, each with a scale of its own. Costs O(N D).

    Where the chip has no use for codes there are none: they would cost a third of the memory.
    """
    if not integers_are_fast():
        none = np.empty(0, np.float32)
        return Quantised(vectors_ND, np.empty((len(vectors_ND), 0), np.int8), none, none, none, origin_D)
    shape = vectors_ND.shape
    codes = np.empty(shape, np.int8)
    scale, length, residual = (np.empty(len(vectors_ND), np.float32) for _ in range(3))
    for start in range(0, len(vectors_ND), 1024):
        rows = slice(start, start + 1024)
        rest = as_tensor(vectors_ND[rows]).float() - as_tensor(origin_D)
        step = (rest.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        rounded = (rest / step).round_()
        codes[rows] = rounded.to(torch.int8).numpy()
        coded = rounded.mul_(step)
        scale[rows] = step[:, 0].numpy()
        length[rows] = torch.linalg.vector_norm(coded, dim=1).numpy()
        residual[rows] = torch.linalg.vector_norm(rest.sub_(coded), dim=1).numpy()
    return Quantised(vectors_ND, codes, scale, length, residual, origin_D)


def nearest_on_cpu(rows: Quantised, columns: Quantised, limit_N: Indices | None) -> tuple[Float32, Indices]:
    """Return each row's highest dot product and the first column that has it; -inf and -1 where there is none.

    Row i meets columns below limit_N[i] only.
    """
    width = min(COLUMNS, len(columns))
    height = max(64, BLOCK // max(1, width))
    best, index = np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1, np.int64)
    for top in range(0, len(rows), height):
        search = Search(rows[top : top + height])
        limit = None if limit_N is None else limit_N[top : top + height]
        last = len(columns) if limit is None else min(len(columns), int(limit.max(initial=0)))
        for left in range(0, last, width):
            search.compare(columns[left : min(left + width, last)], left, limit)
        best[top : top + height], index[top : top + height] = search.best_N, search.index_N
    return best, index


def index_on_cpu(rows: Quantised, columns: Quantised) -> tuple[Float32, Float32, Float32, Indices]:
    """Return an estimate of each row's highest dot product, its error, what no other's exceeds, and the column.

    That is float32 [N] three times, and int64 [N]. Where arithmetic with rounding leaves one candidate, as for most
    rows, the exact product is not computed. The error is a bound, 0 where it was. All columns at once.
    """
    best, error, others = (np.empty(len(rows), np.float32) for _ in range(3))
    index = np.empty(len(rows), np.int64)
    height = max(64, BLOCK // max(1, len(columns)))
    exact_columns = as_tensor(columns.vectors_ND).float().numpy()
    for top in range(0, len(rows), height):
        here = slice(top, top + height)
        search = Search(rows[here])
        error[here], others[here] = search.settle(columns, exact_columns)
        best[here], index[here] = search.best_N, search.index_N
    return best, error, others, index


class Search:
    """A block of rows, the highest product that each has met so far, float32, and its column, int64 (-1: none)."""

    def __init__(self, rows: Quantised) -> None:
        self.rows = rows
        self.exact_ND: Float32 = as_tensor(rows.vectors_ND).float().numpy()
        self.best_N = np.full(len(rows), -np.inf, np.float32)
        self.index_N = np.full(len(rows), -1, np.int64)

    def compare(self, columns: Quantised, left: int, limit_N: Indices | None) -> None:
        """Meet some columns, the first of which is number `left`; row i only those below limit_N[i]."""
        later = None
        if limit_N is not None and left + len(columns) > limit_N.min(initial=left):
            later = np.arange(left, left + len(columns)) >= limit_N[:, None]
        exact = as_tensor(columns.vectors_ND).float().numpy()
        if len(columns) < FEW_COLUMNS or not self.integers(columns):
            self.compare_all(exact, left, later)
            return
        products, error = self.estimate(columns, exact)
        if later is not None:
            products[later] = -np.inf
        guess = products.argmax(axis=1)
        rows = np.arange(len(guess))
        rows = rows[products[rows, guess] + error > self.best_N]
        self.improve(rows, guess[rows], exact, left)
        pairs = np.flatnonzero(products > (self.best_N - error)[:, None])
        if len(pairs) > DENSE_SHARE * products.size:
            self.compare_all(exact, left, later)
        else:
            self.improve(*np.divmod(pairs, len(columns)), exact, left)

    def integers(self, columns: Quantised) -> bool:
        """Whether to multiply codes: both have some, and the chip is fast at it."""
        return integers_are_fast() and self.rows.coded and columns.coded

    def settle(self, columns: Quantised, exact_MD: Float32) -> tuple[Float32, Float32]:
        """Meet all columns there are; leave an estimate where one candidate is left.

        Return a bound on its error, and what the product with any other column does not exceed, float32 [N] each.
        """
        rows = np.arange(len(self.rows))
        if self.integers(columns):
            products, error = self.estimate(columns, exact_MD)
        else:
            products, error = self.exact_ND @ exact_MD.T, np.full(len(rows), np.float32(ROUNDING))
        guess = products.argmax(axis=1)
        value = products[rows, guess]
        pairs = np.flatnonzero(products > (value - 2 * error)[:, None])
        owner, column = np.divmod(pairs, len(columns))
        products[rows, guess] = -np.inf
        others = products.max(axis=1) + error
        sure = np.bincount(owner, minlength=len(guess)) == 1
        doubtful = ~sure[owner]
        if doubtful.sum() > DENSE_SHARE * products.size:
            self.compare_all(exact_MD, 0, None)
            return np.full(len(guess), np.float32(ROUNDING)), np.full(len(guess), np.float32(np.inf))
        self.best_N[sure], self.index_N[sure] = value[sure], guess[sure]
        self.improve(owner[doubtful], column[doubtful], exact_MD, 0)
        return np.where(sure, error, np.float32(0)), np.where(sure, others, np.float32(np.inf))

    def estimate(self, columns: Quantised, exact_MD: Float32) -> tuple[Float32, Float32]:
        """Return products from the codes, float32 [N, M], and a bound on the error of each row's, float32 [N]."""
        rows = self.rows
        integers = torch._int_mm(as_tensor(rows.codes_ND), as_tensor(columns.codes_ND).T)
        products = torch.mul(integers, as_tensor(columns.scale_N)).mul_(as_tensor(rows.scale_N)[:, None])
        products.add_(as_tensor(exact_MD @ rows.origin_D))
        row_part = self.exact_ND @ columns.origin_D - rows.origin_D @ columns.origin_D
        products.add_(as_tensor(row_part)[:, None])
        residual, length = columns.residual_N.max(), (columns.length_N + columns.residual_N).max()
        return products.numpy(), rows.residual_N * length + rows.length_N * residual + np.float32(ROUNDING)

    def improve(self, rows_P: Indices, columns_P: Indices, exact_MD: Float32, left: int) -> None:
        """Compute some pairs exactly and keep what is better, or equal with an earlier column."""
        for start in range(0, len(rows_P), PAIRS):
            rows, columns = rows_P[start : start + PAIRS], columns_P[start : start + PAIRS]
            values = paired(self.exact_ND[rows], exact_MD[columns])
            order = np.lexsort((columns, -values, rows))
            first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
            self.keep(rows[first], values[first], columns[first] + left)

    def compare_all(self, exact_MD: Float32, left: int, later: npt.NDArray[np.bool_] | None) -> None:
        """Compute all pairs in float32, then in float64 what is within rounding of the best, or all if that is much."""
        products = self.exact_ND @ exact_MD.T
        if later is not None:
            products[later] = -np.inf
        highest = products.max(axis=1)
        near = (products >= (highest - ROUNDING)[:, None]) & np.isfinite(highest)[:, None]
        if np.count_nonzero(near) <= TIES * len(products):
            self.improve(*np.divmod(np.flatnonzero(near), products.shape[1]), exact_MD, left)
            return
        products = (self.exact_ND.astype(np.float64) @ exact_MD.astype(np.float64).T).astype(np.float32)
        if later is not None:
            products[later] = -np.inf
        rows, guess = np.flatnonzero(np.isfinite(highest)), products.argmax(axis=1)
        self.keep(rows, products[rows, guess[rows]], guess[rows] + left)

    def keep(self, rows: Indices, values: Float32, columns: Indices) -> None:
        """Take over, for rows named once each, what is better than what they have."""
        better = (values > self.best_N[rows]) | ((values == self.best_N[rows]) & (columns < self.index_N[rows]))
        self.best_N[rows[better]], self.index_N[rows[better]] = values[better], columns[better]
