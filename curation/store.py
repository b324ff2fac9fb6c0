"""The run directory: files and tables that appear whole or not at all, on a local disk or in object storage.

It knows neither steps nor engine. Paths are relative to the run directory, which is a local path or a URI.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from curation.filesystems import filesystem_of, without_credentials

TEMPORARY = ".tmp-"
ROW_GROUP_BYTES = 64 << 20
RENAMES = ("local", "hdfs")  # file systems where a half-written file shows; elsewhere a put is atomic


@dataclass(frozen=True)
class File:
    """One table of a run as its step's marker lists it."""

    path: str
    rows: int
    bytes: int
    sha256: str


class RunDirectory:
    """Reads and writes below one directory; cheap to make, and to send to another process."""

    def __init__(self, uri: str) -> None:
        self.uri = without_credentials(uri)
        self.filesystem, self.root = filesystem_of(self.uri)

    def __reduce__(self) -> tuple[type["RunDirectory"], tuple[str]]:
        return RunDirectory, (self.address,)

    @property
    def address(self) -> str:
        """Path or URI that names this directory in any process, whatever that one's working directory is."""
        return self.root if self.filesystem.type_name == "local" else self.uri

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def names(self, folder: str) -> list[str]:
        """Names of the files in `folder`, sorted; none where the folder is missing."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.File)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`, sorted; none where it is missing."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def parts(self, folder: str) -> dict[int, str]:
        """Paths of the parts in `folder` by their number, ascending."""
        matches = ((re.fullmatch(r"part-(\d+)\.parquet", name), name) for name in self.names(folder))
        return {int(match[1]): f"{folder}/{name}" for match, name in matches if match}

    def holds_files(self, folder: str) -> bool:
        """Whether there is any file in `folder` or below it."""
        selector = pafs.FileSelector(self._full(folder), allow_not_found=True, recursive=True)
        return any(info.type == pafs.FileType.File for info in self.filesystem.get_file_info(selector))

    def exists(self, path: str) -> bool:
        """Whether `path` is there."""
        return bool(self.filesystem.get_file_info(self._full(path)).type != pafs.FileType.NotFound)

    def delete(self, path: str) -> None:
        """Delete one file."""
        self.filesystem.delete_file(self._full(path))

    def delete_folder(self, path: str) -> None:
        """Delete a folder and all that is in it."""
        self.filesystem.delete_dir(self._full(path))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a local directory for one process until the block ends or the process does; elsewhere nothing.

        ValueError where another process holds it.
        """
        if self.filesystem.type_name != "local":
            yield
            return
        self.filesystem.create_dir(self.root, recursive=True)
        directory = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(directory)
            raise ValueError(
                f"{self.uri} is in use by another process; wait for its end, or name another directory"
            ) from None
        except OSError:  # a file system that locks no directories
            pass
        try:
            yield
        finally:
            os.close(directory)

    def clear_temporary(self, folder: str) -> None:
        """Delete what killed writers left behind in `folder` and below it."""
        selector = pafs.FileSelector(self._full(folder), allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            if info.base_name.startswith(TEMPORARY):
                self.filesystem.delete_file(info.path)

    def clear_rejected(self, step: str, parts: Collection[int]) -> None:
        """Delete rejected frames of `step` whose part was never committed, and half-written ones.

        Rejected frames are written before the part that commits them, so a killed call can leave some without it.
        """
        self.clear_temporary("rejected")
        for name in self.names("rejected"):
            match = re.fullmatch(rf"part-(\d+)-{step}\.parquet", name)
            if match and int(match[1]) not in parts:
                self.delete(f"rejected/{name}")

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        """A stream to `path`, which appears when the block ends well and not otherwise."""
        folder, _, name = path.rpartition("/")
        self.filesystem.create_dir(self._full(folder).rstrip("/"), recursive=True)
        rename = self.filesystem.type_name in RENAMES
        written = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}".lstrip("/") if rename else path
        try:
            with self.filesystem.open_output_stream(self._full(written)) as stream:
                yield stream
            if rename:
                self.filesystem.move(self._full(written), self._full(path))
        except BaseException:
            with contextlib.suppress(OSError):
                self.delete(written)
            raise

    def write_bytes(self, path: str, content: bytes | pa.Buffer) -> None:
        """Put `content` at `path`, whole or not at all."""
        with self.create(path) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """A file to read from, at any place of it."""
        with self.filesystem.open_input_file(self._full(path)) as file:
            yield file

    def read_bytes(self, path: str) -> bytes:
        """All of `path`."""
        with self.filesystem.open_input_stream(self._full(path)) as stream:
            content: bytes = stream.read()
            return content

    def write_json(self, path: str, value: Any) -> None:
        """Put a JSON value at `path`."""
        self.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(self, path: str) -> Any:
        """The JSON value at `path`."""
        return json.loads(self.read_bytes(path))

    def write_table(self, path: str, table: pa.Table) -> File:
        """Put `table` at `path` in row groups of at most about 64 MB. Equal tables give equal bytes."""
        sink = pa.BufferOutputStream()
        row_bytes = max(1, table.nbytes // max(1, table.num_rows))
        pq.write_table(table, sink, compression="zstd", row_group_size=max(1, ROW_GROUP_BYTES // row_bytes))
        buffer = sink.getvalue()
        self.write_bytes(path, buffer)
        return File(path, table.num_rows, buffer.size, hashlib.sha256(buffer).hexdigest())

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """The table at `path`, or some of its columns."""
        with self.filesystem.open_input_file(self._full(path)) as source:
            return pq.ParquetFile(source).read(columns)

    def read_schema(self, path: str) -> pa.Schema:
        """The schema of the table at `path`, with its metadata."""
        with self.filesystem.open_input_file(self._full(path)) as source:
            return pq.ParquetFile(source).schema_arrow

    def describe(self, path: str) -> File:
        """The File entry of a table that is already there. Reads all of it."""
        content = self.read_bytes(path)
        rows = pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows
        return File(path, rows, len(content), hashlib.sha256(content).hexdigest())
