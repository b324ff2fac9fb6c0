"""A subset for other programs: one Parquet table with all columns, a folder of files, or shards (shards.py).

An output holds one subset, which its export.json names: exporting another one into it is refused. export.json is
written first and says `complete` last, so an export that was killed is found and finished.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from curation.console import StepSummary, progress
from curation.engine.connect import connect
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task
from curation.exports import folder, shards
from curation.exports.config import ExportConfig
from curation.exports.kept import Kept, kept_rows, read_kept, read_row, row_groups
from curation.exports.records import MANIFEST
from curation.frames import copies
from curation.options import require
from curation.store import schema
from curation.store.directory import TEMPORARY, RunDirectory, holding
from curation.store.markers import marker_of

SUBSET = b"endosieve.subset"  # key in the exported table's Arrow metadata: subset.json, and whether images are in
TABLE, COPIES_TABLE, ABOUT, IMAGES_FOLDER = "kept.parquet", "copies.parquet", "subset.json", "images"


@holding
def export(config: ExportConfig) -> dict[str, Any]:
    """Write a subset's kept.parquet (and, for format folder, its files) and return a summary like a step's marker.

    Formats with shards: see export_shards.

    kept.parquet has every column of frames/ with the user's metadata, cluster and centroid distance, and subset.json
    in its Arrow metadata; copies.parquet names files with the same bytes, for frames whose own file is lost later. A
    kept.parquet that already holds the same subset is left alone, and so are files that are correct already. A kept
    frame whose file is missing or changed is read from an exact copy.
    ValueError: no such subset, an output with another one or with foreign files in images/, a kept frame without any
    readable copy, links that cannot be made. ReadError: a file that cannot be read at the moment.
    """
    run = RunDirectory(config.run_dir)
    subset = f"subsets/{config.name}"
    marker = marker_of(run, subset, f"select --name {config.name}")
    target = RunDirectory(config.output) if config.output else run.below(subset)
    about, frames = run.read_json(f"{subset}/{ABOUT}"), marker["rows_out"]
    if config.sharded:
        return shards.export_shards(config, run, about)
    content = about | {"with_images": config.with_images}
    manifest = manifest_of(target, config, about["digest"])

    def summary(seconds: float, verdict: str = "") -> dict[str, Any]:
        note = f"{frames} frames in {target.uri}" + verdict
        return {"step": "export"} | vars(StepSummary(rows_in=frames, rows_out=frames, seconds=seconds, note=note))

    if config.format == "parquet" and target.exists(MANIFEST) and is_complete(run, target, content):
        return summary(0.0) | {"reused": True}
    watch = Account()
    connect()
    with target.lock() if config.output and target.root != run.root else nullcontext():
        kept = ray.put(read_kept(run, f"{subset}/decisions.parquet"))
        if config.format == "folder":
            check_foreign(run, target, kept)
        claim_folder(target, manifest)
        if config.output:
            target.write_json(ABOUT, about)
        if not is_complete(run, target, content):
            write_copy_table(run, target, kept)
            write_kept(run, target, kept, content)
        if config.format == "folder":
            write_files(run, target, kept, config.linking)
            write_file_table(run, target, kept)
        if config.format == "folder" or manifest["images"] is None:
            claim_folder(target, manifest | {"complete": True})
    return summary(watch.seconds, watch.verdict())


def manifest_of(target: RunDirectory, config: ExportConfig, digest: str) -> dict[str, Any]:
    """The manifest of an export that begins; ValueError where the output holds another subset, or foreign files."""
    remedy = f"delete what is in {target.uri}, or name another --output"
    for path, name, held in holdings(target):
        require(
            held == digest,
            f"{target.uri}/{path} is of another subset, {name}; {remedy}"
            if held
            else f"{target.uri}/{path} was not written by an export; {remedy}",
        )
    found = target.read_json(MANIFEST) if target.exists(MANIFEST) else {"images": None, "complete": False}
    require("options" not in found, f"{target.uri} holds an export with shards; {remedy}")
    link = config.linking if config.format == "folder" else found["images"]
    if found["images"] is None:
        require(
            not target.holds_files(IMAGES_FOLDER),
            f"{target.uri}/{IMAGES_FOLDER} was not written by an export; {remedy}",
        )
    else:
        made = f"was made with --link {found['images']}"
        require(link == found["images"], f"{target.uri}/{IMAGES_FOLDER} {made}, now it is {link}; {remedy}")
    complete = found["complete"] and config.format == "parquet"
    return {"subset": config.name, "digest": digest, "images": link, "complete": complete}


def holdings(target: RunDirectory) -> Iterator[tuple[str, str | None, str | None]]:
    """File, subset and digest of what an output holds already; None for both where it is not from an export."""
    for path in (MANIFEST, ABOUT, TABLE):
        if target.exists(path):
            try:
                found = exported(target) if path == TABLE else target.read_json(path)
            except ValueError:  # neither JSON nor Parquet
                found = None
            known = found if isinstance(found, dict) else {}
            yield path, known.get("subset") or known.get("name"), known.get("digest")


def claim_folder(target: RunDirectory, manifest: dict[str, Any]) -> None:
    """Write export.json, which says what the output holds, and delete what a killed export left half-written."""
    for name in target.names(""):
        if name.startswith(TEMPORARY) and name.endswith((MANIFEST, TABLE, COPIES_TABLE, ABOUT)):
            target.delete(name)
    if not target.exists(MANIFEST) or target.read_json(MANIFEST) != manifest:
        target.write_json(MANIFEST, manifest)


def discard(target: RunDirectory, digest: str) -> None:
    """Delete the files of an earlier export of format parquet, unless it is of the subset with this digest.

    Only what exports write is deleted. An output with images/ or shards is left alone, and refused later.
    """
    found = target.read_json(MANIFEST) if target.exists(MANIFEST) else exported(target)
    others = found is not None and (found.get("images") is not None or "options" in found)
    if found is not None and found.get("digest") != digest and not others:
        for name in (TABLE, COPIES_TABLE, ABOUT, MANIFEST):
            if target.exists(name):
                target.delete(name)


def is_complete(run: RunDirectory, target: RunDirectory, content: dict[str, Any]) -> bool:
    """Whether the tables of an export with this subset.json are there."""
    return exported(target) == content and (target.exists(COPIES_TABLE) or not run.exists(copies.INDEX))


def exported(target: RunDirectory) -> dict[str, Any] | None:
    """What the kept.parquet that is already there holds: its subset.json and whether images are in."""
    if not target.exists(TABLE):
        return None
    content: dict[str, Any] | None = json.loads((target.read_schema(TABLE).metadata or {}).get(SUBSET, b"null"))
    return content


def write_kept(run: RunDirectory, target: RunDirectory, kept: Any, content: dict[str, Any]) -> None:
    """Write kept.parquet, with `content` in its metadata."""
    calls = ((run, path, kept, content["with_images"]) for path in run.parts("frames").values())
    with progress("export", content["kept"]) as bar:
        tables = stream(Task(kept_rows, "reading rows and images"), calls, in_order=True)
        written = write_tables(target, TABLE, tables, {SUBSET: json.dumps(content).encode()}, bar)
    assert written == content["kept"], f"{content['kept']} frames are kept, {written} were exported"


def write_copy_table(run: RunDirectory, target: RunDirectory, kept: Any) -> None:
    """Write copies.parquet where the run has exact copies."""
    if run.exists(copies.INDEX):
        replacements = ray.put(copies.read_replacements(run))
        calls = ((run, path, kept, replacements) for path in run.parts("frames").values())
        with progress("copies", None) as bar:
            write_tables(target, COPIES_TABLE, stream(Task(copy_rows, "reading rows"), calls, in_order=True), {}, bar)


def copy_rows(run: RunDirectory, path: str, kept: Kept, replacements: copies.Replacements) -> pa.Table:
    """Return the rows of schema.COPY_FILES for the exact copies of kept frames in a part of frames."""
    table = copies.copies_in(run.read_table(path, ["frame_id", "copy_of", "content_hash", "uri"]), replacements)
    found, _ = kept.find(table["because_of"])
    return table.filter(pa.array(found)).select(schema.COPY_FILES.names).cast(schema.COPY_FILES)


def write_tables(
    target: RunDirectory, path: str, tables: Iterator[pa.Table], metadata: dict[bytes, bytes], bar: Any
) -> int:
    """Stream tables into one file, each as one or more row groups; return the number of rows."""
    rows = 0
    first = next(tables).replace_schema_metadata(metadata)
    with target.create(path) as sink, pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            groups = row_groups(table) if schema.IMAGE.name in table.column_names else [(0, len(table))]
            for start, length in groups:
                writer.write_table(table.slice(start, length).replace_schema_metadata(metadata))
            rows += len(table)
            bar.update(len(table))
    return rows


def check_foreign(run: RunDirectory, target: RunDirectory, kept: Any) -> None:
    """ValueError where images/ holds other files than the subset's."""
    keys = np.append(kept_name_keys(run, kept, folded=False), folder.name_keys([folder.METADATA], folded=False))
    found = folder.foreign_files(target, IMAGES_FOLDER, np.sort(keys))
    require(
        not found,
        f"{target.uri}/{IMAGES_FOLDER} holds files that are not of this subset: {', '.join(found)}; delete them, or "
        "name another --output",
    )


