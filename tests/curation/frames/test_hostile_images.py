"""Files as people have them, made here, each with its right outcome: the picture, a reason, or a count."""

import io
import itertools
import logging
import re
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import ExifTags, Image, ImageFile

from curation.frames import decoding, pillow, samples

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


def picture(seed: int = 0) -> Array:
    """A smooth picture, uint8 [HEIGHT, WIDTH, 3], with no symmetry, that uses all values from 0 to 255."""
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pixels[0, 0], pixels[-1, -1] = 0, 255
    return pixels


RGB = picture()
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
GRAYS = np.repeat(GRAY[:, :, None], 3, axis=2)
ALPHA = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :].repeat(HEIGHT, axis=0)
ON_BLACK = (RGB.astype(np.uint16) * ALPHA[:, :, None] + 127) // 255
GRAYS_ON_BLACK = (GRAYS.astype(np.uint16) * ALPHA[:, :, None] + 127) // 255


def tiff(array: Array, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def encoded(image: Array | Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def png(rows: list[bytes], depth: int, colour: int, *extra: tuple[bytes, bytes], size: Any = (WIDTH, HEIGHT)) -> bytes:
    """A PNG of raw rows with further chunks before its pixels: what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    coded = (struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def png16(array: Array, colour: int, *extra: tuple[bytes, bytes]) -> bytes:
    return png([row.astype(">u2").tobytes() for row in array], 16, colour, *extra)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Orientation] = orientation
    return found


def planar(array: Array) -> Array:
    return np.moveaxis(array, 2, 0)


def deep(array: Array) -> Array:
    return array.astype(np.uint16) * 257


def layouts() -> dict[str, tuple[bytes, Array]]:
    """TIFFs of RGB: both ways to place samples, strips and tiles, byte orders, BigTIFF, right and wrong tags."""
    tags = ("rgb", "minisblack", "miniswhite")
    cuts: tuple[dict[str, Any], ...] = ({}, {"tile": (16, 32)}, {"rowsperstrip": 7})
    found = {}
    for apart, order, big, tag, cut in itertools.product((False, True), "<>", (False, True), tags, cuts):
        options = {"planarconfig": "separate" if apart else "contig", "byteorder": order, "bigtiff": big} | cut
        data = tiff(planar(RGB) if apart else RGB, photometric=tag, **options)
        found[f"{options} {tag}"] = (data, RGB)
    return found


def sample_types() -> dict[str, tuple[bytes, Array]]:
    """Gray TIFFs of every type of sample, in both byte orders, plain and deflated."""
    wide = GRAY.astype(np.int64)
    arrays = {
        "u8": GRAY,
        "8 in 16": wide.astype(np.uint16),
        "10 in 16": (wide * 4).astype(np.uint16),
        "12 in 16": (wide * 16).astype(np.uint16),
        "14 in 16": (wide * 64).astype(np.uint16),
        "u16": (wide * 257).astype(np.uint16),
        "i8": (wide // 2).astype(np.int8),
        "i16": (wide * 128).astype(np.int16),
        "i32": (wide * 257).astype(np.int32),
        "12 in i32": (wide * 16).astype(np.int32),
        "u32": (wide * 257 * 65537).astype(np.uint32),
        "8 in u64": wide.astype(np.uint64),
        "half": (GRAY / 255).astype(np.float16),
        "float to 1": (GRAY / 255).astype(np.float32),
        "double to 1": GRAY / 255,
        "float to 255": GRAY.astype(np.float32),
        "float to 65535": (wide * 257).astype(np.float32),
    }
    ways = list(itertools.product(arrays.items(), "<>", (None, "zlib")))
    return {
        f"{name} {order} {packing}": (
            tiff(array, photometric="minisblack", byteorder=order, compression=packing),
            GRAYS,
        )
        for (name, array), order, packing in ways
    }


def packed_bits(bits: int, planes: int = 1) -> bytes:
    """A TIFF of `bits` a sample without gaps, as 12-bit cameras write them."""
    values = np.repeat((GRAY.astype(np.uint32) * ((1 << bits) - 1) + 127) // 255, planes, axis=1)
    flags = ((values[:, :, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).reshape(HEIGHT, -1)
    content = np.packbits(flags, axis=1).tobytes()
    photometric = 2 if planes == 3 else 1
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, planes)]
    tags += [(278, HEIGHT), (279, len(content))]
    # BitsPerSample has a value for each sample; one is what many writers leave it at
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<4sI", b"II*\0", 8 + len(content)) + content + struct.pack("<H", len(tags)) + ifd + bytes(4)


def writable(packing: str) -> bool:
    """Whether this Pillow's libtiff has a compression."""
    try:
        return bool(encoded(GRAY, "TIFF", compression=packing))
    except OSError:
        return False


def compressions() -> dict[str, tuple[bytes, Array]]:
    """What libtiff writes, in every mode that it does."""
    found = {}
    packings = ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"]
    for packing in filter(writable, packings):
        for mode in ("RGB", "L", "P", "1", "CMYK", "LA", "RGBA"):
            image = Image.fromarray(RGB).convert(mode)
            found[f"{packing} {mode}"] = (encoded(image, "TIFF", compression=packing), np.asarray(image.convert("RGB")))
        found[f"{packing} I;16"] = (encoded(deep(GRAY), "TIFF", compression=packing), GRAYS)
    for packing in ("group3", "group4", "tiff_ccitt"):
        image = Image.fromarray(RGB).convert("1")
        found[packing] = (encoded(image, "TIFF", compression=packing), np.asarray(image.convert("RGB")))
    for predictor, dtype in itertools.product((1, 2), (np.uint8, np.uint16)):
        image = Image.fromarray(RGB if dtype == np.uint8 else deep(GRAY))
        data = encoded(image, "TIFF", compression="tiff_lzw", tiffinfo={317: predictor})
        found[f"predictor {predictor} {image.mode}"] = (data, RGB if dtype == np.uint8 else GRAYS)
    return found


def lossy() -> dict[str, tuple[bytes, Array]]:
    """Within 3 of 255 on average."""
    return {
        "jpeg in tiff": (encoded(RGB, "TIFF", compression="jpeg", quality=95), RGB),
        "gray jpeg in tiff": (encoded(GRAY, "TIFF", compression="jpeg", quality=95), GRAYS),
        "progressive": (encoded(RGB, "JPEG", progressive=True, quality=95), RGB),
        "gray jpeg": (encoded(GRAY, "JPEG", quality=95), GRAYS),
        "cmyk of adobe": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95), RGB),
        "bytes behind the end": (encoded(RGB, "JPEG", quality=95) + bytes(200_000), RGB),
        "webp": (encoded(RGB, "WEBP", quality=95), RGB),
    }


