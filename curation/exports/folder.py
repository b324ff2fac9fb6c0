"""A subset's frames as files below one folder: their names, and writing each whole or not at all. It does not use Ray.

A name is made of data (a source's name, a path that may be any key of an object store), so it is made safe first:
no name leads out of the folder, and different frames have different names.
"""

import contextlib
import errno
import hashlib
import os
import re
import unicodedata
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs

from curation.options import require
from curation.sources.listing import IMAGE_SUFFIXES
from curation.store.directory import TEMPORARY, RunDirectory
from curation.store.filesystems import filesystem_of

LINKS: dict[str, Callable[[str, str], None]] = {
    "hard": lambda path, to: os.link(os.path.realpath(path), to),  # of a file, not of a symbolic link to it
    "symbolic": os.symlink,
}
UNSAFE = re.compile(rb"[\x00-\x1f\x7f%\\/]")
COMPONENT_BYTES, NAME_BYTES, SUFFIX_BYTES = 255, 900, 16  # of Linux; below the 1024 of an S3 key; of a kept suffix
SHOWN = 3
METADATA, FILE_NAME = "metadata.parquet", "file_name"  # as Hugging Face's imagefolder looks for them


def safe_name(source: str, path: str, member: str | None = None, frame_index: int | None = None) -> str:
    """The name of a frame's file below a folder: SOURCE/PATH, as a relative path that stays in the folder.

    Different arguments give different names. Control characters, %, backslashes, bytes that are not UTF-8, `.`, `..`
    and the prefix of temporary files are percent-encoded; an empty component is %. A folder named like an image ends
    with % (an object store may have an image of that name too), and a component or name that is too long is cut and
    ends with a digest. A member or frame index is appended, and the suffix again. (OURS; %m, %f and %h encode nothing.)
    """
    *folders, last = path.split("/")
    inner = "" if member is None else f"%m{_quoted(member)}"
    inner += "" if frame_index is None else f"%f{frame_index}"
    last = _component(last)
    last += f"{inner}{''.join(last.rpartition('.')[1:])}" if inner and "." in last else inner
    named = [_component(folder) for folder in (source, *folders)]
    named = [f"{name}%" if name.lower().endswith(IMAGE_SUFFIXES) else name for name in named]
    name = "/".join(_shortened(component, COMPONENT_BYTES) for component in (*named, last))
    if len(name.encode()) <= NAME_BYTES:
        return name
    return f"{_shortened(named[0], COMPONENT_BYTES)}/{_digested('/'.join((*named, last)), COMPONENT_BYTES)}"


def _quoted(text: str) -> str:
    """The text with all that is not allowed in a component percent-encoded."""
    data = UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "surrogatepass"))
    chars = data.decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in chars)


def _component(text: str) -> str:
    """A component of a name, not yet shortened."""
    if text in ("", ".", ".."):
        return "%2E" * len(text) or "%"
    quoted = _quoted(text)
    return f"%2E{quoted[1:]}" if quoted.startswith(TEMPORARY) else quoted


def _shortened(component: str, limit: int) -> str:
    return component if len(component.encode()) <= limit else _digested(component, limit)


def _digested(text: str, limit: int) -> str:
    """The first bytes of a text, the digest of all of it, and its suffix, in `limit` bytes."""
    _, dot, suffix = text.rpartition(".")
    ending = f"%h{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    if dot and "/" not in suffix and len(suffix.encode()) < SUFFIX_BYTES:
        ending += f".{suffix}"
    return text.replace("/", "%").encode()[: limit - len(ending.encode())].decode(errors="ignore") + ending


def file_name(row: dict[str, Any]) -> str:
    """The name of the file of a row of frames."""
    return safe_name(row["source"], row["path"], row.get("member"), row.get("frame_index"))


