"""The formats with shards: what each is called, how a shard is written, and what else belongs to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from curation.exports import huggingface, mds, tfrecord, webdataset
from curation.options import require
from curation.store import schema
from curation.store.directory import File

Others = Callable[[list[File], pa.Schema, dict[str, Any]], dict[str, bytes]]


def nothing(files: list[File], columns: pa.Schema, about: dict[str, Any]) -> dict[str, bytes]:  # noqa: ARG001
    """No other files."""
    return {}


@dataclass(frozen=True)
class Format:
    """A format with shards.

    `path(number, total)` names a shard. `write(sink, rows, images)` writes one: the rows are all columns of its kept
    frames and the images their encoded bytes, read as they are drawn. `others(shards, columns, subset.json)` gives
    the content of further files by path. `library` is the module that writing needs, and the extra that brings it.
    `images_in_column` says that no other column may be called `image`.
    """

    path: Callable[[int, int], str]
    write: Callable[[Any, pa.Table, Iterator[bytes]], None]
    others: Others = nothing
    library: tuple[str, str] | None = None
    images_in_column: bool = False


FORMATS = {
    "webdataset": Format(webdataset.path, webdataset.write),
    "huggingface": Format(
        huggingface.path,
        huggingface.write,
        lambda files, columns, about: {"README.md": huggingface.card(files, columns, about)},
        images_in_column=True,
    ),
    "tfrecord": Format(tfrecord.path, tfrecord.write, library=("tfrecord", "tfrecord"), images_in_column=True),
    "mds": Format(
        mds.path,
        mds.write,
        lambda files, columns, about: {"index.json": mds.index(files)},  # noqa: ARG005
        library=("streaming", "mosaicml"),
    ),
}


def check(name: str, columns: list[str], keep_together: str | None) -> None:
    """ValueError where a format's library is missing, or the frames have not the right columns for it."""
    form = FORMATS[name]
    if form.library is not None:
        module, extra = form.library
        require(
            find_spec(module) is not None,
            f"format {name} needs the package {module}, which is not installed: pip install 'endosieve[{extra}]'",
        )
    require(
        keep_together is None or keep_together in columns,
        f"keep_together is {keep_together}; the frames have the columns {', '.join(columns)}",
    )
    require(
        not (form.images_in_column and schema.IMAGE.name in columns),
        f"the frames have a column {schema.IMAGE.name} already, where format {name} puts the images; use --format "
        "webdataset",
    )
