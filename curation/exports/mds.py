"""Shards as MosaicML's streaming reads them: MDS files, and one index.json for all of them.

A sample has frame_id, image (the encoded bytes), metadata (all columns as JSON, in which values may be null)
and, in an export with masks, mask (no bytes where there is none).
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pyarrow as pa

from curation.exports.kept import MASK_NAME, Encoded, each_row
from curation.options import require
from curation.store.directory import File

COLUMNS = {"frame_id": "str", "image": "bytes", "metadata": "json"}
LIMIT = 2**32 - 2**20  # bytes of a shard: places in it are 32-bit numbers
OVERHEAD = 4  # bytes of the place of a sample


def path(number: int, total: int) -> str:  # noqa: ARG001 (some formats name the total)
    """The path of shard `number`."""
    return f"shard.{number:05d}.mds"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:
    """Write a sample for each row. MDSWriter holds all of the shard in memory, twice for a moment.

    ValueError where the shard would be too large for the format.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = import_module("streaming").MDSWriter(out=folder, columns=columns_of(masked), size_limit=None)
        size = 0
        for row, (image, mask) in zip(each_row(rows), encoded, strict=True):
            sample = {"frame_id": row["frame_id"], "image": image, "metadata": row, MASK_NAME: mask or b""}
            writer.write(sample)
            size += len(writer.new_samples[-1]) + OVERHEAD
            require(
                size < LIMIT,
                "a shard of format mds cannot be larger than 4 GB; give a smaller --shard-mb, or --keep-together a "
                "column with smaller groups",
            )
        writer.finish()
        with open(f"{folder}/{path(0, 1)}", "rb") as shard:
            shutil.copyfileobj(shard, sink, 16 << 20)


def columns_of(masked: bool) -> dict[str, str]:
    """The columns of a sample and how they are encoded, by name as MDSWriter sorts them."""
    return COLUMNS | ({MASK_NAME: "bytes"} if masked else {})


def index(files: list[File], masked: bool) -> bytes:
    """index.json, which lists the shards as MDSWriter would have if it had written all of them."""
    entry: dict[str, Any] = {"version": 2, "format": "mds", "compression": None, "hashes": [], "size_limit": None}
    columns = dict(sorted(columns_of(masked).items()))
    entry |= {"column_names": list(columns), "column_encodings": list(columns.values())}
    entry |= {"column_sizes": [None] * len(columns), "zip_data": None}
    shards = [
        entry | {"samples": file.rows, "raw_data": {"basename": file.path, "bytes": file.bytes, "hashes": {}}}
        for file in files
    ]
    return json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()