def kept_name_keys(run: RunDirectory, kept: Any, folded: bool) -> npt.NDArray[np.uint64]:
    """Keys of the names of all kept frames, ascending: 8 bytes per frame."""
    calls = ((run, path, kept, folded) for path in run.parts("frames").values())
    return np.sort(np.concatenate(list(stream(Task(names_of, "reading rows"), calls))))


def names_of(run: RunDirectory, path: str, kept: Kept, folded: bool) -> npt.NDArray[np.uint64]:
    """Keys of the names of a part's kept frames."""
    rows = kept_rows(run, path, kept, with_images=False).select(["source", "path", "member", "frame_index"])
    return folder.name_keys([folder.file_name(row) for row in rows.to_pylist()], folded)


def write_files(run: RunDirectory, target: RunDirectory, kept: Any, link: str) -> None:
    """Put the kept frames' files below images/; those that are correct already stay.

    ValueError where the file system ignores case and would see two of the names as one.
    """
    if target.exists(MANIFEST.upper()):
        keys = kept_name_keys(run, kept, folded=True)
        require(
            not (keys[1:] == keys[:-1]).any(),
            f"some frames have names that differ in case only, which {target.uri} ignores; export them as a table "
            "(--format parquet --with-images), or to another file system",
        )
    calls = ((run, path, kept, target, link) for path in run.parts("frames").values())
    with progress("files", None) as bar:
        for placed in stream(Task(place_files, "placing files"), calls):
            bar.update(placed)


def write_file_table(run: RunDirectory, target: RunDirectory, kept: Any) -> None:
    """Write images/metadata.parquet: all columns and each file's name below images/, as imagefolder reads them."""
    calls = ((run, path, kept) for path in run.parts("frames").values())
    with progress("names", None) as bar:
        tables = stream(Task(named_rows, "reading rows"), calls, in_order=True)
        write_tables(target, f"{IMAGES_FOLDER}/{folder.METADATA}", tables, {}, bar)


def named_rows(run: RunDirectory, path: str, kept: Kept) -> pa.Table:
    """The kept rows of a part of frames with the names of their files."""
    return folder.with_file_names(kept_rows(run, path, kept, with_images=False))


def place_files(run: RunDirectory, path: str, kept: Kept, target: RunDirectory, link: str) -> int:
    """Copy or link the kept frames of a part to images/SOURCE/PATH, made safe; return how many there are."""
    rows = kept_rows(run, path, kept, with_images=False).to_pylist()
    for row in rows:
        uri, data = read_row(run, row)
        folder.place_file(target, f"{IMAGES_FOLDER}/{folder.file_name(row)}", uri, data, link)
    return len(rows)
