"""Files as people have them, made here: each is the picture, and once damaged it is an image or a reason."""

import io
import itertools
import re
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.frames import decoding

Array = npt.NDArray[Any]
Kinds = dict[str, tuple[bytes, Array]]
WIDTH, HEIGHT = 67, 50
LIMIT = 1_000_000


def layouts(files: Any) -> Kinds:
    """TIFFs of RGB: both ways to place samples, strips and tiles, byte orders, BigTIFF, right and wrong tags."""
    tiff, planar, RGB = files.tiff, files.planar, files.RGB
    tags = ("rgb", "minisblack", "miniswhite")
    cuts: tuple[dict[str, Any], ...] = ({}, {"tile": (16, 32)}, {"rowsperstrip": 7})
    found = {}
    for apart, order, big, tag, cut in itertools.product((False, True), "<>", (False, True), tags, cuts):
        options = {"planarconfig": "separate" if apart else "contig", "byteorder": order, "bigtiff": big} | cut
        data = tiff(planar(RGB) if apart else RGB, photometric=tag, **options)
        found[f"{options} {tag}"] = (data, RGB)
    return found


def sample_types(files: Any) -> Kinds:
    """Gray TIFFs of every type of sample, in both byte orders, plain and deflated."""
    tiff, GRAY, GRAYS = files.tiff, files.GRAY, files.GRAYS
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


def writable(packing: str) -> bool:
    """Whether this Pillow's libtiff has a compression."""
    try:
        Image.new("L", (8, 8)).save(io.BytesIO(), "TIFF", compression=packing)
    except OSError:
        return False
    return True


def compressions(files: Any) -> Kinds:
    """What libtiff writes, in every mode that it does."""
    encoded, deep, RGB, GRAY, GRAYS = files.encoded, files.deep, files.RGB, files.GRAY, files.GRAYS
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


def alphas(files: Any) -> Kinds:
    """Transparency in every format that has it, on black."""
    encoded, tiff, png, png16 = files.encoded, files.tiff, files.png, files.png16
    deep, planar = files.deep, files.planar
    RGB, GRAY, GRAYS, ALPHA = files.RGB, files.GRAY, files.GRAYS, files.ALPHA
    ON_BLACK, GRAYS_ON_BLACK = files.ON_BLACK, files.GRAYS_ON_BLACK
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


def others(files: Any) -> Kinds:
    """16-bit PNG of any range, MINISWHITE, few bits, BMP of all depths."""
    encoded, tiff, png16, deep = files.encoded, files.tiff, files.png16, files.deep
    RGB, GRAY, GRAYS = files.RGB, files.GRAY, files.GRAYS
    twelve = RGB.astype(np.uint16) * 16
    dark = np.full((HEIGHT, WIDTH, 3), 700, np.uint16)
    inks = 255 - np.dstack([RGB, RGB[:, :, 0] * 0 + 255])
    bmp32 = encoded(np.dstack([RGB, files.ALPHA * 0]), "BMP")
    found: Kinds = {
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
            files.packed(bits),
            np.round(np.round(GRAYS / 255 * (2**bits - 1)) / (2**bits - 1) * 255),
        )
    found["12 bits rgb"] = (files.packed(12, 3), GRAYS)
    for name in ("palette of few", "bmp of 1"):
        with Image.open(io.BytesIO(found[name][0])) as image:
            found[name] = (found[name][0], np.asarray(image.convert("RGB")))
    return found


@cache
def exact_kinds(files: Any) -> Kinds:
    return layouts(files) | sample_types(files) | compressions(files) | alphas(files) | others(files)


@cache
def lossy_kinds(files: Any) -> Kinds:
    """Within 3 of 255 on average."""
    encoded, RGB, GRAY, GRAYS = files.encoded, files.RGB, files.GRAY, files.GRAYS
    return {
        "jpeg in tiff": (encoded(RGB, "TIFF", compression="jpeg", quality=95), RGB),
        "gray jpeg in tiff": (encoded(GRAY, "TIFF", compression="jpeg", quality=95), GRAYS),
        "progressive": (encoded(RGB, "JPEG", progressive=True, quality=95), RGB),
        "gray jpeg": (encoded(GRAY, "JPEG", quality=95), GRAYS),
        "cmyk of adobe": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95), RGB),
        "bytes behind the end": (encoded(RGB, "JPEG", quality=95) + bytes(200_000), RGB),
        "webp": (encoded(RGB, "WEBP", quality=95), RGB),
    }


@cache
def valid_files(files: Any) -> dict[str, bytes]:
    """One file of each kind, for the fuzz."""
    chosen = {name: exact_kinds(files)[name][0] for name in (*alphas(files), *compressions(files), *others(files))}
    chosen |= {name: data for name, (data, _) in lossy_kinds(files).items() if len(data) < 100_000}
    chosen |= {f"{kind} turned": files.oriented(kind, 6) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "late PNG")}
    chosen |= {f"{kind} pages": files.pages(kind, 3) for kind in ("TIFF", "PNG", "WEBP", "MPO")}
    some = [name for number, name in enumerate(layouts(files)) if number % 7 == 0]
    return chosen | {name: exact_kinds(files)[name][0] for name in some}


TABLES = {
    "test_every_kind_is_the_picture": exact_kinds,
    "test_lossy_kinds_are_close_to_the_picture": lossy_kinds,
    "test_damage_is_an_image_or_a_reason": valid_files,
}


@pytest.fixture(scope="module")
def exact(files: Any) -> Callable[[], Kinds]:
    return lambda: exact_kinds(files)


@pytest.fixture(scope="module")
def lossy(files: Any) -> Callable[[], Kinds]:
    return lambda: lossy_kinds(files)


@pytest.fixture(scope="module")
def valid(files: Any) -> Callable[[], dict[str, bytes]]:
    return lambda: valid_files(files)


def test_every_kind_is_the_picture(exact: Callable[[], Kinds], name: str) -> None:
    """Within 1 of 255: by full size, by size as a frame, and by what is looked at first."""
    data, expected = exact()[name]
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    found = decoding.rgb(data, LIMIT)
    assert (found.dtype, found.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    assert np.abs(found.astype(float) - expected).max() <= 1.01
    squeezed = Image.fromarray(np.asarray(expected).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(decoding.decode(data, 32, LIMIT).astype(float) - squeezed).mean() <= 1


def test_lossy_kinds_are_close_to_the_picture(lossy: Callable[[], Kinds], name: str) -> None:
    data, expected = lossy()[name]
    assert decoding.inspect(data, LIMIT) == (WIDTH, HEIGHT, 0)
    assert np.abs(decoding.rgb(data, LIMIT).astype(float) - expected).mean() <= 3


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


def test_damage_is_an_image_or_a_reason(
    valid: Callable[[], dict[str, bytes]], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
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
