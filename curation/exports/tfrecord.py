"""Shards as TensorFlow reads them: TFRecord files of one tf.train.Example for each frame, and what its features are.

A feature is named as its column: text and encoded bytes (`image`, `mask`) are bytes_list, integers int64_list, numbers
of 32 bits float_list, and numbers of 64 bits text, since a float_list has 32. A null value has no feature.
"""

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pyarrow as pa

from curation.exports.kept import MASK_NAME, Encoded, each_row
from curation.store import schema
from curation.store.directory import File


def path(number: int, total: int) -> str:
    """The path of shard `number`."""
    return f"train-{number:05d}-of-{total:05d}.tfrecord"


def write(sink: Any, rows: pa.Table, encoded: Iterator[Encoded], masked: bool) -> None:  # noqa: ARG001
    """Write an Example for each row; one frame is in memory. Equal frames give equal bytes."""
    example, checksum = import_module("tfrecord.example_pb2"), import_module("tfrecord.writer").TFRecordWriter
    wide = [field.name for field in rows.schema if field.type == pa.float64()]
    for row, (image, mask) in zip(each_row(rows), encoded, strict=True):
        texts = {name: repr(row[name]) for name in wide if row[name] is not None}
        whole = row | texts | {schema.IMAGE.name: image} | ({} if mask is None else {MASK_NAME: mask})
        values = {name: feature(example, value) for name, value in whole.items() if value is not None}
        made = example.Example(features=example.Features(feature=values))
        content = made.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(content))
        for piece in (length, checksum.masked_crc(length), content, checksum.masked_crc(content)):
            sink.write(piece)


def feature(example: Any, value: Any) -> Any:
    """A value as a tf.train.Feature."""
    if isinstance(value, int):
        return example.Feature(int64_list=example.Int64List(value=[value]))
    if isinstance(value, float):
        return example.Feature(float_list=example.FloatList(value=[value]))
    content = value.encode() if isinstance(value, str) else value
    return example.Feature(bytes_list=example.BytesList(value=[content]))


def others(files: list[File], columns: pa.Schema, about: dict[str, Any]) -> dict[str, bytes]:  # noqa: ARG001
    """features.json: of each feature which list it is, the type of the values, and whether it may be missing."""
    pictures = [schema.IMAGE, *([pa.field(MASK_NAME, pa.large_binary())] if about["mask"] else [])]
    described = {
        field.name: {"list": kind_of(field.type), "type": str(field.type), "optional": field.nullable}
        for field in (*columns, *pictures)
    }
    return {"features.json": (json.dumps(described, indent=2) + "\n").encode()}


def kind_of(kind: pa.DataType) -> str:
    """The list of tf.train.Feature that holds values of a type."""
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "int64_list"
    return "float_list" if kind == pa.float32() else "bytes_list"
