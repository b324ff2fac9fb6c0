"""One frame: its bytes, its row in frames/, and its row in rejected/ when it cannot be used."""

from typing import Any

from curation import images, sources
from curation.filesystems import filesystem_of
from curation.lineage import Lineage

POINTER = "pointer to a file elsewhere"  # the reason
POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS: run `git lfs pull` in its repository",
    b"/annex/objects/": "git-annex: run `git annex get` or `datalad get` on it",
}


def check_pointer(data: bytes) -> None:
    """Raise FrameError where a file only names what Git LFS or git-annex has for it elsewhere."""
    for start, todo in POINTERS.items():
        if data.startswith(start):
            raise images.FrameError(POINTER, f"the file is not the image but a pointer to it of {todo}")


def read_bytes(uri: str) -> bytes:
    """All bytes of a file. FrameError `unreadable` where the file system refuses."""
    try:
        system, path = filesystem_of(uri)
        with system.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except OSError as error:
        raise images.FrameError("unreadable", str(error)) from error


def frame_row(entry: sources.Entry, lineage: Lineage, max_pixels: int) -> dict[str, Any]:
    """The row of schema.frames for one file. FrameError where it cannot be used."""
    if entry.problem is not None:
        raise images.FrameError(*entry.problem)
    data = read_bytes(entry.uri)
    check_pointer(data)
    width, height = images.inspect(data, max_pixels)
    place = {"source": entry.source, "uri": entry.uri, "path": entry.path}
    content = {
        "content_hash": sources.content_hash(data),
        "byte_size": len(data),
        "width": width,
        "height": height,
    }
    identity = {"frame_id": sources.frame_id(entry.source, entry.path)}
    return identity | place | content | lineage.of(entry.path)


def rejected_row(source: str, uri: str, path: str, step: str, error: images.FrameError) -> dict[str, str]:
    """The row of schema.REJECTED for a frame that failed in `step`."""
    row = {"frame_id": sources.frame_id(source, path), "source": source, "uri": uri, "path": path}
    return row | {"step": step, "reason": error.reason, "message": error.message}
