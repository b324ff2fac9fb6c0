"""A subset as described by its kept.parquet, and its frames decoded. It knows no engine, and needs no PyTorch.

Legend: B requested frames; S side of the decoded frames in pixels.
"""

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curation.frames import decoding
from curation.frames.frame import read_first, unchanged
from curation.options import require
from curation.store import chain
from curation.store.directory import IntegrityError, RunDirectory

PART_ROWS = 256
COPIES_TABLE = "copies.parquet"
SUBSET = b"endosieve.subset"  # key in kept.parquet's Arrow metadata, as `export` writes it


@dataclass(frozen=True)
class Subset:
    """A subset as described by its kept.parquet: frame ids, the location of their bytes (or the bytes), and sizes."""

    path: str
    table: pa.Table
    about: dict[str, Any]  # subset.json

    @property
    def ids(self) -> list[str]:
        """The frames' ids."""
        return cast(list[str], self.table["frame_id"].to_pylist())

    @property
    def encoded_bytes(self) -> int:
        """Bytes of all encoded frames."""
        return int(np.sum(self.table["byte_size"].to_numpy()))

    def copies(self, content_hash: str) -> Iterator[str]:
        """Yield the addresses of other files with the same bytes, as the export lists them; read lazily."""
        folder = RunDirectory(self.path)
        if folder.exists(COPIES_TABLE):
            with folder.open(COPIES_TABLE) as file:
                table = pq.read_table(file, columns=["uri"], filters=[("content_hash", "=", content_hash)])
            yield from table["uri"].to_pylist()


def read_subset(path: str) -> Subset:
    """Read a subset's folder. ValueError where it has no kept.parquet, or no frame.

    IntegrityError if it is in a run and was made from what no longer exists, or if kept.parquet is not of the subset
    that subset.json describes.
    """
    folder = RunDirectory(path)
    chain.check_subset(folder)
    require(
        folder.exists("kept.parquet") and folder.exists("subset.json"),
        f"{path} holds no exported subset; make one with `python -m curation run` or `export`",
    )
    columns = ("frame_id", "uri", "image", "byte_size", "content_hash", "width", "height")
    names = [name for name in columns if name in folder.read_schema("kept.parquet").names]
    about = folder.read_json("subset.json")
    exported = json.loads((folder.read_schema("kept.parquet").metadata or {}).get(SUBSET, b"null"))
    if exported is not None and exported["digest"] != about["digest"]:
        raise IntegrityError(
            f"{path}/kept.parquet is of another selection than its subset.json; delete kept.parquet, and export "
            "the subset again"
        )
    table = folder.read_table("kept.parquet", names)
    require(len(table) > 0, f"{path} keeps no frame; there is nothing to train on")
    return Subset(path, table, about)


def decode_rows(subset: Subset, rows: npt.NDArray[np.int64], side: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Decode frames of a subset: uint8 [B, S, S, 3] of the readable ones, and what is wrong with the others.

    A frame whose file is missing or has other bytes than when it was ingested is read from an exact copy. ReadError
    where a file cannot be read for a temporary reason.
    """
    pixels, failed = [np.empty((0, side, side, 3), np.uint8)], []
    for row in subset.table.take(pa.array(rows)).to_pylist():
        try:
            limit = (row.get("width") or 0) * (row.get("height") or 0) or decoding.MAX_PIXELS  # what ingest accepted
            pixels.append(decoding.decode(encoded(subset, row), side, limit)[None])
        except decoding.FrameError as error:
            failed.append(f"frame {row['frame_id']}, {row['uri']}: {error.reason}, {error.message}")
    return np.concatenate(pixels), failed


def encoded(subset: Subset, row: dict[str, Any]) -> bytes:
    """The encoded bytes of a frame: from the table, else from its file or an exact copy. FrameError without them."""
    content = row["content_hash"]
    if row.get("image") is not None:
        return unchanged(row["image"], content)
    _, data = read_first(itertools.chain([row["uri"]], subset.copies(content)), content)
    return data


def part_name(start: int) -> str:
    """Name of the part that starts with frame number `start`."""
    return f"part-{start // PART_ROWS:06d}.npy"


class DecodeFrames:
    """A row {start} to {start, failed, pixels}: written to cache/ of `run`, or held in the row without one."""

    def __init__(self, subset: Subset, side: int, run: RunDirectory | None) -> None:
        self.subset, self.side, self.run = subset, side, run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode one part; frames that could not be decoded are listed in `failed`, and nothing is written then."""
        [start] = batch["start"].to_pylist()
        rows = np.arange(start, min(start + PART_ROWS, len(self.subset.table)))
        pixels, failed = decode_rows(self.subset, rows, self.side)
        held = b"" if failed or self.run else pixels.tobytes()
        if self.run and not failed:
            sink = io.BytesIO()
            np.save(sink, pixels)
            self.run.write_bytes(f"cache/{part_name(start)}", sink.getvalue())
        columns = [pa.array([start]), pa.array([failed], pa.list_(pa.string())), pa.array([held], pa.large_binary())]
        return pa.Table.from_arrays(columns, ["start", "failed", "pixels"])


class DecodeSlice:
    """A row {rows} to {failed, pixels}: the frames of one slice."""

    def __init__(self, subset: Subset, side: int) -> None:
        self.subset, self.side = subset, side

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode one slice."""
        [rows] = batch["rows"].to_pylist()
        pixels, failed = decode_rows(self.subset, np.array(rows, np.int64), self.side)
        columns = [pa.array([failed], pa.list_(pa.string())), pa.array([pixels.tobytes()], pa.large_binary())]
        return pa.Table.from_arrays(columns, ["failed", "pixels"])
