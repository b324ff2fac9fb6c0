"""A subset to what others can use: one Parquet table with all columns, or a folder of files; nothing is re-encoded."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray

from curation import engine, images, schema
from curation.config import ExportConfig
from curation.console import Stopwatch, progress
from curation.filesystems import filesystem_of
from curation.frames import read_bytes
from curation.markers import marker_of
from curation.options import require
from curation.store import RunDirectory

SUBSET = b"endosieve.subset"  # key in the exported table's Arrow metadata: subset.json, and whether images are in
LINKS: dict[str, Callable[[str, str], None]] = {"hard": os.link, "symbolic": os.symlink}


@dataclass(frozen=True)
class Kept:
    """The kept frames: ids (32 bytes) ascending, and in that order the columns that scoring adds."""

    ids: npt.NDArray[np.bytes_]
    scores: pa.Table


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a subset's kept.parquet (and, for format folder, its files) and return a summary like a step's marker.

    kept.parquet has every column of frames/ with the user's metadata, cluster and centroid distance, and subset.json
    in its Arrow metadata. One that already holds the same subset is left alone. ValueError: no such subset, a frame
    whose file has gone, links asked for where none can be made.
    """
    run = RunDirectory(config.run_dir)
    folder = f"subsets/{config.name}"
    marker = marker_of(run, folder, f"select --name {config.name}")
    target = RunDirectory(config.output or f"{run.uri.rstrip('/')}/{folder}")
    frames = marker["rows_out"]
    content = run.read_json(f"{folder}/subset.json") | {"with_images": config.with_images}
    told = {"step": "export", "rows_in": frames, "rows_out": frames, "rejected": 0, "copies": 0}
    note = f"{frames} frames in {target.uri}"
    if config.format == "parquet" and exported(target) == content:
        return told | {"seconds": 0.0, "note": note, "reused": True}
    watch = Stopwatch()
    engine.connect()
    kept = ray.put(read_kept(run, f"{folder}/decisions.parquet"))
    parts = list(run.parts("frames").values())
    if config.format == "folder":
        files = RunDirectory(f"{target.uri.rstrip('/')}/images")
        with progress("files", frames) as bar:
            calls = ((run, path, kept, files, config.linking) for path in parts)
            for placed in engine.stream(ray.remote(place_files), calls):
                bar.update(placed)
    if config.output:
        target.write_json("subset.json", run.read_json(f"{folder}/subset.json"))
    with progress("export", frames) as bar:
        wanted = ((run, path, kept, config.with_images) for path in parts)
        tables = engine.stream(ray.remote(kept_rows), wanted, in_order=True)
        written = write_tables(target, tables, {SUBSET: json.dumps(content).encode()}, bar)
    assert written == frames, f"{frames} frames are kept, {written} were exported"
    return told | {"seconds": watch.seconds, "note": note}


def exported(target: RunDirectory) -> dict[str, Any] | None:
    """What the kept.parquet that is already there holds: its subset.json and whether images are in."""
    if not target.exists("kept.parquet"):
        return None
    content: dict[str, Any] = json.loads((target.read_schema("kept.parquet").metadata or {}).get(SUBSET, b"null"))
    return content


def read_kept(run: RunDirectory, path: str) -> Kept:
    """Read the kept frames of a subset, 48 bytes each."""
    table = run.read_table(path, ["frame_id", "kept", "cluster", "centroid_distance"])
    table = table.filter(table["kept"]).sort_by("frame_id")
    return Kept(np.array(table["frame_id"].to_pylist(), dtype="S32"), table.select(["cluster", "centroid_distance"]))


def kept_rows(run: RunDirectory, path: str, kept: Kept, with_images: bool) -> pa.Table:
    """Return the kept rows of a part of frames with their scores and, if wanted, their encoded bytes as `image`."""
    table = run.read_table(path).replace_schema_metadata(None)
    ids = np.array(table["frame_id"].to_pylist(), dtype="S32")
    place = np.minimum(np.searchsorted(kept.ids, ids), len(kept.ids) - 1)
    found = kept.ids[place] == ids
    table = table.filter(pa.array(found))
    for field, column in zip(kept.scores.schema, kept.scores.take(pa.array(place[found])).columns, strict=True):
        table = table.append_column(field, column)
    if with_images:
        table = table.append_column(schema.IMAGE, pa.array(map(encoded, table["uri"].to_pylist()), schema.IMAGE.type))
    return table


def encoded(uri: str) -> bytes:
    """The bytes of a kept frame's file; ValueError where it has gone since it was embedded."""
    try:
        return read_bytes(uri)
    except images.FrameError as error:
        raise ValueError(f"the file of a kept frame cannot be read any more: {uri}: {error.message}") from error


def write_tables(target: RunDirectory, tables: Iterator[pa.Table], metadata: dict[bytes, bytes], bar: Any) -> int:
    """Stream tables into kept.parquet, a row group or more each; return the number of rows."""
    rows = 0
    first = next(tables).replace_schema_metadata(metadata)
    with target.create("kept.parquet") as stream, pq.ParquetWriter(stream, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table.replace_schema_metadata(metadata))
            rows += len(table)
            bar.update(len(table))
    return rows


def place_files(run: RunDirectory, path: str, kept: Kept, files: RunDirectory, link: str) -> int:
    """Copy or link the kept frames of a part to SOURCE/PATH below `files`; return how many. Existing ones stay."""
    rows = kept_rows(run, path, kept, with_images=False).select(["source", "path", "uri"]).to_pylist()
    for row in rows:
        name = f"{row['source']}/{row['path']}"
        if files.exists(name):
            continue
        if link == "copy":
            files.write_bytes(name, encoded(row["uri"]))
        else:
            make_link(row["uri"], f"{files.root}/{name}", link)
    return len(rows)


def make_link(uri: str, to: str, link: str) -> None:
    """Make a hard or symbolic link on the local disk; ValueError where that cannot be done."""
    system, path = filesystem_of(uri)
    local = isinstance(system, pafs.LocalFileSystem)
    try:
        require(local, "not on the local disk")
        os.makedirs(os.path.dirname(to), exist_ok=True)
        LINKS[link](path, to)
    except (OSError, ValueError) as error:
        raise ValueError(f"{uri} cannot be linked from {to} ({error}); use --link copy") from error
