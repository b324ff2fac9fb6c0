"""Shards as Lance reads them: one data set, whose fragments are the shards. Images and masks are columns."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.exports.kept import MASK_NAME, Encoded, blocks
from curation.store import schema
from curation.store.directory import File

MASK = pa.field(MASK_NAME, pa.large_binary())
DATA = "data"  # where Lance looks for the files of fragments
MOST_ROWS, MOST_BYTES = (
    2**31 - 1,
    2**62,
)  # of a file: no limit, since the plan has cut the shards; 32 bits of the rows count
LANCE_FORMAT = "2.0"  # of data files, the one that every release of Lance since 0.16 reads


def path(number: int, total: int) -> str:  # noqa: ARG001 (some formats name the total)
    """The path of shard `number`."""
    return f"{DATA}/shard-{number:06d}.lance"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:
    """Write all columns, `image` and, if `masked`, `mask` as one data file.

    In memory are 64 MB several times and what Lance buffers, 500 MB in all (measured). It writes into a folder of its
    own, so the temporary folder (TMPDIR) needs room for the shard.
    """
    columns = with_pictures(rows.schema, masked)
    with tempfile.TemporaryDirectory() as folder:
        fragment(pa.RecordBatchReader.from_batches(columns, batches(rows, encoded, columns)), folder)
        [written] = Path(folder, DATA).iterdir()
        with written.open("rb") as file:
            shutil.copyfileobj(file, sink, 16 << 20)


def with_pictures(columns: pa.Schema, masked: bool) -> pa.Schema:
    """The schema of the data set."""
    return pa.schema([*columns, schema.IMAGE, *([MASK] if masked else [])])


def batches(rows: pa.Table, encoded: Iterator[Encoded], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows with their images and masks, 64 MB at a time."""
    for block, held in blocks(rows, encoded):
        made = filled(block, held, columns).to_batches()
        held.clear()
        while made:
            yield made.pop(0)


def filled(block: pa.Table, held: list[Encoded], columns: pa.Schema) -> pa.Table:
    """Some rows with their images and masks."""
    pictures = {schema.IMAGE: [each.image for each in held], MASK: [each.mask for each in held]}
    for field, values in pictures.items():
        if field.name in columns.names:
            block = block.append_column(field, pa.array(values, field.type))
    return block.cast(columns).combine_chunks()


def fragment(content: Any, folder: str) -> Any:
    """Write one fragment into a folder; its metadata."""
    write_fragments = import_module("lance.fragment").write_fragments
    limits = {"max_rows_per_file": MOST_ROWS, "max_bytes_per_file": MOST_BYTES, "data_storage_version": LANCE_FORMAT}
    [made] = write_fragments(content, folder, mode="create", **limits)
    return made


def others(files: list[File], columns: pa.Schema, about: dict[str, Any]) -> dict[str, bytes]:
    """The manifest of the data set, which makes one version of all shards in their order.

    It holds the time and a random name, so its bytes differ from one export to the next; what it says does not. It
    holds the transaction too, whose own file is left out: its name is random. The metadata of a shard are those of a
    fragment of one row with the same columns, but for name, size and rows.
    """
    lance = import_module("lance")
    target = with_pictures(columns, bool(about["mask"]))
    row = pa.table([pa.array(["0"]).cast(field.type) for field in target], schema=target)
    with tempfile.TemporaryDirectory() as folder:
        made = fragment(row.to_reader(), f"{folder}/row").to_json()
        fragments = [lance.FragmentMetadata.from_json(json.dumps(made | of_shard(made, file))) for file in files]
        lance.LanceDataset.commit(f"{folder}/all", lance.LanceOperation.Overwrite(target, fragments))
        written = sorted((each for each in Path(folder, "all", "_versions").iterdir()), reverse=True)  # hint, manifest
        return {each.relative_to(f"{folder}/all").as_posix(): each.read_bytes() for each in written}


def of_shard(made: dict[str, Any], file: File) -> dict[str, Any]:
    """What differs in a fragment's metadata from those of another fragment of the same columns."""
    [described] = made["files"]
    place = {"path": file.path.removeprefix(f"{DATA}/"), "file_size_bytes": file.bytes}
    return {"files": [described | place], "physical_rows": file.rows}
