"""One frame: its bytes, its row in frames/, and its row in rejected/ when it cannot be used.

A file that cannot be read is one of two things. What the file system says of the file itself (there is none, it is a
folder, reading it is not allowed) is a fact: the frame becomes a rejected row. Everything else (an input/output error,
a time-out, too many open files, a server that is down) says nothing about the frame: reading is tried again, and then
the step stops with a `ReadError`, before the part is written, so that no frame is lost to an unmounted disk.
"""

import errno
import hashlib
import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import tenacity

from curation.frames import decoding, perceptual
from curation.frames.further import FURTHER
from curation.sources import reader
from curation.sources.lineage import Lineage
from curation.store.directory import RunDirectory
from curation.store.filesystems import filesystem_of
from curation.store.parts import rejected_path

MISSING, UNREADABLE, CHANGED = "missing", "unreadable", "changed since ingest"
READING = (MISSING, UNREADABLE, CHANGED)  # reasons that may be temporary
ABSENT = (errno.ENOENT, errno.ENOTDIR)
REFUSED = (errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
DENIED = re.compile("ACCESS_DENIED|InvalidObjectState")  # an object's own; S3 gives no errno
ATTEMPTS, LONGEST_WAIT_S = 4, 8.0
POINTER = "pointer to a file elsewhere"  # the reason
POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS: run `git lfs pull` in its repository",
    b"/annex/objects/": "git-annex: run `git annex get` or `datalad get` on it",
}


def check_pointer(data: bytes) -> None:
    """Raise FrameError where a file is a pointer of Git LFS or git-annex to content elsewhere."""
    for start, todo in POINTERS.items():
        if data.startswith(start):
            raise decoding.FrameError(POINTER, f"the file is not the image but a pointer to it of {todo}")


class ReadError(OSError):
    """A file that could not be read for a reason that is not the file's own; the step stops and can be resumed."""


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """All bytes of a file.

    FrameError: `missing`, `unreadable` (a folder, not allowed, an impossible name), or `too large` for more than
    `limit` bytes, which are not read then. ReadError for all else, after some attempts.
    """
    try:
        return _read(uri, limit)
    except ReadError as error:
        raise ReadError(
            f"{uri} could not be read in {ATTEMPTS} attempts: {error}. This may be temporary, so the frame is not "
            "rejected: rerun the same command when the storage answers again, and it resumes"
        ) from error


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(ReadError),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    wait=tenacity.wait_random_exponential(0.5, LONGEST_WAIT_S),
    reraise=True,
)
def _read(uri: str, limit: int | None) -> bytes:
    system, path = filesystem_of(uri)
    try:
        with system.open_input_file(path) as file:
            size = file.size()
            if limit is not None and size > limit:
                raise decoding.FrameError("too large", f"the file has {size} bytes, more than {limit}")
            data: bytes = file.read()
        if len(data) < size:
            raise ReadError(f"the file has {size} bytes, but {len(data)} were read")
        return data
    except OSError as error:
        reason = reason_of(error, system, path)
        if reason is None:
            raise ReadError(str(error)) from error
        raise decoding.FrameError(reason, str(error)) from error
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:  # a name that no file of this file system can have
        raise decoding.FrameError(UNREADABLE, str(error)) from error


def reason_of(error: OSError, system: pafs.FileSystem, path: str) -> str | None:
    """Why a file cannot be read, where that is a fact about the file; None where the failure may be temporary."""
    if isinstance(error, FileNotFoundError) or error.errno in ABSENT:
        return MISSING
    if isinstance(error, PermissionError) or error.errno in REFUSED or DENIED.search(str(error)):
        return UNREADABLE
    if error.errno is not None or isinstance(error, ReadError):
        return None
    try:  # PyArrow gives no errno for a folder
        found = system.get_file_info(path).type
    except OSError:
        return None
    return {pafs.FileType.NotFound: MISSING, pafs.FileType.File: None}.get(found, UNREADABLE)


def read_unchanged(uri: str, recorded: str) -> bytes:
    """All bytes of a file that was read before. FrameError as `read_bytes`, and where its content has changed."""
    return unchanged(read_bytes(uri), recorded)


def unchanged(data: bytes, recorded: str) -> bytes:
    """The same bytes. FrameError `changed since ingest` where they have another content hash than recorded."""
    found = content_hash(data)
    if found != recorded:
        raise decoding.FrameError(CHANGED, f"its content hash was {recorded}, now it is {found}")
    return data


def read_first(uris: Iterable[str], recorded: str) -> tuple[str, bytes]:
    """Address and bytes of the first of some equal files that can be read and is unchanged.

    FrameError of the first file where there is none. Further addresses are drawn only when they are needed.
    """
    first: decoding.FrameError | None = None
    for uri in uris:
        try:
            return uri, read_unchanged(uri, recorded)
        except decoding.FrameError as error:
            first = first or error
    assert first is not None, "there was no file to read"
    raise first


def frame_row(entry: reader.Entry, lineage: Lineage, max_pixels: int, hashed: bool = False) -> dict[str, Any]:
    """The row of schema.frames for one file, and in FURTHER its number of further frames. FrameError if unusable.

    `hashed` adds its perceptual hash: then the file is decoded, and so is a frame that cannot be is found here.
    """
    if entry.problem is not None:
        raise decoding.FrameError(*entry.problem)
    decoding.check_bytes(entry.size)
    data = read_bytes(entry.uri, decoding.MAX_BYTES)
    check_pointer(data)
    width, height, further = decoding.inspect(data, max_pixels)
    place = {"source": entry.source, "uri": entry.uri, "path": entry.path}
    content: dict[str, Any] = {
        "content_hash": content_hash(data),
        "byte_size": len(data),
        "width": width,
        "height": height,
    }
    if hashed:
        brightness = decoding.brightness(data, perceptual.SIDE, max_pixels)
        content["perceptual_hash"] = perceptual.perceptual_hash(brightness)
    identity = {"frame_id": frame_id(entry.source, entry.path)}
    return identity | place | content | lineage.of(entry.path) | {FURTHER: further}


def rejected_row(source: str, uri: str, path: str, step: str, error: decoding.FrameError) -> dict[str, Any]:
    """The row of schema.REJECTED for a frame that failed in `step`."""
    row = {"frame_id": frame_id(source, path), "source": source, "uri": uri, "path": path}
    return row | {"step": step, "reason": error.reason, "message": error.message, "replaced_by": None}


def forget_unread(run: RunDirectory, step: str, folder: str) -> None:
    """Delete the parts of an unfinished step that hold rejected frames which could not be read, to try them again.

    All files of an unmounted disk are missing: they are rejected, and may be back at the rerun.
    Once a step is finished its rejected frames stay rejected.
    """
    for number, path in run.parts(folder).items():
        rejected = rejected_path(number, step)
        if run.exists(rejected):
            reasons = run.read_table(rejected, ["reason"])["reason"]
            if pc.any(pc.is_in(reasons, pa.array(READING))).as_py():
                run.delete(path)  # first, since it commits the part
                run.delete(rejected)


def frame_id(source: str, path: str, member: str | None = None, frame_index: int | None = None) -> str:
    """The frame's identity: 32 hex characters from the source's name and the frame's place in it."""
    place = "\0".join((source, path, member or "", "" if frame_index is None else str(frame_index)))
    return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def content_hash(data: bytes) -> str:
    """32 hex characters that are equal for equal bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
