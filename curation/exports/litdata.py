"""Shards as LitData's StreamingDataset reads them: one chunk each, and one index.json for all of them.

A sample has frame_id, image (the encoded bytes), metadata (all columns as JSON text, in which values may be null)
and, in an export with masks, mask (no bytes where there is none).
So all samples have the same types: LitData would read a text that happens to be the name of a file as that file, and
takes the types of a chunk from its first sample.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pyarrow as pa

from curation.exports.kept import MASK_NAME, Encoded, each_row
from curation.options import require
from curation.store.directory import File

LIMIT = 2**32 - 2**26  # bytes of a chunk: places in it are 32-bit numbers
UNCUT = 2**40  # bytes at which LitData would begin another chunk


def path(number: int, total: int) -> str:  # noqa: ARG001 (some formats name the total)
    """The path of shard `number`."""
    return f"chunk-0-{number:06d}.bin"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:
    """Write a sample for each row.

    LitData holds the shard in memory, eight times while it puts it together: 2 GB for the default 256 MB (measured).

    ValueError where the shard would be too large for the format.
    """
    size = 0

    def each() -> Iterator[dict[str, Any]]:
        nonlocal size
        for row, (image, mask) in zip(each_row(rows), encoded, strict=True):
            text = json.dumps(row, ensure_ascii=False)
            size += len(image) + len(mask or b"") + 2 * len(text)
            require(
                size < LIMIT,
                "a shard of format litdata cannot be larger than 4 GB; give a smaller --shard-mb, or --keep-together "
                "a column with smaller groups",
            )
            yield sample(row["frame_id"], image, text, (mask or b"") if masked else None)

    with tempfile.TemporaryDirectory() as folder:
        chunk, _ = written(each(), folder)
        with open(f"{folder}/{chunk['filename']}", "rb") as file:
            shutil.copyfileobj(file, sink, 16 << 20)


def sample(frame: str, image: bytes, metadata: str, mask: bytes | None) -> dict[str, Any]:
    """A sample, with a mask unless that is None."""
    return {"frame_id": frame, "image": image, "metadata": metadata} | ({} if mask is None else {MASK_NAME: mask})


def written(samples: Iterator[dict[str, Any]], folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write samples as one chunk into a folder; what LitData's own index says of the chunk, and of the samples."""
    writer = import_module("litdata.streaming.writer").BinaryWriter(folder, chunk_bytes=UNCUT)
    for number, sample in enumerate(samples):
        writer.add_item(number, sample)
    writer.done()
    [name] = [name for name in os.listdir(folder) if name.endswith("index.json")]
    with open(f"{folder}/{name}", encoding="utf-8") as file:
        index = json.load(file)
    [chunk] = index["chunks"]
    return chunk, index["config"]


def others(files: list[File], columns: pa.Schema, about: dict[str, Any]) -> dict[str, bytes]:  # noqa: ARG001
    """index.json, which lists the chunks as LitData would have if it had written all of them."""
    with tempfile.TemporaryDirectory() as folder:
        chunk, config = written(iter([sample("0" * 32, b"0", "{}", b"0" if about["mask"] else None)]), folder)
    largest = max(file.bytes for file in files)
    chunks = [chunk | {"chunk_bytes": file.bytes, "chunk_size": file.rows, "filename": file.path} for file in files]
    index = {"chunks": chunks, "config": config | {"chunk_bytes": largest}}
    return {"index.json": json.dumps(index, sort_keys=True).encode()}
