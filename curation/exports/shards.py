"""A subset as shards for another library's loader, written by Ray tasks.

Tasks read the sizes of kept frames, from which the driver plans the shards (24 bytes of a frame stay with it, and 60
more while it plans). Then every part of frames is cut by groups of shards, metadata only and for about a million kept
frames at once, and a task for each group reads the encoded images frame by frame and writes its shards one after the
other: in memory are the metadata of the group, shared through the object store, and of the images what the format's
`write` says. The bytes of a shard depend on the subset and on the options alone.
"""

import hashlib
import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation.console import StepSummary, progress
from curation.engine.connect import connect
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task
from curation.exports import records
from curation.exports.config import ExportConfig
from curation.exports.formats import FORMATS, check
from curation.exports.kept import Encoded, Kept, each_row, kept_rows, keys_of, read_kept, read_row
from curation.exports.masks import has_mask, read_mask
from curation.exports.plan import Integers, Plan, plan
from curation.options import require
from curation.store.directory import File, Listed, RunDirectory
from curation.store.parts import grouped

MOST_GROUPS = 256
MEMORY = 256 * 2**20  # bytes that a task that writes shards takes beside them
CHUNK_ROWS = 65_536  # frames that a task sizes or cuts
WAVE_ROWS = 1 << 20  # kept frames whose metadata are cut and under way at once, some 400 MB
TO_READ = ["frame_id", "uri", "path", "content_hash"]
FROM_SCORES = ["cluster", "centroid_distance"]


@dataclass(frozen=True)
class Shards:
    """What a task must know of an export: run, output, format, the rule of its masks, and how many shards there are."""

    run: RunDirectory
    target: RunDirectory
    format: str
    mask: str | None
    total: int


@dataclass(frozen=True)
class Sizes:
    """Of the kept frames of some parts: encoded bytes, keys of what stays together, and the columns they have."""

    bytes_n: Integers
    keys_n: npt.NDArray[np.uint64] | None
    columns: pa.Schema


@dataclass(frozen=True)
class Piece:
    """Kept frames of some parts for one group of shards, sorted by shard and by their place in it."""

    rows: pa.Table
    shard_n: Integers
    place_n: Integers


class Digesting:
    """A sink that counts and digests what passes through it to another one."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self.sink, self.bytes, self.digest = sink, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Pass bytes on."""
        self.sink.write(data)
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes

    def flush(self) -> None:
        """Nothing waits here."""


def export_shards(config: ExportConfig, run: RunDirectory, about: dict[str, Any]) -> dict[str, Any]:
    """Write a subset's shards into the output (by default subsets/NAME/FORMAT) and return a summary.

    Shards that are there stay; export.json lists all, with their SHA-256. ValueError: an output with another subset,
    other options or foreign files, a library that is not installed, a column that is not there, a kept frame without
    any readable copy. ReadError: a file that cannot be read at the moment.
    """
    target = RunDirectory(config.output) if config.output else run.below(f"subsets/{config.name}/{config.format}")
    columns = run.read_schema(next(iter(run.parts("frames").values()))).names
    check(config.format, [*columns, *FROM_SCORES], config.keep_together, config.mask is not None)
    frames = about["kept"]
    wanted = {"subset": config.name, "digest": about["digest"], "options": config.options, "frames": frames}
    watch = Account()
    with target.lock() if config.output and target.root != run.root else nullcontext():
        manifest = records.opened(target, wanted | {"files": [], "complete": False})
        done = records.finished(target, manifest)
        reused = manifest["complete"] and done.keys() >= {file["path"] for file in manifest["files"]}
        if reused:
            records.forget(target)
        else:
            connect()
            if config.mask is not None:
                check_masks(config, run)
            records.begin(target, manifest)
            shards, schema = make_shards(config, run, target, done)
            assert sum(file.rows for file in shards) == frames, f"{frames} frames are kept, {shards} were exported"
            task = Task(others_of, "describing shards")  # other libraries stay out of here: Lance minds that it forks
            others = ray.get(task.remote(config.format, shards, schema, about | {"mask": config.mask}))
            records.complete(target, manifest, [*shards, *(put(target, *each) for each in others.items())])
    note = f"{frames} frames in {target.uri}" + watch.verdict()
    seconds = 0.0 if reused else watch.seconds
    summary = {"step": "export"} | vars(StepSummary(rows_in=frames, rows_out=frames, seconds=seconds, note=note))
    return summary | ({"reused": True} if reused else {})


