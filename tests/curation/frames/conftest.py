"""What tests of hostile images share: one picture, all kinds of files of it, and why one is rejected."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import ExifTags, Image

from curation.frames import decoding, pillow

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 67, 50


def picture(seed: int = 0) -> Array:
    """A smooth picture, uint8 [HEIGHT, WIDTH, 3], with no symmetry, that uses all values from 0 to 255."""
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pixels[0, 0], pixels[-1, -1] = 0, 255
    return pixels


class Files:
    """A picture with what it is in other kinds, and what makes files of it, also for tables of tests."""

    RGB = picture()
    GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
    GRAYS = np.repeat(GRAY[:, :, None], 3, axis=2)
    ALPHA = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :].repeat(HEIGHT, axis=0)
    ON_BLACK = (RGB.astype(np.uint16) * ALPHA[:, :, None] + 127) // 255
    GRAYS_ON_BLACK = (GRAYS.astype(np.uint16) * ALPHA[:, :, None] + 127) // 255

    @staticmethod
    def tiff(array: Array, **options: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **options)
        return stream.getvalue()

    @staticmethod
    def encoded(image: Array | Image.Image, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
        return stream.getvalue()

    @staticmethod
    def png(
        rows: list[bytes], depth: int, colour: int, *extra: tuple[bytes, bytes], size: Any = (WIDTH, HEIGHT)
    ) -> bytes:
        """A PNG of raw rows with further chunks before its pixels: what Pillow cannot write."""
        header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
        chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
        coded = (struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(coded)

    @staticmethod
    def png16(array: Array, colour: int, *extra: tuple[bytes, bytes]) -> bytes:
        return Files.png([row.astype(">u2").tobytes() for row in array], 16, colour, *extra)

    @staticmethod
    def exif(orientation: int) -> Image.Exif:
        found = Image.Exif()
        found[ExifTags.Base.Orientation] = orientation
        return found

    @staticmethod
    def planar(array: Array) -> Array:
        return np.moveaxis(array, 2, 0)

    @staticmethod
    def deep(array: Array) -> Array:
        return array.astype(np.uint16) * 257

    @staticmethod
    def oriented(kind: str, turn: int) -> bytes:
        """RGB stored so that it is upright once turned by `turn`; for WIDTH x HEIGHT."""
        back = {6: 8, 8: 6}.get(turn, turn)
        stored = np.asarray(pillow.upright(Image.fromarray(Files.RGB), back))
        if kind == "TIFF":
            return Files.tiff(stored, photometric="rgb", extratags=[(274, "H", 1, turn, True)])
        if kind == "late PNG":  # the tag stands behind the pixels
            data = Files.encoded(stored, "PNG")
            body = b"eXIf" + Files.exif(turn).tobytes()[6:]
            return (
                data[:-12] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[-12:]
            )
        if kind == "PNG16":
            body = Files.exif(turn).tobytes()[6:]
            return Files.png(
                [row.astype(">u2").tobytes() for row in Files.deep(stored)],
                16,
                2,
                (b"eXIf", body),
                size=stored.shape[1::-1],
            )
        options: dict[str, Any] = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
        return Files.encoded(
            stored, kind, exif=Files.exif(turn), **options | ({"lossless": True} if kind == "WEBP" else {})
        )

    @staticmethod
    def pages(kind: str, count: int, **options: Any) -> bytes:
        first, *more = (Image.fromarray(picture(seed)) for seed in range(count))
        return Files.encoded(first, kind, save_all=True, append_images=more, **options)

    @staticmethod
    def packed(bits: int, planes: int = 1) -> bytes:
        """A TIFF of `bits` a sample without gaps, as 12-bit cameras write them."""
        values = np.repeat((Files.GRAY.astype(np.uint32) * ((1 << bits) - 1) + 127) // 255, planes, axis=1)
        flags = ((values[:, :, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).reshape(HEIGHT, -1)
        content = np.packbits(flags, axis=1).tobytes()
        photometric = 2 if planes == 3 else 1
        tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, planes)]
        tags += [(278, HEIGHT), (279, len(content))]
        # BitsPerSample has a value for each sample; one is what many writers leave it at
        ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return struct.pack("<4sI", b"II*\0", 8 + len(content)) + content + struct.pack("<H", len(tags)) + ifd + bytes(4)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test is run with each key of its table, which TABLES of its file makes of Files: fixtures come too late."""
    if table := getattr(metafunc.module, "TABLES", {}).get(metafunc.function.__name__):
        metafunc.parametrize("name", table(Files))


@pytest.fixture(scope="session")
def files() -> type[Files]:
    """All of it, for tables of files that are made when a test runs."""
    return Files


@pytest.fixture(scope="session", name="RGB")
def picture_rgb() -> Array:
    """The picture, uint8 [50, 67, 3]."""
    return Files.RGB


@pytest.fixture(scope="session", name="GRAY")
def picture_gray() -> Array:
    """The picture in gray, uint8 [50, 67]."""
    return Files.GRAY


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded(image, kind, **options): a file that Pillow writes."""
    return Files.encoded


@pytest.fixture(scope="session")
def tiff() -> Callable[..., bytes]:
    """tiff(array, **options): a file that tifffile writes."""
    return Files.tiff


@pytest.fixture(scope="session")
def png16() -> Callable[..., bytes]:
    """png16(array, colour, *extra): a PNG of 16 bits, with further chunks."""
    return Files.png16


@pytest.fixture(scope="session")
def deep() -> Callable[..., Array]:
    """deep(array): 8 bits as 16."""
    return Files.deep


@pytest.fixture(scope="session")
def exif() -> Callable[[int], Image.Exif]:
    """exif(orientation): a tag for files."""
    return Files.exif


@pytest.fixture(scope="session")
def oriented() -> Callable[..., bytes]:
    """oriented(kind, turn): a file of the picture that is upright once turned."""
    return Files.oriented


@pytest.fixture(scope="session")
def pages() -> Callable[..., bytes]:
    """pages(kind, count, **options): a file of several pictures, the first of which is the picture."""
    return Files.pages


@pytest.fixture(scope="session")
def rejected() -> Callable[..., str]:
    """rejected(data, limit): the reason, which `inspect` or at last `decode` gives."""

    def told(data: bytes, limit: int = 1_000_000) -> str:
        try:
            decoding.inspect(data, limit)
        except decoding.FrameError as error:
            return error.reason
        with pytest.raises(decoding.FrameError) as caught:
            decoding.decode(data, 32, limit)
        return caught.value.reason

    return told
