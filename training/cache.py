"""A subset's frames decoded once: Ray Data writes uint8 parts that training maps into memory for every epoch."""

import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext

from curation import engine, images
from curation.config import require
from curation.console import progress
from curation.frames import read_bytes
from curation.store import RunDirectory
from training.loop import Frames

PART_ROWS = 256


@dataclass(frozen=True)
class Subset:
    """A subset as its kept.parquet tells it: frame ids and where their bytes are (or the bytes)."""

    path: str
    table: pa.Table
    about: dict[str, Any]  # subset.json


def read_subset(path: str) -> Subset:
    """Read a subset's folder. ValueError where it has no kept.parquet, or no frame."""
    folder = RunDirectory(path)
    require(
        folder.exists("kept.parquet") and folder.exists("subset.json"),
        f"{path} holds no exported subset; make one with `python -m curation run` or `export`",
    )
    names = [name for name in ("frame_id", "uri", "image") if name in folder.read_schema("kept.parquet").names]
    table = folder.read_table("kept.parquet", names)
    require(len(table) > 0, f"{path} keeps no frame; there is nothing to train on")
    return Subset(path, table, folder.read_json("subset.json"))


def cache(subset: Subset, run: RunDirectory, size: int) -> None:
    """Decode every frame to uint8 [S, S, 3] into cache/part-N.npy of `run`; do only what is missing.

    ValueError, naming some, where frames cannot be read or decoded any more.
    """
    run.clear_temporary("cache")
    present = set(run.names("cache"))
    starts = range(0, len(subset.table), PART_ROWS)
    missing = [start for start in starts if part_name(start) not in present]
    if not missing:
        return
    engine.connect()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    dataset = ray.data.from_items([{"start": start} for start in missing], override_num_blocks=len(missing))
    done = dataset.map_batches(CachePart(subset, run, size), batch_size=1, batch_format="pyarrow")
    failed: list[str] = []
    with progress("cache", len(missing) * PART_ROWS) as bar:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast(pa.Table, batch).to_pylist():
                failed += row["failed"]
                bar.update(PART_ROWS)
    require(
        not failed,
        f"{len(failed)} of {len(subset.table)} frames of {subset.path} cannot be used any more: "
        f"{'; '.join(failed[:3])}; put them back, or select and export again",
    )


def part_name(start: int) -> str:
    """Name of the part that begins with frame number `start`."""
    return f"part-{start // PART_ROWS:06d}.npy"


class CachePart:
    """A row {start} to a written part; yields what could not be read."""

    def __init__(self, subset: Subset, run: RunDirectory, size: int) -> None:
        self.subset, self.run, self.size = subset, run, size

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode one part, and write it unless a frame failed."""
        [start] = batch["start"].to_pylist()
        rows = self.subset.table.slice(start, PART_ROWS).to_pylist()
        pixels, failed = [], []
        for row in rows:
            try:
                pixels.append(images.decode(row.get("image") or read_bytes(row["uri"]), self.size))
            except images.FrameError as error:
                failed.append(f"{row['uri']}: {error.reason}, {error.message}")
        if not failed:
            sink = io.BytesIO()
            np.save(sink, np.stack(pixels))
            self.run.write_bytes(f"cache/{part_name(start)}", sink.getvalue())
        return pa.table({"start": [start], "failed": pa.array([failed], pa.list_(pa.string()))})


def cached_frames(subset: Subset, output: str) -> Frames:
    """Map the cached parts into memory."""
    run = RunDirectory(output)
    names = [name for name in run.names("cache") if name.startswith("part-")]
    parts = [np.load(f"{run.root}/cache/{name}", mmap_mode="r") for name in names]
    return Frames(parts, subset.table["frame_id"].to_pylist())
