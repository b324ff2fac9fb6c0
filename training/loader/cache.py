"""A subset's frames through Ray Data: decoded once and kept, or decoded again for each use.

Kept frames are uint8 parts: files below a local output, which ranks map into memory and a rerun finds again; or, if
the output is in an object store, blocks in Ray's object store.

Legend: S side of the decoded frames in pixels.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataContext
from torch import Tensor

from curation.console import progress
from curation.engine import resources
from curation.options import require
from curation.store.directory import RunDirectory
from training.loader.decoded import DecodedFrames, Pixels
from training.loader.order import Batches, Rows
from training.loader.subset import PART_ROWS, DecodeFrames, DecodeSlice, Subset, part_name

DECODER_CPUS = 0.25  # of a decoding task during training: ranks leave one CPU for four of them
DECISION = "cache.json"  # whether decoded frames are kept: outside cache/, which may be deleted
WINDOW_SLICES = 2048  # slices of one streaming execution of Ray Data


@dataclass(frozen=True)
class FrameCache:
    """How ranks get the frames: decoded in files or blocks, or neither, to decode during training."""

    side: int
    files: tuple[str, ...] = ()
    blocks: tuple[Any, ...] = ()  # references to tables of one row, `pixels`

    def source(self, subset: Subset, gpu: bool) -> Any:
        """The FrameSource (training/pretraining/loop.py) of a rank."""
        if self.files:
            return DecodedFrames(
                self.files, subset.ids, loaders=min(4, max(1, resources.granted_cpus() - 1)) if gpu else 0
            )
        if self.blocks:
            return DecodedFrames(cached_parts(ray.get(list(self.blocks)), self.side), subset.ids)
        return StreamedFrames(subset, self.side)


def cache_frames(subset: Subset, run: RunDirectory, side: int, cache_gb: float | None) -> FrameCache:
    """Decode every frame to uint8 [S, S, 3] and keep it if all fit; do only what is missing.

    ValueError, naming some, where frames can no longer be read or decoded, or changed since they were ingested.
    ReadError where a file cannot be read for a temporary reason; a rerun finds what was kept by then.
    """
    local = run.filesystem.type_name == "local"
    size = len(subset.table) * side**2 * 3
    keep = fits(run, size, local, cache_gb)
    run.write_json(DECISION, {"decoded_bytes": size if keep else 0})
    if not keep:
        if run.exists("cache"):  # of an earlier call that was allowed more
            run.delete_folder("cache")
        return FrameCache(side)
    starts = range(0, len(subset.table), PART_ROWS)
    if not local:
        return FrameCache(side, blocks=keep_blocks(subset, side, starts))
    run.clear_temporary("cache")
    present = set(run.names("cache"))
    if missing := [start for start in starts if part_name(start) not in present]:
        keep_files(subset, run, side, missing)
    return FrameCache(side, files=tuple(f"{run.root}/cache/{part_name(start)}" for start in starts))


def fits(run: RunDirectory, size: int, local: bool, cache_gb: float | None) -> bool:
    """Whether decoded frames of `size` bytes are kept: within `cache_gb`, or as the first call decided.

    Blocks in Ray's object store end with a call, so there each call decides by its own cluster.
    """
    if cache_gb is not None:
        return size <= cache_gb * 1e9
    if local and run.exists(DECISION):
        return kept_bytes(run) > 0
    return size <= available_bytes(run, local)


def kept_bytes(run: RunDirectory) -> int:
    """Bytes of decoded frames that the last training call kept; 0 where it streamed."""
    return int(run.read_json(DECISION)["decoded_bytes"]) if run.exists(DECISION) else 0


def available_bytes(run: RunDirectory, local: bool) -> float:
    """Bytes that decoded frames may take: half of what is free or already taken by such frames."""
    if not local:
        return 0.5 * resources.resources().get("object_store_memory", 0.0)
    run.filesystem.create_dir(run.root, recursive=True)
    used = sum(run.filesystem.get_file_info(f"{run.root}/cache/{name}").size for name in run.names("cache"))
    return 0.5 * float(shutil.disk_usage(run.root).free + used)


def decoding(task: DecodeFrames, starts: Sequence[int]) -> ray.data.Dataset:
    """The dataset of parts {start, failed, pixels}, one part per block, decoded lazily on all CPUs."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = PART_ROWS * task.side**2 * 3 + (1 << 20)
    rows = [{"start": start} for start in starts]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        task, batch_size=1, batch_format="pyarrow"
    )


def keep_files(subset: Subset, run: RunDirectory, side: int, starts: Sequence[int]) -> None:
    """Write the parts that begin with frames `starts` below cache/."""
    dataset, failed = decoding(DecodeFrames(subset, side, run), starts), list[str]()
    with progress("decode", len(starts) * PART_ROWS) as bar:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast(pa.Table, batch).to_pylist():
                failed += row["failed"]
                bar.update(PART_ROWS)
    check_decoded(subset, failed)


def keep_blocks(subset: Subset, side: int, starts: Sequence[int]) -> tuple[Any, ...]:
    """Hold all parts in Ray's object store; return references to their tables."""
    dataset = decoding(DecodeFrames(subset, side, None), starts).materialize()
    check_decoded(subset, [text for row in dataset.select_columns(["failed"]).take_all() for text in row["failed"]])
    return tuple(dataset.to_arrow_refs())


def check_decoded(subset: Subset, failed: list[str]) -> None:
    """ValueError where frames failed, naming some."""
    require(
        not failed,
        f"{len(failed)} of {len(subset.table)} frames of {subset.path} can no longer be used: "
        f"{'; '.join(failed[:3])}; restore the files, or curate the current files in a new run",
    )


def cached_parts(tables: Sequence[pa.Table], side: int) -> list[Pixels]:
    """The frames uint8 [n, S, S, 3] of the parts in some blocks, in order and without a copy."""
    rows = sorted((row["start"].as_py(), row["pixels"]) for table in tables for row in arrow_rows(table))
    return [np.frombuffer(pixels.as_buffer(), np.uint8).reshape(-1, side, side, 3) for _, pixels in rows]


def arrow_rows(table: pa.Table) -> Iterator[dict[str, pa.Scalar]]:
    """The rows of a table as Arrow scalars."""
    return (dict(zip(table.column_names, row, strict=True)) for row in zip(*table.columns, strict=True))


class StreamedFrames:
    """A subset whose frames are decoded for each slice, by Ray Data on all CPUs, ahead of the rank."""

    def __init__(self, subset: Subset, side: int) -> None:
        self.subset, self.side, self.ids = subset, side, subset.ids

    def __len__(self) -> int:
        return len(self.ids)

    def names(self, rows: Rows) -> list[str]:
        """Return the ids of frames."""
        return [self.ids[row] for row in rows]

    def images(self, order: Batches, places: Iterator[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield uint8 [slice size, S, S, 3] for each (update, slice), in order. ValueError where a frame is missing."""
        task = DecodeSlice(self.subset, self.side)
        while window := list(islice(places, WINDOW_SLICES)):
            for row in streamed(task, [order.rows(*place) for place in window]):
                check_decoded(self.subset, row["failed"])
                yield torch.frombuffer(bytearray(row["pixels"]), dtype=torch.uint8).view(-1, self.side, self.side, 3)


def streamed(task: DecodeSlice, window: list[Rows]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a window of slices, one slice per block, in order."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"rows": rows.tolist()} for rows in window]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        task, batch_size=1, batch_format="pyarrow", num_cpus=DECODER_CPUS
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=8):
        yield from cast(pa.Table, batch).to_pylist()
