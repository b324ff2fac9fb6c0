"""A stream of random numbers for each purpose: equal seeds never make two choices alike. It loads NumPy alone.

Without it, the frames that k-means is seeded from would be those of the random baseline, since both are drawn by a
frame's key and the run's seed (OURS).
"""

import hashlib

import numpy as np


def salted(seed: int, purpose: str) -> int:
    """Return the seed (0 to 2^63 - 1) that `seed` comes to for one purpose, as for torch.Generator."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the generator of a seed for one purpose; `numbers` tell apart what is drawn for it more than once."""
    return np.random.default_rng([salted(seed, purpose), *numbers])