def make_shards(
    config: ExportConfig, run: RunDirectory, target: RunDirectory, done: dict[str, File]
) -> tuple[list[File], pa.Schema]:
    """Write the shards that are not `done`; all shards in their order, and their frames' columns."""
    kept = ray.put(read_kept(run, f"subsets/{config.name}/decisions.parquet"))
    listed: dict[str, Listed] = {path: path for path in run.listing("frames")}
    parts = [listed[path] for path in run.parts("frames").values()]
    size = max(CHUNK_ROWS, sum(map(rows_in, parts)) // MOST_GROUPS)
    chunks = list(grouped(parts, size, by=rows_in))
    calls = ((run, chunk, kept, config.keep_together) for chunk in chunks)
    sizes = list(stream(Task(size_up, "reading rows"), calls, in_order=True))
    planned = plan_of(sizes, config)
    total = len(planned.rows_S)
    paths = [FORMATS[config.format].path(number, total) for number in range(total)]
    missing = [number for number, path in enumerate(paths) if path not in done]
    shards = Shards(run, target, config.format, config.mask, total)
    rows = int(planned.rows_S.sum())
    memory = MEMORY + FORMATS[config.format].held * config.shard_bytes
    with progress("export", rows, done=rows - int(planned.rows_S[missing].sum())) as bar:
        for wave in grouped(missing, WAVE_ROWS, by=lambda number: int(planned.rows_S[number])):
            groups = np.array_split(np.array(wave, np.int64), min(MOST_GROUPS, len(wave)))
            by_group = cut_all(run, list(zip(chunks, sizes, strict=True)), kept, planned, groups)
            work = ((shards, group.tolist(), *by_group.pop()) for group in groups)
            for files in stream(Task(write_shards, "writing shards", memory=memory), work):
                done |= {file.path: file for file in files}
                bar.update(sum(file.rows for file in files))
    return [done[path] for path in paths], sizes[0].columns


def rows_in(part: Listed) -> int:
    """Rows of a part of frames."""
    return part.file.rows


def check_masks(config: ExportConfig, run: RunDirectory) -> None:
    """ValueError where no kept frame has a mask by the rule. The first one that is found ends the search."""
    kept = ray.put(read_kept(run, f"subsets/{config.name}/decisions.parquet"))
    calls = ((run, path, kept, config.mask) for path in run.parts("frames").values())
    require(
        any(stream(Task(some_mask, "looking for masks"), calls)),
        f"mask {config.mask!r} finds no mask of any kept frame; it must make a frame's path (column path) that of a "
        "file below the same source",
    )


def some_mask(run: RunDirectory, path: str, kept: Kept, rule: str) -> bool:
    """Whether a kept frame of a part has a mask."""
    rows = kept_rows(run, path, kept, with_images=False).select(["uri", "path"])
    return any(has_mask(rule, row) for row in each_row(rows))


def size_up(run: RunDirectory, paths: list[Listed], kept: Kept, column: str | None) -> Sizes:
    """Sizes and keys of the kept frames of some parts, in their order."""
    tables = [kept_rows(run, path, kept, with_images=False) for path in paths]
    table = pa.concat_tables(tables)
    return Sizes(table["byte_size"].to_numpy(), None if column is None else keys_of(table, column), table.schema)


def plan_of(sizes: list[Sizes], config: ExportConfig) -> Plan:
    """The shards of all kept frames."""
    keys_N = None if config.keep_together is None else np.concatenate([part.keys_n for part in sizes])
    return plan(np.concatenate([part.bytes_n for part in sizes]), keys_N, config.shuffle_seed, config.shard_bytes)


def cut_all(
    run: RunDirectory, chunks: list[tuple[list[Listed], Sizes]], kept: Any, planned: Plan, groups: list[Integers]
) -> list[list[Any]]:
    """References to the pieces of each group, the last group first, so that the first can be popped and freed."""
    if not groups:
        return []
    group_S = np.full(len(planned.rows_S), -1, np.int64)
    for number, group in enumerate(groups):
        group_S[group] = number
    task = Task(cut, "shuffling rows", num_returns=len(groups))
    pieces, start = [], 0
    for paths, sizes in chunks:
        rows = slice(start, start := start + len(sizes.bytes_n))
        shard_n, place_n = planned.shard_N[rows], planned.place_N[rows]
        made = task.remote(run, paths, kept, (group_S[shard_n], shard_n, place_n), len(groups))
        pieces.append([made] if len(groups) == 1 else made)
    return [[made[number] for made in pieces] for number in reversed(range(len(groups)))]


def cut(
    run: RunDirectory, paths: list[Listed], kept: Kept, places: tuple[Integers, Integers, Integers], groups: int
) -> list[Piece] | Piece:
    """The kept frames of some parts by group of shards (-1: no group), from group, shard and place of each row."""
    group_n, shard_n, place_n = places
    table = pa.concat_tables([kept_rows(run, path, kept, with_images=False) for path in paths])
    order = np.lexsort((place_n, shard_n, group_n))
    starts = np.searchsorted(group_n[order], np.arange(groups + 1))
    chosen = [order[start:stop] for start, stop in itertools.pairwise(starts)]
    made = [Piece(table.take(pa.array(rows)), shard_n[rows], place_n[rows]) for rows in chosen]
    return made[0] if groups == 1 else made


def write_shards(shards: Shards, numbers: list[int], *pieces: Piece) -> list[File]:
    """Write some shards, each whole or not at all, and a record of each that is there."""
    files = []
    for number in numbers:
        rows = rows_of(number, pieces)
        path = FORMATS[shards.format].path(number, shards.total)
        with shards.target.create(path) as stream:
            sink = Digesting(stream)
            encoded = (read(shards, row) for row in each_row(rows.select(TO_READ)))
            FORMATS[shards.format].write(sink, rows, encoded, shards.mask is not None)
        files.append(File(path, len(rows), sink.bytes, sink.digest.hexdigest()))
        records.record(shards.target, number, files[-1])
    return files


def read(shards: Shards, row: dict[str, Any]) -> Encoded:
    """The bytes of a frame, and of its mask where the export has masks."""
    return Encoded(read_row(shards.run, row)[1], read_mask(shards.mask, row) if shards.mask else None)


def rows_of(number: int, pieces: tuple[Piece, ...]) -> pa.Table:
    """The rows of a shard in their order."""
    ranges = [np.searchsorted(piece.shard_n, (number, number + 1)) for piece in pieces]
    places = [piece.place_n[start:stop] for piece, (start, stop) in zip(pieces, ranges, strict=True)]
    tables = [piece.rows.slice(start, stop - start) for piece, (start, stop) in zip(pieces, ranges, strict=True)]
    return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(places))))


def others_of(name: str, shards: list[File], columns: pa.Schema, about: dict[str, Any]) -> dict[str, bytes]:
    """What else belongs to an export in a format, by path."""
    return FORMATS[name].others(shards, columns, about)


def put(target: RunDirectory, path: str, content: bytes) -> File:
    """Write a file that belongs to an export and has no frames."""
    target.write_bytes(path, content)
    return File(path, 0, len(content), hashlib.sha256(content).hexdigest())
