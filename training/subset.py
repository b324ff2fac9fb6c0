"""A subset as its kept.parquet tells it, and its frames decoded. It knows no engine, and needs no PyTorch.

Legend: B frames asked for; S side of the decoded frames in pixels.
"""

import io
import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import chain, images
from curation.frames import read_bytes
from curation.options import require
from curation.store import IntegrityError, RunDirectory

PART_ROWS = 256
SUBSET = b"endosieve.subset"  # key in kept.parquet's Arrow metadata, as `export` writes it


@dataclass(frozen=True)
class Subset:
    """A subset as its kept.parquet tells it: frame ids, where their bytes are (or the bytes), and their sizes."""

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


def read_subset(path: str) -> Subset:
    """Read a subset's folder. ValueError where it has no kept.parquet, or no frame.

    IntegrityError where it lies in a run and was made from what is not there any more, or where kept.parquet is not of
    the subset that subset.json tells of.
    """
    folder = RunDirectory(path)
    chain.check_subset(folder)
    require(
        folder.exists("kept.parquet") and folder.exists("subset.json"),
        f"{path} holds no exported subset; make one with `python -m curation run` or `export`",
    )
    wanted = ("frame_id", "uri", "image", "byte_size")
    names = [name for name in wanted if name in folder.read_schema("kept.parquet").names]
    about = folder.read_json("subset.json")
    exported = json.loads((folder.read_schema("kept.parquet").metadata or {}).get(SUBSET, b"null"))
    if exported is not None and exported["digest"] != about["digest"]:
        raise IntegrityError(
            f"{path}/kept.parquet is of another selection than subset.json beside it; delete kept.parquet, and export "
            "the subset again"
        )
    table = folder.read_table("kept.parquet", names)
    require(len(table) > 0, f"{path} keeps no frame; there is nothing to train on")
    return Subset(path, table, about)


def decode_rows(subset: Subset, rows: npt.NDArray[np.int64], side: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Decode frames of a subset: uint8 [B, S, S, 3] of those that can be, and what is wrong with the others."""
    pixels, failed = [np.empty((0, side, side, 3), np.uint8)], []
    for row in subset.table.take(pa.array(rows)).to_pylist():
        try:
            pixels.append(images.decode(row.get("image") or read_bytes(row["uri"]), side)[None])
        except images.FrameError as error:
            failed.append(f"{row['uri']}: {error.reason}, {error.message}")
    return np.concatenate(pixels), failed


def part_name(start: int) -> str:
    """Name of the part that begins with frame number `start`."""
    return f"part-{start // PART_ROWS:06d}.npy"


class DecodePart:
    """A row {start} to {start, failed, pixels}: written to cache/ of `run`, or held in the row without one."""

    def __init__(self, subset: Subset, side: int, run: RunDirectory | None) -> None:
        self.subset, self.side, self.run = subset, side, run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode one part; what could not be decoded is told in `failed`, and nothing is written then."""
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


class DecodeDraw:
    """A row {rows} to {failed, pixels}: the frames of one draw."""

    def __init__(self, subset: Subset, side: int) -> None:
        self.subset, self.side = subset, side

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode one draw."""
        [rows] = batch["rows"].to_pylist()
        pixels, failed = decode_rows(self.subset, np.array(rows, np.int64), self.side)
        columns = [pa.array([failed], pa.list_(pa.string())), pa.array([pixels.tobytes()], pa.large_binary())]
        return pa.Table.from_arrays(columns, ["failed", "pixels"])
