"""Shards as webdataset reads them: tar files with an image and its metadata as JSON for each frame."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curation.exports.kept import Encoded, each_row

STARTS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"II+\0": "tif",
    b"MM\0+": "tif",
    b"RIFF": "webp",
}


def extension(data: bytes) -> str:
    """The usual extension of an encoded image's format, by its content; all that ingest accepts are known."""
    found = next((name for start, name in STARTS.items() if data.startswith(start)), None)
    assert found is not None, f"an image of an unknown format was kept: it starts with {data[:8]!r}"
    return found


def mask_extension(data: bytes) -> str:
    """As `extension`, for a mask, which may be of any format: `bin` where it is unknown."""
    return next((name for start, name in STARTS.items() if data.startswith(start)), "bin")


def path(number: int, total: int) -> str:  # noqa: ARG001 (some formats name the total)
    """The path of shard `number`."""
    return f"shard-{number:06d}.tar"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:  # noqa: ARG001
    """Write FRAME_ID.EXT, FRAME_ID.json and, of a mask, FRAME_ID.mask.EXT for each row; one frame is in memory.

    Equal frames give equal bytes.
    """
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row, (image, mask) in zip(each_row(rows), encoded, strict=True):
            name = row["frame_id"]
            add(archive, f"{name}.{extension(image)}", image)
            add(archive, f"{name}.json", json.dumps(row, ensure_ascii=False).encode())
            if mask is not None:
                add(archive, f"{name}.mask.{mask_extension(mask)}", mask)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file that looks the same whoever writes it, and when."""
    member = tarfile.TarInfo(name)  # time, user and group are 0, and it is readable by all (0644)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
