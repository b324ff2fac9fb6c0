"""Vectors and keys as the steps pass them around: unit length, centring, a frame's random but fixed number.

Unit vectors hold multiples of 2^-24 only (as those of float16 do): the products of two such numbers, and sums of them
up to 4, are free of rounding in float64. So a similarity computed in float64 is the same to the last bit, in whatever
blocks, order or library, and on whatever chip (OURS).

Legend: N vectors of D dimensions. A key is a frame's 64-bit number, drawn from its frame_id.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from curation import seeds

Float32 = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.floating]  # float16 or float32
Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
GRID = 2.0**24
ROUNDING = 4e-6  # of products of unit vectors in float32 arithmetic, with room to spare
PAIRS = 4096  # products of single pairs computed at once
UNIT_TOLERANCE = 0.02  # by which the squared length of a stored vector may differ from 1


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor on the array's own memory, which is read and not written (Ray's arrays cannot be)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def keys_of(frame_ids: list[str]) -> Keys:
    """Return the first 64 bits of each frame_id (32 hex characters)."""
    return np.frombuffer(bytes.fromhex("".join(frame_ids)), dtype=">u8")[::2].astype(np.uint64)


def scramble(keys_N: Keys, seed: int, purpose: str) -> Keys:
    """Return a pseudo-random number for each key (the SplitMix64 finaliser, a bijection of the keys).

    Another for each seed, and for each purpose: choices made for different purposes are independent.
    """
    mixed = keys_N ^ seeds.generator(seed, purpose).integers(0, 2**64, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def on_grid(x_ND: npt.NDArray[np.floating]) -> Vectors:
    """Return the rows rounded to multiples of 2^-24, in float32; rows of float16 are such already and unchanged.

    Elements must be from -1 to 1, so that float32 holds each multiple exactly.
    """
    if x_ND.dtype == np.float16:
        return x_ND
    rounded: Float32 = (np.rint(x_ND * GRID) / GRID).astype(np.float32)
    return rounded


def to_unit(x_ND: Vectors) -> Float32:
    """Return the rows in float32 at unit length, on the grid; a zero row stays zero."""
    x: Float32 = as_tensor(x_ND).float().numpy()  # ten times as fast as NumPy from float16
    norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64)).astype(np.float32)
    scaled = torch.from_numpy(x / np.maximum(norms, np.float32(1e-12))[:, None])
    units: Float32 = scaled.mul_(GRID).round_().div_(GRID).numpy()
    return units


def centered(x_ND: Vectors, mean_D: Float32) -> Vectors:
    """Return the rows less the mean, at unit length again, in the type they came in."""
    return to_unit(as_tensor(x_ND).float().numpy() - mean_D).astype(x_ND.dtype)


def paired(x_PD: Vectors, y_PD: Vectors) -> Float32:
    """Return the product of each row with the other's, float32 [P], computed in float64."""
    products = np.empty(len(x_PD), np.float32)
    for start in range(0, len(x_PD), PAIRS):
        x, y = (as_tensor(side[start : start + PAIRS]).double() for side in (x_PD, y_PD))
        products[start : start + PAIRS] = torch.linalg.vecdot(x, y).float().numpy()
    return products


def faults(x_ND: Vectors) -> npt.NDArray[np.intp]:
    """Return the rows that are not vectors of unit length: not finite, zero, or of another length."""
    x = as_tensor(x_ND).float().numpy()
    squared = np.einsum("nd,nd->n", x, x)
    return np.flatnonzero(~(np.abs(squared - 1) <= UNIT_TOLERANCE))  # NaN compares as False


def limit_threads(cpus: int) -> None:
    """Hold NumPy and PyTorch in this process to `cpus` threads.

    Both start threads of their own, as many as the machine has cores, which would compete with other tasks.
    """
    torch.set_num_threads(cpus)
    threadpool_limits(cpus)
