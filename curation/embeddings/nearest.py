"""The exact nearest of many vectors: one front door, a CPU and a GPU behind it. It knows neither clusters nor frames.

Candidates are found in fast arithmetic (8-bit integers on a CPU, float32 on a GPU), and what could still be the nearest
is computed in float64, which is free of rounding for unit vectors on the grid (vectors.py), then rounded to float32. Of
equal columns the first is named. So neither blocks nor device show in a result.

Legend: N rows and M columns of D dimensions.
"""

from typing import TypeAlias

import numpy as np

from curation.embeddings import nearest_cpu, nearest_gpu
from curation.embeddings.nearest_cpu import Quantised
from curation.embeddings.vectors import Float32, Indices, Vectors, as_tensor, on_grid

Prepared: TypeAlias = Quantised | Vectors  # for a CPU, for a GPU; both can be sliced
NOTHING = np.float32(-1)  # similarity of a row that no column may be compared with


def prepare(x_ND: Vectors, device: str = "cpu") -> Prepared:
    """Return vectors (put on the grid) as the search of a device wants them; worth keeping where they are met again."""
    x_ND = on_grid(x_ND)
    if device != "cpu":
        return x_ND
    origin = np.zeros(x_ND.shape[1], np.float32)
    if len(x_ND) and nearest_cpu.integers_are_fast():
        origin = as_tensor(x_ND).double().mean(dim=0).float().numpy()
    return nearest_cpu.quantise(x_ND, origin)


def vectors_of(x_ND: Prepared) -> Vectors:
    """Return the vectors that were prepared."""
    return x_ND.vectors_ND if isinstance(x_ND, Quantised) else x_ND


def nearest(
    rows: Prepared, columns: Prepared, before: int | Indices | None = None, device: str = "cpu"
) -> tuple[Float32, Indices]:
    """Return each row's highest dot product with a column, float32 [N], and that column's index, int64 [N].

    With `before`, row i is compared with columns below i + before only, or below before[i] where it is an array, int64
    [N]; a row that has none gets -1 and index -1. Of equal columns the first is named. Costs at most N M D operations,
    less where `before` ascends, and memory for one block.
    """
    limit_N = before + np.arange(len(rows)) if isinstance(before, int) else before
    if device == "cpu":
        best, index = nearest_cpu.nearest_on_cpu(quantised(rows), quantised(columns), limit_N)
    else:
        best, index = nearest_gpu.nearest_on_gpu(vectors_of(rows), vectors_of(columns), limit_N, device)
    return np.where(index >= 0, best, NOTHING), index


def nearest_index(rows: Prepared, columns: Prepared, device: str = "cpu") -> tuple[Float32, Float32, Float32, Indices]:
    """Return an estimate of each row's highest dot product, a bound on its error, one on the others, and the column.

    That is float32 [N] three times and int64 [N]; the product with no other column is above the third. For when the
    column is wanted and the product is not: a CPU then need not compute a row exactly that has one candidate.
    """
    if device == "cpu":
        return nearest_cpu.index_on_cpu(quantised(rows), quantised(columns))
    best, index = nearest_gpu.nearest_on_gpu(vectors_of(rows), vectors_of(columns), None, device)
    return best, np.zeros_like(best), np.full_like(best, np.inf), index


def quantised(x_ND: Prepared) -> Quantised:
    """Return vectors coded, as they are where they were prepared for a CPU."""
    prepared = x_ND if isinstance(x_ND, Quantised) else prepare(x_ND)
    assert isinstance(prepared, Quantised)
    return prepared
