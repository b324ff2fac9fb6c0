"""The formats with shards: what each is called, how a shard is written, and what else belongs to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from curation.exports import huggingface, lance, litdata, mds, tfrecord, webdataset
from curation.exports.kept import MASK_NAME, Encoded
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

    `path(number, total)` names a shard. `write(sink, rows, encoded, masked)` writes one: the rows are all columns of
    its kept frames, and `encoded` the bytes of their images and, if `masked`, masks, read as they are drawn.
    `others(shards, columns, about)` gives the content of further files by path, in the order in which they are written;
    `about` is subset.json and, as `mask`, the rule by which masks are found. `library` is the module that writing
    needs, and the extra that brings it. `images_in_column` says that no other column may have the name of one that is
    added. `held`: how many times a shard's size writing one takes in memory.
    """

    path: Callable[[int, int], str]
    write: Callable[[Any, pa.Table, Iterator[Encoded], bool], None]
    others: Others = nothing
    library: tuple[str, str] | None = None
    images_in_column: bool = False
    held: float = 1.0


FORMATS = {
    "webdataset": Format(webdataset.path, webdataset.write),
    "huggingface": Format(
        huggingface.path,
        huggingface.write,
        lambda files, columns, about: {"README.md": huggingface.card(files, columns, about)},
        images_in_column=True,
    ),
    "tfrecord": Format(
        tfrecord.path, tfrecord.write, tfrecord.others, library=("tfrecord", "tfrecord"), images_in_column=True
    ),
    "mds": Format(
        mds.path,
        mds.write,
        lambda files, columns, about: {"index.json": mds.index(files, bool(about["mask"]))},  # noqa: ARG005
        library=("streaming", "mosaicml"),
    ),
    "litdata": Format(litdata.path, litdata.write, litdata.others, library=("litdata", "litdata"), held=8.0),
    "lance": Format(lance.path, lance.write, lance.others, library=("lance", "lance"), images_in_column=True),
}


def check(name: str, columns: list[str], keep_together: str | None, masked: bool) -> None:
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
    added = {schema.IMAGE.name, MASK_NAME} if masked else {schema.IMAGE.name}
    taken = sorted(added & set(columns)) if form.images_in_column else []
    require(
        not taken,
        f"the frames have a column {', '.join(taken)} already, which format {name} adds; use --format webdataset",
    )