def alphas() -> dict[str, tuple[bytes, Array]]:
    """Transparency in every format that has it, on black."""
    rgba, la = np.dstack([RGB, ALPHA]), np.dstack([GRAY, ALPHA])
    half = (RGB.astype(np.uint16) * ALPHA[:, :, None] + 127) // 255
    palette = Image.fromarray(GRAY).quantize(16)
    clear = bytes([0] * 8 + [255] * 8)
    shown = np.where(np.asarray(palette)[:, :, None] < 8, 0, np.asarray(palette.convert("RGB")))
    level = int(GRAY[20, 20])
    keyed = np.where(level == GRAYS, 0, GRAYS)
    colour = RGB[20, 20]
    keyed_rgb = np.where((colour == RGB).all(axis=2, keepdims=True), 0, RGB)
    four = (GRAY >> 4).astype(np.uint8)
    rows4 = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 4:].ravel()).tobytes() for row in four]
    keyed4 = np.where(four[:, :, None] == 9, 0, np.repeat(four[:, :, None] * 17, 3, axis=2))
    key = struct.pack(">H", level * 257)
    apart, within = {"extrasamples": ["unassalpha"]}, {"extrasamples": ["assocalpha"]}
    return {
        "rgba png": (encoded(rgba, "PNG"), ON_BLACK),
        "rgba webp": (encoded(rgba, "WEBP", lossless=True, exact=True), ON_BLACK),
        "la png": (encoded(Image.merge("LA", [*map(Image.fromarray, (GRAY, ALPHA))]), "PNG"), GRAYS_ON_BLACK),
        "rgba16 png": (png16(deep(rgba), 6), ON_BLACK),
        "la16 png": (png16(deep(la), 4), GRAYS_ON_BLACK),
        "palette png": (encoded(palette, "PNG", transparency=clear), shown),
        "gray key png": (encoded(GRAY, "PNG", transparency=level), keyed),
        "rgb key png": (encoded(RGB, "PNG", transparency=tuple(map(int, colour))), keyed_rgb),
        "gray16 key png": (png16(deep(GRAY), 0, (b"tRNS", key)), keyed),
        "rgb16 key png": (png16(deep(RGB), 2, (b"tRNS", struct.pack(">3H", *map(int, deep(colour))))), keyed_rgb),
        "4 bits key png": (png(rows4, 4, 0, (b"tRNS", struct.pack(">H", 9))), keyed4),
        "rgba tiff": (tiff(rgba, photometric="rgb", **apart), ON_BLACK),
        "rgba16 tiff": (tiff(deep(rgba), photometric="rgb", **apart), ON_BLACK),
        "planar rgba tiff": (tiff(planar(rgba), photometric="rgb", planarconfig="separate", **apart), ON_BLACK),
        "la tiff": (tiff(la, photometric="minisblack", planarconfig="contig", **apart), GRAYS_ON_BLACK),
        "multiplied tiff": (tiff(np.dstack([half.astype(np.uint8), ALPHA]), photometric="rgb", **within), half),
        "a fourth sample that is no alpha": (tiff(rgba, photometric="rgb", extrasamples=["unspecified"]), RGB),
        "wholly clear": (encoded(np.dstack([RGB, ALPHA * 0]), "PNG"), RGB * 0),
    }


