"""An independent random stream for each purpose, even where seeds are equal. It imports only NumPy.

Without it, k-means would be seeded from the same frames that the random baseline keeps, since both are drawn by a
frame's key and the run's seed (OURS).
"""

import hashlib

import numpy as np


def salted(seed: int, purpose: str) -> int:
    """Return the seed (0 to 2^63 - 1) derived from `seed` for one purpose, as for torch.Generator."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the generator of a seed for one purpose; `numbers` distinguish its several streams."""
    return np.random.default_rng([salted(seed, purpose), *numbers])
