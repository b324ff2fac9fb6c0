"""The exact nearest of many vectors with PyTorch, as a GPU does it best. nearest.py is its front door.

All products are computed in float32, and those within rounding of a row's best again in float64. A consumer GPU has a
32nd or 64th of its float32 rate in float64, so only where vectors are nearly all alike is a block computed in it whole.

Legend: N rows and M columns of D dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from curation.embeddings.vectors import ROUNDING, Float32, Indices, Vectors, as_tensor

GPU_BLOCK = 4096  # rows and columns compared at once: 64 MiB of products
GPU_PAIRS = 1 << 16  # single products computed in float64 at once
GPU_DENSE_SHARE = 1 / 64  # of a block's products near the best, above which all are computed in float64 at once


def nearest_on_gpu(
    rows_ND: Vectors, columns_MD: Vectors, limit_N: Indices | None, device: str
) -> tuple[Float32, Indices]:
    """Return each row's highest dot product and the first column that has it; -inf and -1 where there is none.

    Row i meets columns below limit_N[i] only.
    """
    best, index = np.full(len(rows_ND), -np.inf, np.float32), np.full(len(rows_ND), -1, np.int64)
    columns = as_tensor(columns_MD).to(device).float()
    with _whole_float32():
        for top in range(0, len(rows_ND), GPU_BLOCK):
            rows = as_tensor(rows_ND[top : top + GPU_BLOCK]).to(device).float()
            limit = None if limit_N is None else torch.from_numpy(limit_N[top : top + len(rows)]).to(device)
            found = _nearest_of_block(rows, columns, limit)
            best[top : top + GPU_BLOCK], index[top : top + GPU_BLOCK] = (column.cpu().numpy() for column in found)
    return best, index


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Forbid TF32 and bfloat16 in float32 products, which some containers allow: ROUNDING is of whole float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _nearest_of_block(
    rows_ND: torch.Tensor, columns_MD: torch.Tensor, limit_N: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `nearest_on_gpu`, for one block of rows: row i meets columns below limit_N[i]."""
    best = rows_ND.new_full((len(rows_ND),), -torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    last = len(columns_MD) if limit_N is None else min(len(columns_MD), int(limit_N.max()))
    for left in range(0, last, GPU_BLOCK):
        columns = columns_MD[left : min(left + GPU_BLOCK, last)]
        later = None if limit_N is None else torch.arange(left, left + len(columns), device=best.device)
        later = None if later is None or limit_N is None else later >= limit_N[:, None]
        products = rows_ND @ columns.T
        if later is not None:
            products.masked_fill_(later, -torch.inf)
        high = torch.maximum(products.amax(dim=1), best)
        near = (products >= (high - ROUNDING)[:, None]) & products.isfinite()
        if int(near.sum()) > max(GPU_PAIRS, GPU_DENSE_SHARE * near.numel()):
            exact = (rows_ND.double() @ columns.double().T).float()
            exact = exact if later is None else exact.masked_fill_(later, -torch.inf)
            value = exact.amax(dim=1)
            first = torch.where(exact == value[:, None], 1, 0).argmax(dim=1) + left  # argmax of equals may be any
        else:
            value, first = _best_of_pairs(rows_ND, columns, near.nonzero(), left)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, first, index)
    return best, index


def _best_of_pairs(
    rows_ND: torch.Tensor, columns_MD: torch.Tensor, pairs_P2: torch.Tensor, left: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each row the highest product among its pairs, in float64 rounded to float32, and its first column."""
    owner, column = pairs_P2.unbind(1)
    chunks = zip(torch.split(owner, GPU_PAIRS), torch.split(column, GPU_PAIRS), strict=True)
    products = [(rows_ND[some].double() * columns_MD[others].double()).sum(dim=1).float() for some, others in chunks]
    value = torch.cat([*products, rows_ND.new_empty(0)])
    best = rows_ND.new_full((len(rows_ND),), -torch.inf).scatter_reduce_(0, owner, value, "amax")
    first = torch.full_like(best, torch.iinfo(torch.int64).max, dtype=torch.int64)
    equal = value == best[owner]
    first.scatter_reduce_(0, owner[equal], column[equal] + left, "amin")
    return best, first
