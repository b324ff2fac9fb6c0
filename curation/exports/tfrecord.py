"""Shards as TensorFlow reads them: TFRecord files of one tf.train.Example for each frame.

A feature is named as its column: text and the encoded bytes (`image`) are bytes_list, integers int64_list, and other
numbers float_list, which has 32 bits. A null value has no feature.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pyarrow as pa

from curation.exports.kept import each_row
from curation.store import schema


def path(number: int, total: int) -> str:
    """The path of shard `number`."""
    return f"train-{number:05d}-of-{total:05d}.tfrecord"


def write(sink: Any, rows: pa.Table, images: Iterator[bytes]) -> None:
    """Write an Example for each row; one frame is in memory. Equal frames give equal bytes."""
    example, checksum = import_module("tfrecord.example_pb2"), import_module("tfrecord.writer").TFRecordWriter
    for row, image in zip(each_row(rows), images, strict=True):
        values = {name: feature(example, value) for name, value in row.items() if value is not None}
        values[schema.IMAGE.name] = feature(example, image)
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