def others() -> dict[str, tuple[bytes, Array]]:
    """16-bit PNG of any range, MINISWHITE, few bits, BMP of all depths."""
    twelve = RGB.astype(np.uint16) * 16
    dark = np.full((HEIGHT, WIDTH, 3), 700, np.uint16)
    inks = 255 - np.dstack([RGB, RGB[:, :, 0] * 0 + 255])
    bmp32 = encoded(np.dstack([RGB, ALPHA * 0]), "BMP")
    found: dict[str, tuple[bytes, Array]] = {
        "rgb16 png": (png16(deep(RGB), 2), RGB),
        "12 in 16 rgb png": (png16(twelve, 2), RGB),
        "12 in 16 gray png": (png16(twelve[:, :, 0], 0), np.repeat(RGB[:, :, :1], 3, axis=2)),
        "10 of 12 declared bits": (png16(dark, 2, (b"sBIT", b"\x0c\x0c\x0c")), dark * (255 / 4095)),
        "max sample value": (
            tiff(dark[:, :, 0], photometric="minisblack", extratags=[(281, "H", 1, 4095, True)]),
            dark * (255 / 4095),
        ),
        "palette of few": (encoded(Image.fromarray(GRAY).quantize(8), "PNG"), None),
        "interlaced": (encoded(RGB, "PNG"), RGB),
        "0 is white": (tiff(255 - GRAY, photometric="miniswhite"), GRAYS),
        "0 is white, 16": (tiff(65535 - deep(GRAY), photometric="miniswhite"), GRAYS),
        "truth": (tiff(GRAY > 127, photometric="minisblack"), np.where(GRAYS > 127, 255, 0)),
        "cmyk, deflated": (tiff(inks, photometric="separated", compression="zlib"), RGB),
        "bmp of 1": (encoded(Image.fromarray(GRAY).convert("1"), "BMP"), None),
        "bmp of 32 without alpha": (bmp32, RGB),
        "all black": (encoded(RGB * 0, "PNG"), RGB * 0),
        "black of 16 bits": (tiff(deep(GRAY * 0), photometric="minisblack"), RGB * 0),
        "black of floats": (tiff((GRAY * 0).astype(np.float32), photometric="minisblack"), RGB * 0),
    }
    for bits in (2, 4, 10, 12, 14):
        found[f"{bits} bits"] = (
            packed_bits(bits),
            np.round(np.round(GRAYS / 255 * (2**bits - 1)) / (2**bits - 1) * 255),
        )
    found["12 bits rgb"] = (packed_bits(12, 3), GRAYS)
    for name in ("palette of few", "bmp of 1"):
        with Image.open(io.BytesIO(found[name][0])) as image:
            found[name] = (found[name][0], np.asarray(image.convert("RGB")))
    return found


