"""What a sharded export has written: export.json, and a record of each finished shard. It does not use Ray.

export.json names the subset and the options first and says `complete`, with all files, last. In between each shard
that is there in whole has a record in .export/, so that a rerun makes only what is missing.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from curation.options import changes, require
from curation.store.directory import TEMPORARY, File, RunDirectory

MANIFEST = "export.json"
RECORDS = ".export"
READERS = 16  # records that are read at once


def opened(target: RunDirectory, wanted: dict[str, Any]) -> dict[str, Any]:
    """The manifest in an output, or `wanted` where the output is empty.

    ValueError: another subset, other options, or files that no sharded export wrote; says what differs.
    """
    remedy = f"delete what is in {target.uri}, or name another --output"
    if not target.exists(MANIFEST):
        found = [name for name in (*target.names(""), *target.folders("")) if not name.startswith(".")]
        require(not found, f"{target.uri}/{next(iter(found), '')} was not written by an export; {remedy}")
        return wanted
    try:
        manifest = target.read_json(MANIFEST)
    except ValueError:
        manifest = None
    known = manifest if isinstance(manifest, dict) else {}
    require("digest" in known, f"{target.uri}/{MANIFEST} was not written by an export; {remedy}")
    require("options" in known, f"{target.uri} holds an export of format parquet or folder; {remedy}")
    other = changes(known["options"], wanted["options"])
    require(not other, f"{target.uri} was exported with other options: {'; '.join(other)}; use the old ones, {remedy}")
    same = known["digest"] == wanted["digest"]
    require(same, f"{target.uri}/{MANIFEST} is of another subset, {known.get('subset')}; {remedy}")
    return known


def finished(target: RunDirectory, manifest: dict[str, Any]) -> dict[str, File]:
    """The files of an export that are there in their recorded size, by path."""
    names = [name for name in target.names(RECORDS) if not name.startswith(TEMPORARY)]
    with ThreadPoolExecutor(READERS) as threads:
        recorded = list(threads.map(lambda name: target.read_json(f"{RECORDS}/{name}"), names))
    files = [File(**entry) for entry in (*manifest["files"], *recorded)]
    infos = target.filesystem.get_file_info([f"{target.root}/{file.path}" for file in files])
    return {file.path: file for file, info in zip(files, infos, strict=True) if info.size == file.bytes}


def record(target: RunDirectory, number: int, file: File) -> None:
    """Note that shard `number` is there in whole."""
    target.write_bytes(f"{RECORDS}/{number:06d}.json", json.dumps(vars(file)).encode())


def begin(target: RunDirectory, manifest: dict[str, Any]) -> None:
    """Say in export.json that an export is under way, and delete what killed writers left half-written."""
    target.clear_temporary("")
    target.write_json(MANIFEST, manifest | {"complete": False})


def complete(target: RunDirectory, manifest: dict[str, Any], files: list[File]) -> None:
    """Say in export.json that the export has all of `files`; delete the records and what killed writers left."""
    target.clear_temporary("")
    target.write_json(MANIFEST, manifest | {"files": [vars(file) for file in files], "complete": True})
    forget(target)


def forget(target: RunDirectory) -> None:
    """Delete the records of shards, which export.json lists."""
    if target.holds_files(RECORDS):
        target.delete_folder(RECORDS)
