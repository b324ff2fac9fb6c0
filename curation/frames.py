"""One frame: its bytes, its row in frames/, and its row in rejected/ when it cannot be used."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from curation import images, sources
from curation.filesystems import filesystem_of

FURTHER = "further_frames"  # in a row, no column of the table
NAMED = 3  # files that are named where something is counted


@dataclass(frozen=True)
class Further:
    """Pages and animation frames beyond the first, which are not read: how many, in how many files, the first names."""

    frames: int = 0
    files: int = 0
    names: tuple[str, ...] = ()

    def __add__(self, other: "Further") -> "Further":
        names = (*self.names, *other.names)[:NAMED]
        return Further(self.frames + other.frames, self.files + other.files, names)

    def describe(self) -> str:
        """Return it as a sentence without a full stop; empty where there are none."""
        if not self.frames:
            return ""
        more = ", ..." if self.files > len(self.names) else ""
        return (
            f"{self.frames} further pages or animation frames in {self.files} files were not read "
            f"({', '.join(self.names)}{more})"
        )

    def to_bytes(self) -> bytes:
        """Return it as JSON, for the metadata of a part."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Further":
        """Return what `to_bytes` wrote."""
        found = json.loads(content)
        return cls(found["frames"], found["files"], tuple(found["names"]))


def further_of(rows: list[dict[str, Any]]) -> Further:
    """What the rows of `frame_row` hold beside their frames, in their order."""
    found = [row for row in rows if row[FURTHER]]
    names = tuple(f"{row['source']}/{row['path']}" for row in found[:NAMED])
    return Further(sum(row[FURTHER] for row in found), len(found), names)


def read_bytes(uri: str) -> bytes:
    """All bytes of a file. FrameError `unreadable` where the file system refuses."""
    try:
        system, path = filesystem_of(uri)
        with system.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except OSError as error:
        raise images.FrameError("unreadable", str(error)) from error


def frame_row(entry: sources.Entry, lineage: sources.Lineage, max_pixels: int) -> dict[str, Any]:
    """The row of schema.frames for one file, and in FURTHER the frames it holds beside. FrameError where unusable."""
    images.check_bytes(entry.size)
    data = read_bytes(entry.uri)
    width, height, further = images.inspect(data, max_pixels)
    place = {"source": entry.source, "uri": entry.uri, "path": entry.path}
    content = {
        "content_hash": sources.content_hash(data),
        "byte_size": len(data),
        "width": width,
        "height": height,
    }
    identity = {"frame_id": sources.frame_id(entry.source, entry.path)}
    return identity | place | content | lineage.of(entry.path) | {FURTHER: further}


def rejected_row(source: str, uri: str, path: str, step: str, error: images.FrameError) -> dict[str, str]:
    """The row of schema.REJECTED for a frame that failed in `step`."""
    row = {"frame_id": sources.frame_id(source, path), "source": source, "uri": uri, "path": path}
    return row | {"step": step, "reason": error.reason, "message": error.message}