@cache
def exact() -> dict[str, tuple[bytes, Array]]:
    return layouts() | sample_types() | compressions() | alphas() | others()


def rejected(data: bytes, limit: int = LIMIT) -> str:
    """The reason, which `inspect` or at last `decode` gives."""
    try:
        decoding.inspect(data, limit)
    except decoding.FrameError as error:
        return error.reason
    with pytest.raises(decoding.FrameError) as caught:
        decoding.decode(data, 32, limit)
    return caught.value.reason


@pytest.mark.parametrize("name", exact())
def test_every_kind_is_the_picture(name: str) -> None:
    """Within 1 of 255: by full size, by size as a frame, and by what is looked at first."""
    data, expected = exact()[name]
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    found = decoding.rgb(data, LIMIT)
    assert (found.dtype, found.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    assert np.abs(found.astype(float) - expected).max() <= 1.01
    squeezed = Image.fromarray(np.asarray(expected).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(decoding.decode(data, 32, LIMIT).astype(float) - squeezed).mean() <= 1


@pytest.mark.parametrize("name", lossy())
def test_lossy_kinds_are_close_to_the_picture(name: str) -> None:
    data, expected = lossy()[name]
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    assert np.abs(decoding.rgb(data, LIMIT).astype(float) - expected).mean() <= 3


def oriented(kind: str, turn: int) -> bytes:
    """RGB stored so that it is upright once turned by `turn`; for WIDTH x HEIGHT."""
    back = {6: 8, 8: 6}.get(turn, turn)
    stored = np.asarray(pillow.upright(Image.fromarray(RGB), back))
    if kind == "TIFF":
        return tiff(stored, photometric="rgb", extratags=[(274, "H", 1, turn, True)])
    if kind == "late PNG":  # the tag stands behind the pixels
        data = encoded(stored, "PNG")
        body = b"eXIf" + exif(turn).tobytes()[6:]
        return data[:-12] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[-12:]
    if kind == "PNG16":
        body = exif(turn).tobytes()[6:]
        return png(
            [row.astype(">u2").tobytes() for row in deep(stored)], 16, 2, (b"eXIf", body), size=stored.shape[1::-1]
        )
    options: dict[str, Any] = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(stored, kind, exif=exif(turn), **options | ({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "late PNG", "PNG16", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_and_masks_are_upright(kind: str, turn: int) -> None:
    data = oriented(kind, turn)
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    allowed = 2 if kind == "JPEG" else 0
    for found in (decoding.rgb(data, LIMIT), decoding.planes(data, LIMIT)):
        assert found.shape == RGB.shape
        assert np.abs(found.astype(float) - RGB).mean() <= allowed
    squeezed = Image.fromarray(RGB).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(decoding.decode(data, 16, LIMIT).astype(float) - squeezed).mean() <= allowed


@pytest.mark.parametrize("turn", [0, 9, 77])
def test_orientations_that_are_none_are_ignored(turn: int) -> None:
    assert np.array_equal(decoding.rgb(encoded(RGB, "PNG", exif=exif(turn))), RGB)


def test_damaged_exif_leaves_the_picture() -> None:
    for content in (b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM"):
        data = encoded(RGB, "JPEG", exif=content, quality=95)
        assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
        assert decoding.decode(data, 16, LIMIT).any()


def test_a_turned_jpeg_is_still_scaled_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    big = Image.fromarray(RGB).resize((1280, 1003), Image.Resampling.BICUBIC)
    data = encoded(big.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif(6))
    seen: list[Any] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, *rest: seen.append(image.size) or resize(image, *rest))
    found = decoding.decode(data, 100)
    assert seen == [(126, 160)]
    monkeypatch.undo()
    assert np.abs(found.astype(float) - big.resize((100, 100), Image.Resampling.BICUBIC)).mean() < 2


def pages(kind: str, count: int, **options: Any) -> bytes:
    first, *more = (Image.fromarray(picture(seed)) for seed in range(count))
    return encoded(first, kind, save_all=True, append_images=more, **options)


@pytest.mark.parametrize(
    ("kind", "options"), [("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("MPO", {"quality": 95})]
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_frame_is_read_and_the_others_are_counted(kind: str, options: dict[str, Any], count: int) -> None:
    count = min(count, 2) if kind == "MPO" else count  # Pillow 11.0 writes no more than two of them right
    data = pages(kind, count, **options)
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, count - 1)
    assert np.abs(decoding.rgb(data, LIMIT).astype(float) - RGB).mean() <= (3 if kind == "MPO" else 0)


def header(side: int) -> bytes:
    """A TIFF of 100 bytes that says it is side x side."""
    data = bytearray(tiff(GRAY[:2, :2], photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            found = file.pages[0].tags[tag]
            size = {3: 2, 4: 4}[int(found.dtype)]
            data[found.valueoffset : found.valueoffset + size] = min(side, 256**size - 1).to_bytes(size, "little")
    return bytes(data)


def deflate_bomb() -> bytes:
    """A TIFF of 2 x 2 pixels whose one strip would be 60 MB."""
    bomb = zlib.compress(bytes(60 << 20), 9)
    data = tiff(GRAY[:2, :2], photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        offset, count = tags["StripOffsets"].valueoffset, tags["StripByteCounts"].valueoffset
    changed = bytearray(data + bomb)
    changed[offset : offset + 4] = struct.pack("<I", len(data))
    changed[count : count + 4] = struct.pack("<I", len(bomb))
    return bytes(changed)


def text_bomb() -> bytes:
    body = b"a\0\0" + zlib.compress(bytes(70 << 20), 9)
    return png([bytes(WIDTH * 3)] * HEIGHT, 8, 2, (b"zTXt", body))


NAN = np.where(GRAY > 250, np.nan, GRAY).astype(np.float32)
REJECTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a number": (lambda: tiff(NAN, photometric="minisblack"), "unsupported"),
    "infinite": (lambda: tiff(np.where(GRAY > 250, np.inf, GRAY), photometric="minisblack"), "unsupported"),
    "negative": (lambda: tiff(GRAY.astype(np.int16) - 100, photometric="minisblack"), "unsupported"),
    "negative floats": (lambda: tiff(GRAY / 255 - 0.5, photometric="minisblack"), "unsupported"),
    "complex": (lambda: tiff(GRAY.astype(np.complex64), photometric="minisblack"), "unsupported"),
    "beyond 32 bits": (lambda: tiff(GRAY.astype(np.float64) * 1e12, photometric="minisblack"), "unsupported"),
    "seven channels": (
        lambda: tiff(np.dstack([RGB, RGB, GRAY]), photometric="minisblack", planarconfig="contig"),
        "unsupported",
    ),
    "cielab": (lambda: tiff(RGB, photometric="cielab"), "unsupported"),
    "volume": (
        lambda: tiff(np.stack([GRAY] * 16), photometric="minisblack", volumetric=True, tile=(16, 16, 16)),
        "unsupported",
    ),
    "gif": (lambda: encoded(GRAY, "GIF"), "not an image"),
    "eps": (lambda: encoded(RGB, "EPS"), "not an image"),
    "ppm": (lambda: encoded(RGB, "PPM"), "not an image"),
    "tga": (lambda: encoded(RGB, "TGA"), "not an image"),
    "ico": (lambda: encoded(RGB, "ICO"), "not an image"),
    "pdf": (lambda: encoded(RGB, "PDF"), "not an image"),
    "jpeg 2000": (lambda: encoded(RGB, "JPEG2000"), "not an image"),
    "pointer of git lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not an image",
    ),
    "apple double": (lambda: b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(138), "not an image"),
    "too many pixels": (lambda: header(60_000), "too large"),
    "too many pixels, webp": (lambda: encoded(np.zeros((1100, 1100, 3), np.uint8), "WEBP"), "too large"),
    "text bomb": (text_bomb, "too large"),
    "no pixel": (lambda: png([], 8, 2, size=(0, 5)), "not an image"),
    "no width": (lambda: header(0), "corrupt"),
    "end of tiff missing": (lambda: tiff(RGB, photometric="rgb")[:-500], "truncated"),
    "end of deflated tiff missing": (lambda: tiff(RGB, photometric="rgb", compression="zlib")[:-500], "truncated"),
    "end of lzw tiff missing": (lambda: encoded(RGB, "TIFF", compression="tiff_lzw")[:2000], "corrupt"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_picture_is_rejected_with_its_reason(name: str) -> None:
    make, reason = REJECTED[name]
    assert rejected(make()) == reason


@pytest.mark.parametrize(
    ("name", "word"), [("gif", "GIF"), ("eps", "PostScript"), ("pointer of git lfs", "git lfs pull")]
)
def test_a_known_kind_is_named(name: str, word: str) -> None:
    with pytest.raises(decoding.FrameError) as caught:
        decoding.inspect(REJECTED[name][0](), LIMIT)
    assert word in caught.value.message


def test_limits_hold_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    data = deflate_bomb()
    tracemalloc.start()
    assert decoding.rgb(data, LIMIT).shape == (2, 2, 3)  # what the bomb holds beyond its 4 pixels is never made
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    assert rejected(encoded(RGB, "PNG")) == "too large"
    with pytest.raises(decoding.FrameError, match="1001 bytes, more than 1000"):
        decoding.check_bytes(1001)
    small = tiff(np.zeros((40, 40, 3), np.uint8), photometric="rgb", compression="zlib")
    assert len(small) < 1000
    assert rejected(small) == "too large"
    monkeypatch.setattr(decoding, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(decoding, "MAX_SIDE", 1000)
    assert rejected(encoded(np.zeros((1, 1001), np.uint8), "PNG")) == "too large"
    assert decoding.decode(encoded(np.full((1, 999), 9, np.uint8), "PNG"), 8).tolist() == [[[9] * 3] * 8] * 8


def test_a_limit_is_that_of_every_decode() -> None:
    """As many pixels as were found at first, and no more."""
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP"):
        data = encoded(RGB, kind)
        for read in (lambda limit: decoding.decode(data, 8, limit), lambda limit: decoding.rgb(data, limit)):  # noqa: B023
            assert read(WIDTH * HEIGHT).ndim == 3
            with pytest.raises(decoding.FrameError, match="67 x 50 pixels, more than 3349"):
                read(WIDTH * HEIGHT - 1)


def test_codes_of_masks_are_not_scaled() -> None:
    codes = (GRAY // 40).astype(np.uint8)  # 0 to 6
    plain = codes[:, :, None]
    for data in (
        encoded(codes, "PNG"),
        encoded(codes, "TIFF"),
        encoded(codes, "BMP"),
        png16(codes, 0),
        *(
            tiff(codes.astype(kind), photometric="minisblack")
            for kind in (np.uint16, np.int8, np.int16, np.int32, np.uint32)
        ),
        tiff(codes, photometric="minisblack", compression="zlib", tile=(16, 16)),
    ):
        assert np.array_equal(decoding.planes(data, LIMIT), plain)
    turned = tiff(
        np.asarray(Image.fromarray(codes).transpose(Image.Transpose.ROTATE_90)),
        photometric="minisblack",
        extratags=[(274, "H", 1, 6, True)],
    )
    assert np.array_equal(decoding.planes(turned, LIMIT), plain)
    clear = np.dstack([codes, codes, codes, codes * 0])
    assert np.array_equal(decoding.planes(encoded(clear, "PNG"), LIMIT), clear[:, :, :3])
    assert np.array_equal(decoding.planes(tiff(deep(GRAY), photometric="minisblack"), LIMIT), GRAY[:, :, None])
    with pytest.raises(decoding.FrameError, match="samples are float32; expected 8 or 16 bits"):
        decoding.planes(tiff(codes.astype(np.float32), photometric="minisblack"), LIMIT)


def test_nothing_global_is_left_and_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    state = (list(warnings.filters), [list(logging.getLogger(name).filters) for name in pillow.LOGGERS])
    wanted = [(data, decoding.rgb(data)) for data in (encoded(RGB, "JPEG"), encoded(RGB, "PNG"), tiff(RGB))]
    cut = encoded(RGB, "JPEG")[:-400]
    wrong: list[Any] = []

    def read() -> None:
        for _ in range(30):
            wrong.extend(data[:4] for data, pixels in wanted if not np.array_equal(decoding.rgb(data), pixels))
            try:
                wrong.append(decoding.decode(cut, 8))
            except decoding.FrameError as error:
                wrong.extend([] if error.reason == "truncated" else [error])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (10, True)
    assert (list(warnings.filters), [list(logging.getLogger(name).filters) for name in pillow.LOGGERS]) == state


def valid() -> dict[str, bytes]:
    """One file of each kind, for the fuzz."""
    chosen = {name: exact()[name][0] for name in (*alphas(), *compressions(), *others())}
    chosen |= {name: data for name, (data, _) in lossy().items() if len(data) < 100_000}
    chosen |= {f"{kind} turned": oriented(kind, 6) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "late PNG")}
    chosen |= {f"{kind} pages": pages(kind, 3) for kind in ("TIFF", "PNG", "WEBP", "MPO")}
    some = [name for number, name in enumerate(layouts()) if number % 7 == 0]
    return chosen | {name: exact()[name][0] for name in some}


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Some bytes changed, near the beginning more often, or a piece cut out, or the end cut off."""
    changed = bytearray(data)
    way = generator.integers(4)
    reach = len(data) if generator.integers(2) else min(300, len(data))
    if way == 0:
        return bytes(changed[: generator.integers(1, len(data))])
    if way == 1:
        start = int(generator.integers(reach))
        del changed[start : start + int(generator.integers(1, 40))]
    else:
        for _ in range(1 if way == 2 else 8):
            changed[int(generator.integers(reach))] = int(
                generator.choice([0, 1, 127, 128, 255, generator.integers(256)])
            )
    return bytes(changed)


@pytest.mark.parametrize("name", valid())
def test_damage_is_an_image_or_a_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Never another exception, a warning, a word on the console, or much time or memory."""
    data, generator = valid()[name], np.random.default_rng(zlib.crc32(name.encode()))
    reasons = set()
    for _ in range(15):
        broken = damaged(data, generator)
        begun = time.process_time()
        for read in (decoding.inspect, lambda data, limit: decoding.decode(data, 16, limit), decoding.planes):
            try:
                read(broken, LIMIT)
            except decoding.FrameError as error:
                reasons.add(error.reason)
        assert time.process_time() - begun < 5
    assert reasons <= {"not an image", "too large", "truncated", "corrupt", "unsupported"}
    out, err = capfd.readouterr()  # libtiff itself writes of damaged strips, one line each
    assert out == ""
    assert all(re.match(r"[\w.]*: |\w+Decode", line) for line in err.splitlines()), err


def test_the_range_of_samples_by_hand() -> None:
    for maximum, white in (
        (0, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4096, 16383),
        (16384, 65535),
    ):
        assert samples.white_of(np.array([0, maximum], np.uint16)) == white
    assert samples.white_of(np.array([700], np.uint16), 4095) == 4095
    assert samples.white_of(np.array([5000], np.uint16), 4095) == 16383
    assert samples.white_of(np.array([20_000], np.int16)) == 32767
    assert samples.white_of(np.array([1.0], np.float32)) == 1
    assert samples.white_of(np.array([1.5], np.float32)) == 255
    assert samples.white_of(np.array([300.5], np.float32)) == 1023
