"""Raw samples of any type to 8 bits: which value is white, what is transparent. It depends on no file format.

The rules, for each file by itself (OURS):
- 1 to 8 bits: the largest value that the bits hold is white.
- More bits: white is the largest value of the smallest of 8, 10, 12, 14, 16, 24 and 32 bits that holds the file's
  maximum, and no less than what the file declares (BitsPerSample between 9 and 15, MaxSampleValue, sBIT). So 12 bits in
  16 are as bright as they are, whatever they are stored in. Signed samples have one bit less.
- Floating point: 0 to 1 where the maximum is 1 at most, 0 to 255 where it is 255 at most, else as integers are.
- Negative, infinite, undefined and complex samples are not brightness values: FrameError `unsupported`.
- What is transparent shows black behind it.

Legend: H, W height and width in pixels; C channels, 1 or 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]

CONTAINERS = (8, 10, 12, 14, 16, 24, 32)
SAMPLES_AT_ONCE = 1 << 22  # samples that are scaled at a time, so that no copy of all in floating point is made


class FrameError(ValueError):
    """A frame that cannot be used: a short reason from a fixed list, and what went wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Limits:
    """The most pixels, the longest side, and the most bytes that samples may take."""

    pixels: int
    side: int
    bytes: int

    def check(self, width: int, height: int) -> None:
        """Raise FrameError `too large` or, where a side is 0, `corrupt`."""
        if width < 1 or height < 1:
            raise FrameError("corrupt", f"{width} x {height} pixels; expected at least one")
        if width * height > self.pixels:
            raise FrameError("too large", f"{width} x {height} pixels, more than {self.pixels}")
        if max(width, height) > self.side:
            raise FrameError("too large", f"{width} x {height} pixels, a side of more than {self.side}")


@dataclass(frozen=True)
class Raw:
    """What a file holds, before its range is known.

    `white` is the value that the file declares to be white, or 0: white is at least that. `alpha_HW` is None where
    nothing is transparent or the colours are multiplied by it. `inverted`: 0 is white. `orientation` as in EXIF.
    """

    colour_HWC: Samples
    white: int = 0
    alpha_HW: Samples | None = None
    inverted: bool = False
    orientation: int = 1

    def picture(self) -> Pixels:
        """Return uint8 [H, W, 3] as a viewer shows it on black, in the file's own orientation."""
        pixels_HWC = eight_bits(self.colour_HWC, self.white)
        if self.inverted:
            pixels_HWC = 255 - pixels_HWC
        if self.alpha_HW is not None:
            alpha_HW = eight_bits(self.alpha_HW).astype(np.uint16)
            pixels_HWC = ((pixels_HWC * alpha_HW[:, :, None] + 127) // 255).astype(np.uint8)
        return np.repeat(pixels_HWC, 3, axis=2) if pixels_HWC.shape[2] == 1 else pixels_HWC

    def planes(self) -> Pixels:
        """Return uint8 [H, W, C] with integers that 8 bits hold kept as they are: they may number classes.

        Transparency is left out. FrameError `unsupported` for what is neither an integer nor a truth value.
        """
        if self.colour_HWC.dtype.kind not in "biu":
            raise FrameError("unsupported", f"samples are {self.colour_HWC.dtype}; expected 8 or 16 bits")
        few = 0 < self.white < 255  # fewer than 8 bits per sample
        kept = not few and self.colour_HWC.dtype.kind != "b" and _maximum(self.colour_HWC) <= 255
        planes_HWC = self.colour_HWC.astype(np.uint8) if kept else eight_bits(self.colour_HWC, self.white)
        return 255 - planes_HWC if self.inverted else planes_HWC


def eight_bits(samples: Samples, white: int = 0) -> Pixels:
    """Samples of any type and shape as uint8, by the rules above. FrameError `unsupported`."""
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * np.uint8(255)
    if samples.dtype == np.uint8 and white in (0, 255):
        return samples
    top = white_level(samples, white)
    if top == 255 and samples.dtype.kind in "iu":
        return samples.astype(np.uint8)
    scaled = np.empty(samples.shape, np.uint8)
    rows = max(1, SAMPLES_AT_ONCE // max(1, samples[:1].size))
    for start in range(0, len(samples), rows):
        block = samples[start : start + rows].astype(np.float64)
        block *= 255 / top
        block += 0.5
        scaled[start : start + rows] = block
    return scaled


def white_level(samples: Samples, white: int = 0) -> int:
    """The value that is white, at least `white` and at least the maximum. FrameError `unsupported`."""
    maximum = _maximum(samples)
    if samples.dtype == np.uint8:
        return white or 255
    if samples.dtype.kind == "f":
        if maximum <= 1:
            return 1
        if maximum <= 255:
            return 255
    bits = 8 * samples.dtype.itemsize - 1 if samples.dtype.kind == "i" else 64
    tops = sorted({(1 << min(container, bits)) - 1 for container in CONTAINERS} | ({white} if white else set()))
    for top in tops:
        if top >= maximum and top >= white:
            return top
    raise FrameError("unsupported", f"samples reach {maximum:g}; expected 32 bits at most")


def _maximum(samples: Samples) -> float:
    if samples.dtype.kind not in "biuf":
        raise FrameError("unsupported", f"samples are {samples.dtype}; expected integers or floating point")
    low, high = float(samples.min(initial=0)), float(samples.max(initial=0))
    if not np.isfinite(low) or not np.isfinite(high):
        raise FrameError("unsupported", "samples are not finite; expected values from 0 on")
    if low < 0:
        raise FrameError("unsupported", f"samples go down to {low:g}; expected values from 0 on")
    return high
