"""Shards as Hugging Face's datasets reads them: Parquet files with an Image column, and a dataset card."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation.exports.kept import row_groups
from curation.exports.webdataset import extension
from curation.store import schema
from curation.store.directory import File

IMAGE = pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))
TYPES = {"double": "float64", "float": "float32"}  # Arrow's names that Hugging Face spells otherwise
REASONS = tuple(reason for reason in schema.REASONS if reason != "kept")


def path(number: int, total: int) -> str:
    """The path of shard `number`."""
    return f"data/train-{number:05d}-of-{total:05d}.parquet"


def write(sink: Any, rows: pa.Table, images: Iterator[bytes]) -> None:
    """Write all columns and `image`, in row groups of at most 64 MB, one of which is in memory."""
    target = with_features(rows.schema)
    with pq.ParquetWriter(sink, target, compression="zstd") as writer:
        for start, length in row_groups(rows):
            block = rows.slice(start, length)
            encoded = [next(images) for _ in range(length)]
            names = zip(block["frame_id"].to_pylist(), encoded, strict=True)
            values = [{"bytes": data, "path": f"{name}.{extension(data)}"} for name, data in names]
            table = block.append_column(IMAGE, pa.array(values, IMAGE.type))
            writer.write_table(table.cast(target), row_group_size=length)


def with_features(columns: pa.Schema) -> pa.Schema:
    """The schema of a shard, with the features that Hugging Face finds in its metadata."""
    features: dict[str, Any] = {
        field.name: {"dtype": TYPES.get(str(field.type), str(field.type)), "_type": "Value"} for field in columns
    }
    features[IMAGE.name] = {"_type": "Image"}
    info = json.dumps({"info": {"features": features}})
    return pa.schema([*columns, IMAGE], {b"huggingface": info.encode()})


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
