"""Vectors and keys as the steps pass them around: unit length, centring, a frame's random but fixed number.

Legend: N vectors of D dimensions. A key is a frame's 64-bit number, drawn from its frame_id.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

Float32 = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.floating]  # float16 or float32
Keys = npt.NDArray[np.uint64]


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Return a tensor on the array's own memory, which is read and not written (Ray's arrays cannot be)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def keys_of(frame_ids: list[str]) -> Keys:
    """Return the first 64 bits of each frame_id (32 hex characters)."""
    return np.frombuffer(bytes.fromhex("".join(frame_ids)), dtype=">u8")[::2].astype(np.uint64)


def scramble(keys_N: Keys, seed: int) -> Keys:
    """Return a pseudo-random number for each key and `seed` (the SplitMix64 finaliser, a bijection of the keys)."""
    mixed = keys_N ^ np.random.default_rng(seed).integers(0, 2**64, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def to_unit(x_ND: Vectors) -> Float32:
    """Return the rows in float32 at unit length; a zero row stays zero."""
    x: Float32 = as_tensor(x_ND).float().numpy()  # ten times as fast as NumPy from float16
    norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64)).astype(np.float32)
    units: Float32 = x / np.maximum(norms, np.float32(1e-12))[:, None]
    return units


def centered(x_ND: Vectors, mean_D: Float32) -> Vectors:
    """Return the rows less the mean, at unit length again, in the type they came in."""
    return to_unit(as_tensor(x_ND).float().numpy() - mean_D).astype(x_ND.dtype)


def limit_threads(cpus: int) -> None:
    """Hold NumPy and PyTorch in this process to `cpus` threads.

    Both bring threads of their own, as many as the machine has cores, which would fight each other and other tasks.
    """
    torch.set_num_threads(cpus)
    threadpool_limits(cpus)
