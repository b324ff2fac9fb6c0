"""The strips or tiles of a TIFF page to its samples, whatever their bits, order, layout and compression.

Deflate is Python's, other compressions are libtiff's through Pillow: neither makes more bytes than the page may have.

Legend: H, W height and width in pixels; S samples per pixel.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from curation.frames.samples import FrameError, Limits, Samples

NONE, DEFLATE = 1, (8, 32946)
LIBTIFF = {5: "LZW", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
SAMPLE_FORMATS = {1: "u", 2: "i", 3: "f", 4: "u"}  # of sample formats


@dataclass(frozen=True)
class _Layout:
    """How a page is cut: segments (strips or tiles) of `rows` x `columns` pixels, `down` x `across` per plane."""

    rows: int
    columns: int
    down: int
    across: int
    samples: int  # per pixel of a segment
    planes: int
    bits: int

    @property
    def row_bytes(self) -> int:
        return (self.columns * self.samples * self.bits + 7) // 8

    @property
    def segments(self) -> int:
        return self.down * self.across


def _layout(page: Any, limits: Limits) -> _Layout:
    width, height, bits = page.imagewidth, page.imagelength, page.bitspersample
    if not isinstance(bits, int) or int(page.sampleformat) not in SAMPLE_FORMATS or not 1 <= bits <= 64:
        raise FrameError("unsupported", f"samples of {bits} bits, format {page.sampleformat}; expected one kind")
    if bits > 16 and bits not in (32, 64):
        raise FrameError("unsupported", f"samples of {bits} bits; expected 1 to 16, 32 or 64")
    chunky = page.planarconfig != 2
    count = page.samplesperpixel
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip or height, width)
    if rows < 1 or columns < 1 or count < 1:
        raise FrameError("corrupt", f"segments of {columns} x {rows} pixels and {count} samples; expected at least one")
    layout = _Layout(
        min(rows, height) if not page.is_tiled else rows,
        columns,
        math.ceil(height / rows),
        math.ceil(width / columns),
        count if chunky else 1,
        1 if chunky else count,
        bits,
    )
    need = layout.row_bytes * layout.rows * layout.segments * layout.planes
    need = max(need, width * height * count * max(1, bits // 8))
    if need > limits.bytes:
        raise FrameError("too large", f"samples take {need} bytes, more than {limits.bytes}")
    return layout


def read_samples(data: bytes, page: Any, limits: Limits) -> Samples:
    """All samples of a page of tifffile [H, W, S] in their own type. FrameError as tiff.read_tiff."""
    layout = _layout(page, limits)
    height, width = page.imagelength, page.imagewidth
    planes = []
    for plane in range(layout.planes):
        packed = _decompressed(data, page, layout, plane)
        samples = _undone(_unpacked(packed, page, layout), page.predictor)
        tall = samples.reshape(layout.down, layout.across, layout.rows, layout.columns, layout.samples)
        tall = tall.transpose(0, 2, 1, 3, 4).reshape(layout.down * layout.rows, -1, layout.samples)
        planes.append(tall[:height, :width])
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _decompressed(data: bytes, page: Any, layout: _Layout, plane: int) -> bytes:
    """The bytes of all segments of a plane, each of layout.rows rows; a shorter last strip is filled with zeros."""
    first = plane * layout.segments
    offsets = page.dataoffsets[first : first + layout.segments]
    counts = page.databytecounts[first : first + layout.segments]
    full = layout.row_bytes * layout.rows
    sizes = [full] * layout.segments
    if not page.is_tiled:
        sizes[-1] = layout.row_bytes * (page.imagelength - layout.rows * (layout.down - 1))
    if page.compression == NONE:
        counts = sizes  # the file's own are often wrong, and not needed
    if len(offsets) < layout.segments or len(counts) < layout.segments:
        raise FrameError("corrupt", f"{min(len(offsets), len(counts))} segments; expected {layout.segments} per plane")
    segments = [data[offset : offset + count] for offset, count in zip(offsets, counts, strict=True)]
    if any(not offset or len(part) < count for offset, count, part in zip(offsets, counts, segments, strict=True)):
        raise FrameError("truncated", "the file ends before its samples do")
    if page.compression == NONE:
        packed = b"".join(segments)
        if page.fillorder == 2:
            packed = np.packbits(np.unpackbits(np.frombuffer(packed, np.uint8)), bitorder="little").tobytes()
    elif page.compression in DEFLATE and page.fillorder != 2:
        packed = b"".join(map(_inflated, segments, sizes))
    elif page.compression in LIBTIFF:
        packed = _by_libtiff(segments, page, layout, sum(sizes) // layout.row_bytes)
    else:
        raise FrameError("unsupported", f"TIFF compression {int(page.compression)}; save it without, or with LZW")
    return packed.ljust(full * layout.segments, b"\0")


def _inflated(segment: bytes, size: int) -> bytes:
    """Inflate `size` bytes of a segment: what a decompression bomb holds beyond them is never made."""
    found = zlib.decompressobj().decompress(segment, size)
    if len(found) < size:
        raise FrameError("truncated", f"a segment holds {len(found)} bytes; expected {size}")
    return found


def _by_libtiff(segments: list[bytes], page: Any, layout: _Layout, rows: int) -> bytes:
    """Decompress through Pillow, as the strips of a gray TIFF whose pixels are our bytes."""
    tags = [
        (256, layout.row_bytes),
        (257, rows),
        (258, 8),
        (259, int(page.compression)),
        (262, 1),
        (266, int(page.fillorder) if page.fillorder == 2 else 1),
        (277, 1),
        (278, layout.rows),
    ]
    count = len(segments)
    head = 8 + 2 + 12 * (len(tags) + 2) + 4
    starts = np.cumsum([0, *map(len, segments)])[:-1] + head + 8 * count
    sizes = [len(segment) for segment in segments]
    if count == 1:
        places, lengths = int(starts[0]), sizes[0]
    else:
        places, lengths = head, head + 4 * count
    entries = [(tag, 1, value) for tag, value in tags] + [(273, count, places), (279, count, lengths)]
    ifd = b"".join(struct.pack("<HHII", tag, 4, number, value) for tag, number, value in sorted(entries))
    lists = struct.pack(f"<{count}I", *starts) + struct.pack(f"<{count}I", *sizes)
    small = struct.pack("<4sIH", b"II*\0", 8, len(entries)) + ifd + bytes(4) + lists + b"".join(segments)
    with Image.open(io.BytesIO(small), formats=("TIFF",)) as image:
        return image.tobytes()


def _unpacked(packed: bytes, page: Any, layout: _Layout) -> Samples:
    """Bytes to samples [rows of all segments, columns, samples per pixel]."""
    bits, kind = layout.bits, SAMPLE_FORMATS[int(page.sampleformat)]
    shape = (-1, layout.columns, layout.samples)
    order = page.parent.byteorder
    if bits in (8, 16, 32, 64):
        if kind == "f" and bits == 8:
            raise FrameError("unsupported", "floating point of 8 bits; expected 16, 32 or 64")
        if kind == "f" and page.predictor == 3:
            return _float_undone(packed, layout)
        found: Samples = np.frombuffer(packed, np.dtype(f"{order}{kind}{bits // 8}")).reshape(shape)
        return found.astype(found.dtype.newbyteorder("="), copy=False)
    if kind != "u":
        raise FrameError("unsupported", f"signed or floating samples of {bits} bits; expected 8, 16, 32 or 64")
    used = layout.columns * layout.samples * bits
    flags = np.unpackbits(np.frombuffer(packed, np.uint8).reshape(-1, layout.row_bytes), axis=1)[:, :used]
    flags = flags.reshape(-1, layout.columns * layout.samples, bits)
    values = np.zeros(flags.shape[:2], np.uint8 if bits < 8 else np.uint16)
    for place in range(bits):
        values = (values << 1) | flags[:, :, place]
    return values.reshape(shape)


def _undone(samples: Samples, predictor: int) -> Samples:
    """Take back horizontal differences (predictor 2), which wrap around."""
    if predictor == 2 and samples.dtype.kind in "iu":
        return np.cumsum(samples, axis=1, dtype=samples.dtype)
    if predictor in (1, 3):
        return samples
    raise FrameError("unsupported", f"TIFF predictor {int(predictor)} of {samples.dtype}; save it without")


def _float_undone(packed: bytes, layout: _Layout) -> Samples:
    """Take back the floating-point predictor: differences of bytes, all first bytes of a row before all second ones."""
    size = layout.bits // 8
    rows = np.frombuffer(packed, np.uint8).reshape(-1, layout.columns * size, layout.samples)
    rows = np.cumsum(rows, axis=1, dtype=np.uint8)
    parts = rows.reshape(len(rows), size, layout.columns * layout.samples).transpose(0, 2, 1)
    values = np.ascontiguousarray(parts).view(f">f{size}")
    return values.astype(f"=f{size}").reshape(-1, layout.columns, layout.samples)
