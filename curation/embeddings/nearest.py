"""The exact nearest of many vectors, found through 8-bit integers. It knows neither clusters nor duplicates.

Chips multiply 8-bit integers four times as fast as float32. So both sides are coded as int8 (less an origin, so that
what they have in common costs no precision), the products are taken in integers, and only pairs that could still
beat the best known one are computed exactly. What the codes miss of each vector is known, and by the
Cauchy-Schwarz inequality bounds every product's error: the result is that of comparing all pairs (OURS).

Products that decide are computed in float64, which is free of rounding for unit vectors on the grid (vectors.py), and
then rounded to float32; of equal ones the first column is named. So neither blocks nor chip show in a result.

Legend: N rows and M columns of D dimensions.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from curation.embeddings.vectors import Float32, Vectors, as_tensor

Indices = npt.NDArray[np.int64]
BLOCK = 1 << 20  # products at once: what a core's cache holds
COLUMNS = 2048
PAIRS = 4096  # single pairs computed at once
FEW_COLUMNS = 256  # below which the codes do not pay
DENSE_SHARE = 1 / 100  # of a block's pairs left to compute, above which computing all at once is faster
TIES = 16  # columns a row, on average, above which all are computed in float64 at once
ROUNDING = 4e-6  # of float32 arithmetic on unit vectors, with room to spare
NOTHING = np.float32(-1)  # similarity of a row that no column may be compared with


@dataclass(frozen=True)
class Coded:
    """Vectors, and their int8 codes: vector = origin + scale * code + what the code misses."""

    vectors_ND: Vectors
    codes_ND: npt.NDArray[np.int8]
    scale_N: Float32
    length_N: Float32  # of scale * code
    missed_N: Float32  # length of what the code misses
    origin_D: Float32

    def __getitem__(self, rows: slice) -> "Coded":
        """Return some of the rows, without copying."""
        scale, length, missed = self.scale_N[rows], self.length_N[rows], self.missed_N[rows]
        return Coded(self.vectors_ND[rows], self.codes_ND[rows], scale, length, missed, self.origin_D)

    def __len__(self) -> int:
        return len(self.codes_ND)


@functools.cache
def integers_are_fast() -> bool:
    """Whether this chip has instructions for products of 8-bit integers."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def code(vectors_ND: Vectors, origin_D: Float32) -> Coded:
    """Code vectors (float16 or float32) as int8 around an origin, each with a scale of its own. Costs O(N D)."""
    shape = vectors_ND.shape
    codes = np.empty(shape, np.int8)
    scale, length, missed = (np.empty(len(vectors_ND), np.float32) for _ in range(3))
    for start in range(0, len(vectors_ND), 1024):
        rows = slice(start, start + 1024)
        rest = as_tensor(vectors_ND[rows]).float() - as_tensor(origin_D)
        step = (rest.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        rounded = (rest / step).round_()
        codes[rows] = rounded.to(torch.int8).numpy()
        coded = rounded.mul_(step)
        scale[rows] = step[:, 0].numpy()
        length[rows] = torch.linalg.vector_norm(coded, dim=1).numpy()
        missed[rows] = torch.linalg.vector_norm(rest.sub_(coded), dim=1).numpy()
    return Coded(vectors_ND, codes, scale, length, missed, origin_D)


def paired(x_PD: Vectors, y_PD: Vectors) -> Float32:
    """Return the product of each row with the other's, float32 [P], computed in float64."""
    products = np.empty(len(x_PD), np.float32)
    for start in range(0, len(x_PD), PAIRS):
        x, y = (as_tensor(side[start : start + PAIRS]).double() for side in (x_PD, y_PD))
        products[start : start + PAIRS] = torch.linalg.vecdot(x, y).float().numpy()
    return products


def nearest(rows: Coded, columns: Coded, before: int | None = None) -> tuple[Float32, Indices]:
    """Return each row's highest dot product with a column, float32 [N], and that column's index, int64 [N].

    With `before`, row i is compared with columns below i + before only; a row that has none gets -1 and index -1. Of
    equal columns the first is named. Costs at most N M D operations, and memory for one block.
    """
    best, index = np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1, np.int64)
    width = min(COLUMNS, len(columns))
    height = max(64, BLOCK // max(1, width))
    for top in range(0, len(rows), height):
        block = rows[top : top + height]
        exact = as_tensor(block.vectors_ND).float().numpy()
        last = len(columns) if before is None else min(len(columns), top + len(block) - 1 + before)
        search = Search(block, exact, best[top : top + height], index[top : top + height])
        for left in range(0, last, width):
            search.compare(columns[left : min(left + width, last)], left, None if before is None else top + before)
    found = index >= 0
    return np.where(found, best, NOTHING), index


def nearest_index(rows: Coded, columns: Coded) -> tuple[Float32, Float32, Indices]:
    """Return each row's nearest column, int64 [N], an estimate of their dot product, and its error, float32 [N] each.

    For when the column is wanted and the product is not: where the codes leave one candidate, as for most rows, float32
    arithmetic is saved altogether. The error is a bound, 0 where the product was computed. All columns at once.
    """
    best, error = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.float32)
    index = np.full(len(rows), -1, np.int64)
    height = max(64, BLOCK // max(1, len(columns)))
    exact_columns = as_tensor(columns.vectors_ND).float().numpy()
    for top in range(0, len(rows), height):
        block = rows[top : top + height]
        here = slice(top, top + len(block))
        exact = as_tensor(block.vectors_ND).float().numpy()
        search = Search(block, exact, best[here], index[here])
        error[here] = search.settle(columns, exact_columns)
    return best, error, index


@dataclass(frozen=True)
class Search:
    """A block of rows with the best column each has met so far; `best_N` and `index_N` are written in place."""

    rows: Coded
    exact_ND: Float32
    best_N: Float32
    index_N: Indices

    def compare(self, columns: Coded, left: int, before: int | None) -> None:
        """Meet some columns, the first of which is number `left`; row i only those below i + before."""
        later = None
        if before is not None and left + len(columns) > before:
            later = np.arange(left, left + len(columns)) >= np.arange(before, before + len(self.rows))[:, None]
        exact = as_tensor(columns.vectors_ND).float().numpy()
        if len(columns) < FEW_COLUMNS or not integers_are_fast():
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

    def settle(self, columns: Coded, exact_MD: Float32) -> Float32:
        """Meet all columns there are; leave an estimate where one candidate is left, and return its error bound."""
        if not integers_are_fast():
            self.compare_all(exact_MD, 0, None)
            return np.full(len(self.rows), np.float32(ROUNDING))
        products, error = self.estimate(columns, exact_MD)
        guess = products.argmax(axis=1)
        value = products[np.arange(len(guess)), guess]
        pairs = np.flatnonzero(products > (value - 2 * error)[:, None])
        owner, column = np.divmod(pairs, len(columns))
        sure = np.bincount(owner, minlength=len(guess)) == 1
        doubtful = ~sure[owner]
        if doubtful.sum() > DENSE_SHARE * products.size:
            self.compare_all(exact_MD, 0, None)
            return np.full(len(guess), np.float32(ROUNDING))
        self.best_N[sure], self.index_N[sure] = value[sure], guess[sure]
        self.improve(owner[doubtful], column[doubtful], exact_MD, 0)
        return np.where(sure, error, np.float32(0))

    def estimate(self, columns: Coded, exact_MD: Float32) -> tuple[Float32, Float32]:
        """Return products from the codes, float32 [N, M], and a bound on the error of each row's, float32 [N]."""
        rows = self.rows
        integers = torch._int_mm(as_tensor(rows.codes_ND), as_tensor(columns.codes_ND).T)
        products = torch.mul(integers, as_tensor(columns.scale_N)).mul_(as_tensor(rows.scale_N)[:, None])
        products.add_(as_tensor(exact_MD @ rows.origin_D))
        row_part = self.exact_ND @ columns.origin_D - rows.origin_D @ columns.origin_D
        products.add_(as_tensor(row_part)[:, None])
        missed, length = columns.missed_N.max(), (columns.length_N + columns.missed_N).max()
        return products.numpy(), rows.missed_N * length + rows.length_N * missed + np.float32(ROUNDING)

    def improve(self, rows_P: Indices, columns_P: Indices, exact_MD: Float32, left: int) -> None:
        """Compute some pairs exactly and keep what is better, or equal with an earlier column."""
        for start in range(0, len(rows_P), PAIRS):
            rows, columns = rows_P[start : start + PAIRS], columns_P[start : start + PAIRS]
            values = paired(self.exact_ND[rows], exact_MD[columns])
            order = np.lexsort((columns, -values, rows))
            first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
            self.keep(rows[first], values[first], columns[first] + left)

    def compare_all(self, exact_MD: Float32, left: int, later: npt.NDArray[np.bool_] | None) -> None:
        """Compute all pairs in float32, and again what is within rounding of the best; all of it where that is much."""
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
