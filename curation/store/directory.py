"""The run directory: files and tables that appear whole or not at all, on a local disk or in object storage.

It uses neither steps nor Ray. Paths are relative to the run directory, which is a local path or a URI.
"""

import contextlib
import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from curation.console import working_on
from curation.store import atomic, leases
from curation.store.filesystems import below, check_lasting, filesystem_of, without_credentials
from curation.store.parts import part_number

SUCCESS = "_SUCCESS.json"
TEMPORARY = atomic.TEMPORARY
ROW_GROUP_BYTES = 64 << 20
WHOLE_BYTES = 256 << 20  # of a file that is read into memory at once to be checked; more is read twice
SLICE_BYTES = 16 << 20
HeldConfig = TypeVar("HeldConfig")
Result = TypeVar("Result")


class IntegrityError(ValueError):
    """What is in a run directory is damaged, or was not made from what is there now."""


@dataclass(frozen=True)
class File:
    """One table of a run as its step's marker lists it."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Listed(str):
    """The path of a table of a finished step, with its entry in the marker: read_table compares the bytes."""

    def __new__(cls, file: File) -> "Listed":
        """The path of `file`, which is also a plain string."""
        return super().__new__(cls, file.path)

    def __init__(self, file: File) -> None:
        self.file = file

    def __reduce__(self) -> tuple[type["Listed"], tuple[File]]:
        return Listed, (self.file,)


class RunDirectory:
    """Reads and writes below one directory; cheap to make, and to send to another process.

    One that was `sent` makes no directory: where a local one is missing, that machine does not see the disk it is on.
    """

    def __init__(self, uri: str, sent: bool = False) -> None:
        self.uri = without_credentials(uri)
        self.filesystem, self.root = filesystem_of(self.uri)
        self.sent = sent
        if self.filesystem.type_name == "local":
            check_lasting(self.root)

    def __reduce__(self) -> tuple[type["RunDirectory"], tuple[str, bool]]:
        return RunDirectory, (self.address, True)

    @property
    def address(self) -> str:
        """Path or URI that names this directory in any process, whatever that one's working directory is."""
        return self.root if self.filesystem.type_name == "local" else self.uri

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def below(self, path: str) -> "RunDirectory":
        """The directory `path` in this one."""
        return RunDirectory(below(self.address, path))

    def names(self, folder: str) -> list[str]:
        """Names of the files in `folder`, sorted; none where the folder is missing."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.File)

    def written(self, folder: str) -> dict[str, float]:
        """When each file in `folder` was written, UTC seconds, by its name; without those of stores that do not say."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return {info.base_name: info.mtime_ns / 1e9 for info in infos if info.is_file and info.mtime_ns}

    def rows(self, path: str) -> int:
        """The number of rows of the table at `path`, from its footer."""
        with self.filesystem.open_input_file(self._full(path)) as source:
            return int(pq.ParquetFile(source).metadata.num_rows)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`, sorted; none where it is missing."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def parts(self, folder: str) -> dict[int, str]:
        """Paths of the parts in `folder` by their number, ascending; of a finished step those that its marker lists."""
        listed = {path: path for path in self.listing(folder) if path.rpartition("/")[0] == folder}
        paths: Collection[str] = listed or [f"{folder}/{name}" for name in self.names(folder)]
        numbered = ((part_number(path), path) for path in paths)
        return dict(sorted((number, path) for number, path in numbered if number is not None))

    def listing(self, folder: str) -> list[Listed]:
        """The tables that the marker in `folder`, or in the one above it, lists; none where the step is unfinished."""
        for place in (folder, folder.rpartition("/")[0]):
            if place and self.exists(f"{place}/{SUCCESS}"):
                return [Listed(File(**entry)) for entry in self.read_json(f"{place}/{SUCCESS}")["files"]]
        return []

    def listed(self, path: str) -> str:
        """The path as the marker next to the file lists it, or unchanged where none does."""
        return next((found for found in self.listing(path.rpartition("/")[0]) if found == path), path)

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

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory, made where it is missing, until a block ends (leases.hold). ValueError where in use."""
        return leases.hold(self)

    def clear_temporary(self, folder: str) -> None:
        """Delete what killed writers left behind in `folder` and below it."""
        atomic.clear(self.filesystem, self._full(folder))

    def clear_rejected(self, step: str, parts: Collection[int]) -> None:
        """Delete rejected frames of `step` whose part was never committed, and half-written ones.

        Rejected frames are written before the part that commits them, so a killed call can leave some without it.
        """
        self.clear_temporary("rejected")
        for name in self.names("rejected"):
            number = part_number(name, step)
            if number is not None and number not in parts:
                self.delete(f"rejected/{name}")

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        """A stream to `path`: when the block ends well all of it is there; else what was there before still is."""
        self._check_seen()
        with atomic.create(self.filesystem, self._full(path)) as stream:
            yield stream

    def write_bytes(self, path: str, content: bytes | pa.Buffer) -> None:
        """Put `content` at `path`, whole or not at all."""
        self._check_seen()
        atomic.write(self.filesystem, self._full(path), content)

    def _check_seen(self) -> None:
        if self.sent and self.filesystem.type_name == "local" and not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"{self.root} is not there on {socket.gethostname()}; all nodes must see it at the same path: put it "
                "on a disk that all of them mount, or into object storage"
            )

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
        """The table at `path`, or some of its columns.

        All bytes of a Listed one are compared with the marker's size and checksum: one of at most WHOLE_BYTES is read
        once, a larger one twice, in slices. IntegrityError where they differ.
        """
        if isinstance(path, Listed):
            return self._compared(path.file, columns)
        with self.filesystem.open_input_file(self._full(path)) as source:
            return pq.ParquetFile(source).read(columns)

    def _compared(self, file: File, columns: list[str] | None) -> pa.Table:
        try:
            if file.bytes > WHOLE_BYTES:
                self._compare(file, *self.checksum(file.path))
                return self.read_table(file.path, columns)
            content = self.read_bytes(file.path)
        except FileNotFoundError:
            raise IntegrityError(self._damage(file, "is missing")) from None
        self._compare(file, len(content), hashlib.sha256(content).hexdigest())
        return pq.ParquetFile(pa.BufferReader(content)).read(columns)

    def _compare(self, file: File, size: int, sha256: str) -> None:
        if (size, sha256) != (file.bytes, file.sha256):
            found = f"has {size} bytes with SHA-256 {sha256}, expected {file.bytes} bytes with {file.sha256}"
            raise IntegrityError(self._damage(file, f"is damaged or was changed: it {found}"))

    def _damage(self, file: File, what: str) -> str:
        its_part = ", the part of its number" if file.path.startswith("rejected/") else ""
        return (
            f"{self.uri}/{file.path} {what}. Put it back as it was; or delete it{its_part} and the _SUCCESS.json that "
            "lists it, and run that step again, which makes only what is missing"
        )

    def read_schema(self, path: str) -> pa.Schema:
        """The schema of the table at `path`, with its metadata."""
        with self.filesystem.open_input_file(self._full(path)) as source:
            return pq.ParquetFile(source).schema_arrow

    def checksum(self, path: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 (hex) of a file, read in slices."""
        size, found = 0, hashlib.sha256()
        with self.filesystem.open_input_stream(self._full(path)) as stream:
            while content := stream.read(SLICE_BYTES):
                size += len(content)
                found.update(content)
        return size, found.hexdigest()

    def describe(self, path: str) -> File:
        """The File entry of a table that is already there. Reads all of it, in slices."""
        size, sha256 = self.checksum(path)
        with self.filesystem.open_input_file(self._full(path)) as source:
            return File(path, pq.ParquetFile(source).metadata.num_rows, size, sha256)


def holding(work: Callable[[HeldConfig], Result]) -> Callable[[HeldConfig], Result]:
    """A step that holds its config's run_dir while it works."""

    @functools.wraps(work)
    def held(config: HeldConfig) -> Result:
        run = RunDirectory(config.run_dir)  # type: ignore[attr-defined]
        with run.lock(), working_on(run.uri):
            return work(config)

    return held
