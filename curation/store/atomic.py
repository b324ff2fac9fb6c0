"""Files that appear whole or not at all, on every kind of file system. It is independent of runs and tables.

Where a store shows an object only once it is complete (Amazon S3, Google Cloud Storage), content waits in memory, or
above a bound in a local temporary file, and is put once. Everywhere else (local disk, HDFS, Azure and all file systems
of fsspec, whose writes show half-done or whose streams complete a short object when they are closed after an error)
it goes to a temporary name, which is renamed when all of it is there.
"""

import contextlib
import mmap
import re
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as pafs

TEMPORARY = ".tmp-"
ASIDE = ".old-"
PUTS = ("s3", "gcs")  # types of file systems where an object shows once it is complete
RENAMES = ("local", "hdfs")
CAREFUL = {"hdfs", "webhdfs", "smb", "ftp", "webdav", "webdavs"}  # protocols of servers that may not rename over a file
SPOOL_BYTES = 64 << 20  # of content that waits in memory; more waits in a local file
SLICE_BYTES = 64 << 20  # of content that is under way to a store at once


@contextlib.contextmanager
def create(system: pafs.FileSystem, path: str) -> Iterator[pa.NativeFile]:
    """A stream to `path`. When the block ends well all of it is there; after an error what was there before still is.

    Memory: SPOOL_BYTES and SLICE_BYTES. Where content is put once, more than SPOOL_BYTES needs as much room in the
    folder of temporary files (TMPDIR). A killed writer leaves nothing but names that `clear` deletes, and in object
    storage parts of uploads that no listing shows. OSError where it could not be written.
    """
    if system.type_name in PUTS:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            stream = pa.PythonFile(spool, mode="w")
            yield stream
            stream.flush()
            put(system, path, content_of(spool))
        return
    folder, slash, name = path.rpartition("/")
    if folder:
        system.create_dir(folder, recursive=True)
    temporary = f"{folder}{slash}{TEMPORARY}{uuid.uuid4().hex}-{name}"
    try:
        with system.open_output_stream(temporary) as stream:
            yield stream
            written = stream.tell()
        if system.type_name not in RENAMES:
            check_size(system, path, temporary, written)
        replace(system, temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            system.delete_file(temporary)
        raise


def write(system: pafs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Put `content`, which is in memory, at `path`: whole or not at all."""
    if system.type_name in PUTS:
        put(system, path, pa.py_buffer(content))
        return
    with create(system, path) as stream:
        stream.write(content)


def content_of(spool: "tempfile.SpooledTemporaryFile[bytes]") -> pa.Buffer:
    """All that was written to `spool`; what is in a file is mapped, not read."""
    size = spool.tell()
    spool.flush()
    if size > SPOOL_BYTES:
        return pa.py_buffer(mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ))
    spool.seek(0)
    return pa.py_buffer(spool.read())


def put(system: pafs.FileSystem, path: str, content: pa.Buffer) -> None:
    """Put `content` at `path` of a store where an object shows once it is complete.

    PyArrow cannot abort an upload: its stream completes the object when it is closed, unless a write failed. So nothing
    but a failed write may come between opening and closing. A separate thread, where no interruption arrives, ensures
    that: an interrupted caller waits until all of the object is there.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(upload, system, path, content).result()


def upload(system: pafs.FileSystem, path: str, content: pa.Buffer) -> None:
    """Write `content` to `path` in slices, each of which has arrived before the next is sent."""
    with system.open_output_stream(path) as stream:
        for start in range(0, content.size, SLICE_BYTES):
            stream.write(content.slice(start, min(SLICE_BYTES, content.size - start)))
            if content.size > SLICE_BYTES:
                stream.flush()


def check_size(system: pafs.FileSystem, path: str, temporary: str, written: int) -> None:
    """OSError unless all bytes are in a temporary file: some protocols end a broken transfer silently."""
    found = system.get_file_info(temporary).size
    if found != written:
        raise OSError(f"{path} could not be written: {found} of {written} bytes arrived; rerun the same command")


def replace(system: pafs.FileSystem, temporary: str, path: str) -> None:
    """Rename a whole temporary file to `path`, replacing what is there.

    Where a server may not rename over a file, the old one is moved first: for that moment nothing is at `path`, and if
    the process is killed then, `clear` puts the old file back.
    """
    if system.type_name == "abfs":  # it moves nothing unless names are hierarchical
        system.copy_file(temporary, path)
        system.delete_file(temporary)
        return
    careful = CAREFUL & set(re.findall("[a-z]+", system.type_name))
    if not careful or system.get_file_info(path).type == pafs.FileType.NotFound:
        system.move(temporary, path)
        return
    folder, slash, name = path.rpartition("/")
    aside = f"{folder}{slash}{ASIDE}{uuid.uuid4().hex}-{name}"
    system.move(path, aside)
    try:
        system.move(temporary, path)
    except BaseException:
        system.move(aside, path)
        raise
    system.delete_file(aside)


def clear(system: pafs.FileSystem, folder: str) -> None:
    """Delete what killed writers left in `folder` and below it; put back what one of them had set aside."""
    infos = system.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=True))
    present = {info.path for info in infos}
    for info in infos:
        if info.base_name.startswith(TEMPORARY):
            system.delete_file(info.path)
        elif match := re.fullmatch(rf"{re.escape(ASIDE)}[0-9a-f]{{32}}-(.+)", info.base_name):
            original = info.path.removesuffix(info.base_name) + match[1]
            if original in present:
                system.delete_file(info.path)
            else:
                system.move(info.path, original)
