"""The perceptual hash of a picture: 64 bits that hardly change when it is scaled, recompressed or relit evenly.

PHash by its published definition (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010; the
bits are those of imagededup's PHash): brightness at 32 x 32, its DCT, and of the 8 x 8 lowest frequencies which are
at least the median of all but the constant one. A bit is a sign, so contrast and brightness do not count; what moves
through the picture, or a caption over a still one, hardly shows.

OURS: the cosines are whole numbers (14 bits), so that every product and sum is exact in float64 and the hash is the
same on every chip, and the picture comes from a JPEG's brightness alone at an eighth, quarter or half of its size. It
uses neither files nor Ray.

Legend: S the side of the picture; F the side of the square of frequencies.
"""

import numpy as np
import numpy.typing as npt

from curation.frames.samples import Pixels

SIDE = 32  # S
FREQUENCIES = 8  # F
BITS = FREQUENCIES**2
SCALE = 1 << 14  # of a cosine


def _cosines() -> npt.NDArray[np.float64]:
    """The lowest rows of the DCT-II, whole numbers [F, S]."""
    angles = np.pi / (2 * SIDE) * np.outer(np.arange(FREQUENCIES), 2 * np.arange(SIDE) + 1)
    rounded: npt.NDArray[np.float64] = np.rint(np.cos(angles) * SCALE)
    return rounded


COSINES = _cosines()


def perceptual_hash(brightness_SS: Pixels) -> str:
    """The hash of a picture of 32 x 32 as 16 hex characters, the constant frequency first.

    A picture of one shade has a hash too, the same one for all shades.
    """
    assert brightness_SS.shape == (SIDE, SIDE), brightness_SS.shape
    found = (COSINES @ brightness_SS.astype(np.float64) @ COSINES.T).ravel()  # below 2^53: exact in any order
    return np.packbits(found >= np.median(found[1:])).tobytes().hex()