def with_file_names(rows: pa.Table) -> pa.Table:
    """Rows of frames with the names of their files as the first column; ValueError where they have such a column."""
    require(
        FILE_NAME not in rows.column_names,
        f"the frames have a column {FILE_NAME} already, which format folder adds; use another format",
    )
    places = rows.select(["source", "path", "member", "frame_index"]).to_pylist()
    field = pa.field(FILE_NAME, pa.string(), nullable=False)
    return rows.add_column(0, field, pa.array([file_name(row) for row in places], field.type))


def name_keys(names: list[str], folded: bool) -> npt.NDArray[np.uint64]:
    """A 64-bit key of each name; `folded`: equal where a file system that ignores case would see one name."""
    if folded:
        names = [unicodedata.normalize("NFC", name).casefold() for name in names]
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), np.uint64)


def foreign_files(target: RunDirectory, below: str, keys: npt.NDArray[np.uint64]) -> list[str]:
    """Names of files in the folder `below` of an export that are not among `keys`, SHOWN at most.

    What a killed writer left half-written is deleted: no frame's name begins like its.
    """
    found: list[str] = []

    def look(folder: str) -> None:
        root = f"{target.root}/{below}"
        selector = pafs.FileSelector(f"{root}/{folder}".rstrip("/"), allow_not_found=True)
        infos = sorted(target.filesystem.get_file_info(selector), key=lambda info: info.base_name)
        names = [f"{folder}/{info.base_name}".lstrip("/") for info in infos]
        expected = np.isin(name_keys(names, folded=False), keys, kind="sort")
        for name, info, known in zip(names, infos, expected, strict=True):
            if len(found) == SHOWN:
                return
            linked = target.filesystem.type_name == "local" and os.path.islink(f"{root}/{name}")
            if info.type == pafs.FileType.Directory and not linked:
                look(name)
            elif info.base_name.startswith(TEMPORARY):
                target.delete(f"{below}/{name}")
            elif not known:
                found.append(name)

    look("")
    return found


def check_inside(root: str, path: str) -> None:
    """ValueError where a path below a local folder leads out of it, through a symbolic link."""
    within, place = os.path.realpath(root), os.path.realpath(os.path.dirname(path))
    require(
        place == within or place.startswith(f"{within.rstrip('/')}/"),
        f"{path} would be written to {place}, outside {root}, because of a symbolic link; remove the link",
    )


def place_file(target: RunDirectory, name: str, uri: str, data: bytes, link: str) -> None:
    """Put a frame's file at `name`: a copy of `data`, or a link to `uri`, whole or not at all.

    An equal file that is there already stays; anything else of that name is replaced. ValueError where the name leads
    out of the folder, or a link cannot be made.
    """
    if target.filesystem.type_name != "local":
        require(link == "copy", f"{uri} cannot be linked from {target.uri}, not on the local disk; use --link copy")
        there = target.filesystem.get_file_info(f"{target.root}/{name}")
        if there.size != len(data) or target.read_bytes(name) != data:
            target.write_bytes(name, data)
        return
    to = f"{target.root}/{name}"
    check_inside(target.root, to)
    os.makedirs(os.path.dirname(to), exist_ok=True)
    if not is_placed(to, uri, data, link):
        written = f"{os.path.dirname(to)}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            if link == "copy":
                with open(written, "xb") as file:
                    file.write(data)
            else:
                make_link(uri, written, link)
            os.replace(written, to)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written)


def is_placed(to: str, uri: str, data: bytes, link: str) -> bool:
    """Whether the file that `place_file` would put at `to` is there already."""
    if not os.path.isfile(to) or os.path.islink(to) != (link == "symbolic"):
        return False
    if link != "copy":
        return os.path.samefile(to, filesystem_of(uri)[1])
    with open(to, "rb") as file:
        return os.fstat(file.fileno()).st_size == len(data) and file.read() == data


def make_link(uri: str, to: str, link: str) -> None:
    """Make a hard or symbolic link on the local disk; ValueError where that cannot be done."""
    system, path = filesystem_of(uri)
    try:
        require(isinstance(system, pafs.LocalFileSystem), "not on the local disk")
        LINKS[link](path, to)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"{uri} cannot be linked from {to} ({error}); use --link copy") from error
