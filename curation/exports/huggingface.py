"""Shards as Hugging Face's datasets reads them: Parquet files with an Image column, and a dataset card."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation.exports.kept import MASK_NAME, Encoded, blocks
from curation.exports.webdataset import extension, mask_extension
from curation.store import schema
from curation.store.directory import File

PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
IMAGE, MASK = pa.field(schema.IMAGE.name, PICTURE), pa.field(MASK_NAME, PICTURE)
TYPES = {"double": "float64", "float": "float32"}  # Arrow's names that Hugging Face spells otherwise
REASONS = tuple(reason for reason in schema.REASONS if reason != "kept")


def path(number: int, total: int) -> str:
    """The path of shard `number`."""
    return f"data/train-{number:05d}-of-{total:05d}.parquet"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:
    """Write all columns, `image` and, if `masked`, `mask`; encoded bytes are not compressed again.

    Row groups have at most 64 MB; one is in memory, several times while it is put together: 400 MB (measured).
    """
    target = with_features(rows.schema, masked)
    packed = dict.fromkeys((*rows.schema.names, "image.path", "mask.path"), "zstd")
    settings = {"compression": packed | dict.fromkeys(("image.bytes", "mask.bytes"), "none")}
    with pq.ParquetWriter(sink, target, use_dictionary=rows.schema.names, write_page_index=True, **settings) as writer:
        for block, held in blocks(rows, encoded):
            table = filled(block, held, target)
            held.clear()
            writer.write_table(table, row_group_size=len(block))
            del table


def filled(block: pa.Table, held: list[Encoded], target: pa.Schema) -> pa.Table:
    """Some rows with their images and, where the schema has them, masks."""
    names = block["frame_id"].to_pylist()
    both = list(zip(names, held, strict=True))
    images = [picture(f"{name}.{extension(each.image)}", each.image) for name, each in both]
    block = block.append_column(IMAGE, pa.array(images, PICTURE))
    if MASK.name in target.names[block.num_columns :]:
        masks = [picture(f"{name}.mask.{mask_extension(each.mask or b'')}", each.mask) for name, each in both]
        block = block.append_column(MASK, pa.array(masks, PICTURE))
    return block.cast(target)


def picture(name: str, data: bytes | None) -> dict[str, Any] | None:
    """An encoded image, as a file of this name, as a value of a column of images."""
    return None if data is None else {"bytes": data, "path": name}


def with_features(columns: pa.Schema, masked: bool) -> pa.Schema:
    """The schema of a shard, with the features that Hugging Face finds in its metadata."""
    pictures = [IMAGE, MASK] if masked else [IMAGE]
    features: dict[str, Any] = {
        field.name: {"dtype": TYPES.get(str(field.type), str(field.type)), "_type": "Value"} for field in columns
    }
    features |= {field.name: {"_type": "Image"} for field in pictures}
    info = json.dumps({"info": {"features": features}})
    return pa.schema([*columns, *pictures], {b"huggingface": info.encode()})


def card(files: list[File], columns: pa.Schema, about: dict[str, Any]) -> bytes:
    """README.md: what the data set is, how it was selected, how many frames there are, and its columns."""
    rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "size_categories": [category(rows)],
    }
    settings = {name: value for name, value in about["config"].items() if value not in (None, False, [])}
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "# license: add the licence of your sources here",
        "---",
        f"# Subset {about['name']}",
        "",
        f"{rows} endoscopy frames, {size} bytes in {len(files)} files. The images are as they were found: nothing was",
        "encoded again. The licence is that of the sources, and is not stated here.",
        "",
        "## How it was selected",
        "",
        f"Endosieve kept {about['kept']} of {about['pool']} frames ({about['ratio']:.1%}). It left out:",
        "",
        *(f"- {reason}: {about['counts'][reason]}" for reason in REASONS),
        "",
        "The settings were:",
        "",
        *(f"- {name}: {value}" for name, value in settings.items()),
        "",
        "## Columns",
        "",
        *(f"- `{field.name}`: {field.type}" for field in columns),
        f"- `{IMAGE.name}`: the encoded bytes, which load as a picture",
        *([f"- `{MASK.name}`: those of its mask, null without one"] if about["mask"] else []),
        "",
    ]
    return "\n".join(lines).encode()


def category(rows: int) -> str:
    """The size of a data set as cards of Hugging Face name it."""
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    place = next((place for place in range(len(names)) if rows < 10 ** (place + 3)), len(names))
    if place == 0:
        return "n<1K"
    return f"{names[place - 1]}<n<{names[place]}" if place < len(names) else "n>1T"
