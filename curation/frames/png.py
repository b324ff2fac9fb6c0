"""PNG files of 16 bits to raw samples, and what Pillow leaves out of PNG: sBIT, late eXIf, keys of few bits.

Pillow gives gray of 16 bits as it is, but of colours and of gray with alpha only the upper byte of each sample: 12 bits
in 16 would be black. Its decoder gives the lower bytes too, when asked for samples in the other byte order.

Legend: H, W height and width in pixels; C channels.
"""

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from curation.frames import pillow
from curation.frames.samples import Raw, Samples

DEPTH, COLOUR = 24, 25  # offsets in a file of the bits per sample and the colour type
GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
RAWMODES = {RGB: ("RGB;16B", "RGB;16L"), RGB_ALPHA: ("RGBA;16B", "RGBA;16L"), GRAY_ALPHA: ("RGBA", None)}


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether an opened image is a PNG of 16 bits per sample."""
    return image.format == "PNG" and data[DEPTH] == 16


def read_png(image: Image.Image, data: bytes) -> Raw:
    """The samples of an opened PNG of 16 bits. It raises what Pillow does."""
    colour, key = data[COLOUR], image.info.get("transparency")
    samples_HWC = _gray(image) if colour == GRAY else _coloured(image, data)
    bits = significant_bits(data)
    white = (1 << bits) - 1 if 8 < bits < 16 else 0
    if colour in (GRAY_ALPHA, RGB_ALPHA):
        return Raw(samples_HWC[:, :, :-1], white, samples_HWC[:, :, -1])
    if key is None:
        return Raw(samples_HWC, white)
    shown_HW = (samples_HWC != np.atleast_1d(key).astype(np.uint16)).any(axis=2)
    return Raw(samples_HWC, white, shown_HW)


def _gray(image: Image.Image) -> Samples:
    return np.asarray(image).astype(np.uint16)[:, :, None]


def _coloured(image: Image.Image, data: bytes) -> Samples:
    upper, lower = RAWMODES[data[COLOUR]]
    high_HWC = _bytes(image, upper)
    if lower is None:  # gray and alpha, upper and lower byte each
        pairs_HWC = high_HWC.astype(np.uint16)
        return pairs_HWC[:, :, 0::2] << 8 | pairs_HWC[:, :, 1::2]
    with pillow.opened(data, ("PNG",)) as again:
        low_HWC = _bytes(again, lower)
    return high_HWC.astype(np.uint16) << 8 | low_HWC


def _bytes(image: Image.Image, rawmode: str) -> Samples:
    assert isinstance(image, PngImageFile)
    image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    return np.asarray(image)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk, as far as the file is whole; no more than 64 bytes of the content."""
    place = 8
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8 : place + 8 + min(size, 64)]
        place += 12 + size


def significant_bits(data: bytes) -> int:
    """The most bits that an sBIT chunk names, 0 where there is none."""
    return next((max(content, default=0) for kind, content in png_chunks(data) if kind == b"sBIT"), 0)


def has_late_exif(image: Image.Image, data: bytes) -> bool:
    """Whether an opened image is a PNG whose EXIF follows its pixels: Pillow finds it only after loading."""
    early = "exif" in image.info or image.format != "PNG"
    return not early and any(kind == b"eXIf" for kind, _ in png_chunks(data))


def scale_key(image: Image.Image, data: bytes) -> None:
    """Correct the transparent value of gray of 2 or 4 bits, which Pillow does not scale with the samples."""
    key = image.info.get("transparency")
    if data[COLOUR] == GRAY and data[DEPTH] in (2, 4) and isinstance(key, int):
        image.info["transparency"] = key * (255 // ((1 << data[DEPTH]) - 1))
