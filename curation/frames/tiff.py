"""TIFF files to raw samples: tifffile reads the tags, strips.py the samples, the colours are corrected here.

Tags are trusted where they can be true: three samples tagged as gray are RGB (CVC-ClinicDB), a palette that is not
there is gray, one sample tagged as RGB is gray. JPEG, fax and WebP within a TIFF, and YCbCr, are left to Pillow.
Every allocation is checked against the limits before it is made.

Legend: H, W height and width in pixels; C channels, S samples per pixel.
"""

import io
from typing import Any

import numpy as np
import tifffile

from curation.frames import pillow
from curation.frames.samples import FrameError, Limits, Raw, Samples, eight_bits
from curation.frames.strips import SAMPLE_FORMATS, read_samples

MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PILLOW = {2, 3, 4, 6, 7, 32771, 34892, 50001}  # fax, JPEG, WebP: more than bytes are in their strips
GRAY, RGB, PALETTE, CMYK, YCBCR = (0, 1), 2, 3, 5, 6  # photometric; gray where 0 is white, and where it is black
UNREAD = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a colour filter array", 32844: "LogL", 32845: "LogLuv"}
MULTIPLIED, APART = 1, 2  # alpha that the colours are multiplied by already, or not
MAX_SAMPLE_VALUE = 281


def read_tiff(data: bytes, limits: Limits) -> tuple[Raw, int]:
    """The first page, and how many more there are. FrameError: too large, truncated, corrupt, unsupported."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return _page(data, file.pages[0], 0, limits), len(file.pages) - 1


def read_pages(data: bytes, limits: Limits) -> list[Raw]:
    """All pages as large as the first, which together keep to the limit of bytes. FrameError as `read_tiff`."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first: Any = file.pages[0]
        taken, pages = 0, []
        for number in range(len(file.pages)):
            page = file.pages[number].aspage()
            if (page.imagewidth, page.imagelength) == (first.imagewidth, first.imagelength):
                pages.append(_page(data, page, number, limits))
                taken += pages[-1].colour_HWC.nbytes
                if taken > limits.bytes:
                    raise FrameError("too large", f"{len(pages)} pages take more than {limits.bytes} bytes")
    return pages


def _page(data: bytes, page: Any, number: int, limits: Limits) -> Raw:
    limits.check(page.imagewidth, page.imagelength)
    if page.imagedepth != 1:
        raise FrameError("unsupported", f"a volume of {page.imagedepth} layers; expected a picture")
    if page.compression in PILLOW or page.photometric == YCBCR:
        return _by_pillow(data, number, limits)
    if page.photometric in UNREAD:
        raise FrameError("unsupported", f"colours are {UNREAD[page.photometric]}; expected gray, RGB or CMYK")
    samples_HWS = read_samples(data, page, limits)
    return _coloured(page, samples_HWS)


def _by_pillow(data: bytes, number: int, limits: Limits) -> Raw:
    with pillow.opened(data, ("TIFF",)) as image:
        if number:
            image.seek(number)
        limits.check(*image.size)
        image.load()  # which turns it upright
        if image.mode in ("1", "L", "I;16", "I;16B", "I", "F"):
            return Raw(np.asarray(image)[:, :, None])
        if image.mode in ("RGBA", "LA", "PA"):
            rgba_HWC = np.asarray(image.convert("RGBA"))
            return Raw(rgba_HWC[:, :, :3], alpha_HW=rgba_HWC[:, :, 3])
        return Raw(np.asarray(image.convert("RGB")))


def _coloured(page: Any, samples_HWS: Samples) -> Raw:
    """Samples to gray or RGB, by the tags where they can be true."""
    photometric, count = page.photometric, samples_HWS.shape[2]
    turn = page.tags.valueof(pillow.ORIENTATION, 1)
    turn = turn if turn in pillow.TURNS else 1
    declared = _declared_white(page)
    if photometric == PALETTE and page.colormap is not None:
        return Raw(_resolved(samples_HWS[:, :, 0], page.colormap), orientation=turn)
    if photometric == CMYK and count >= 4:
        inks = eight_bits(samples_HWS[:, :, :4], declared).astype(np.uint16)
        rgb = (255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) + 127
        return Raw((rgb // 255).astype(np.uint8), orientation=turn)
    colours = 3 if count >= 3 else 1
    if count > 4 and photometric != RGB:
        raise FrameError("unsupported", f"{count} samples per pixel tagged as {photometric}; expected 4 at most")
    extra = _extra_samples(page, count, colours)
    alpha_HW = samples_HWS[:, :, colours] if extra == APART else None
    inverted = photometric == 0 and count < 3 and page.tags.valueof(262) == 0
    return Raw(samples_HWS[:, :, :colours], declared, alpha_HW, inverted, turn)


def _extra_samples(page: Any, count: int, colours: int) -> int:
    """What the first sample behind the colours is: MULTIPLIED, APART, or 0 if it is not alpha."""
    kinds = tuple(int(kind) for kind in page.extrasamples)
    place = len(kinds) - (count - colours)
    return kinds[place] if count > colours and 0 <= place < len(kinds) else 0


def _declared_white(page: Any) -> int:
    """The value that the tags declare to be white, 0 where they only say how samples are stored."""
    kind, bits = SAMPLE_FORMATS[int(page.sampleformat)], page.bitspersample
    if kind == "f":
        return 0
    if bits < 8 or 8 < bits < 16:
        return int((1 << bits) - 1)
    found = page.tags.valueof(MAX_SAMPLE_VALUE)
    found = max(found) if isinstance(found, tuple) and found else found
    usable = isinstance(found, int) and bits > 8 and 255 <= found < (1 << bits)
    return int(found) if usable and found not in ((1 << bits) - 1, 0) else 0


def _resolved(index_HW: Samples, colormap_3N: Samples) -> Samples:
    """The colours of a palette, uint8 [H, W, 3]. Its 16 bits may hold 8."""
    if index_HW.max(initial=0) >= colormap_3N.shape[1]:
        raise FrameError("corrupt", f"colour {index_HW.max()} of a palette of {colormap_3N.shape[1]}")
    wide = colormap_3N.max(initial=0) > 255
    colours_N3 = (colormap_3N >> 8 if wide else colormap_3N).astype(np.uint8).T
    return np.ascontiguousarray(colours_N3)[index_HW]
