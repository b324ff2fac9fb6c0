"""Images that are the same picture at another size, found by correlating small gray copies. It knows no split.

Exact copies have equal bytes; the same picture scaled, or recompressed, does not. Two images are near copies where
their gray copies of SIDE x SIDE, each less its own copy of COARSE x COARSE (so that lighting is not compared),
correlate by LEAST or more (OURS). On 1,000 polyp frames and their originals in full size all 30 originals reach 0.9998;
only three pairs of the frames, each one picture, pass 0.995, the next pair, a moment apart, has 0.982 and different
scenes stay below 0.91. Three in four successive frames of a slow video pass it too, and count as near copies. A copy
that is cropped, rotated or mirrored is not found.

Legend: N images, P pixels of a small copy.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from curation.embeddings.vectors import as_tensor

SIDE, COARSE = 32, 4
LEAST = 0.995
FLAT = 0.5  # gray levels of deviation below which an image has nothing to compare
COMPARED_AT_ONCE = 256

Float32 = npt.NDArray[np.float32]


def small_copies(images: npt.NDArray[np.uint8]) -> Float32:
    """Return small gray copies less their coarse ones, of unit length, float32 [N, P], of images uint8 [N, S, S, 3].

    Zero where an image is flat.
    """
    rows = []
    for start in range(0, len(images), COMPARED_AT_ONCE):
        piece = as_tensor(np.ascontiguousarray(images[start : start + COMPARED_AT_ONCE])).float().mean(dim=3)
        gray = functional.adaptive_avg_pool2d(piece[:, None], SIDE)
        coarse = functional.adaptive_avg_pool2d(gray, COARSE)
        lit = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        small = (gray - lit).flatten(1)
        small = small - small.mean(dim=1, keepdim=True)
        small[small.std(dim=1, correction=0) < FLAT] = 0
        rows.append(functional.normalize(small, dim=1))
    return torch.cat(rows).numpy() if rows else np.zeros((0, SIDE * SIDE), np.float32)


def near_pairs(queries_NP: Float32, known_NP: Float32) -> Iterator[tuple[int, int]]:
    """Yield (query row, known row) of every pair of near copies, in order; memory is BLOCK rows of similarities."""
    for start in range(0, len(queries_NP), COMPARED_AT_ONCE):
        found = np.argwhere(queries_NP[start : start + COMPARED_AT_ONCE] @ known_NP.T >= LEAST)
        yield from ((start + int(row), int(other)) for row, other in found)
