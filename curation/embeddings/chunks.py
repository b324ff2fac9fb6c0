"""Rows of frames to decoded chunks. It imports neither Ray nor PyTorch.

PyTorch stays out so that a decoding process starts in a fraction of a second and in a tenth of the memory.
"""

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.embeddings.config import EmbedConfig
from curation.embeddings.units import Unit
from curation.frames import copies, decoding
from curation.frames.frame import read_unchanged, rejected_row
from curation.store import schema
from curation.store.directory import RunDirectory

COLUMNS = [*copies.ROW, "content_hash", "width", "height", "copy_of", "near_copy_of"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Frames that are encoded together, N of them, and rows of schema.REJECTED for those that cannot be."""

    ids: list[str]
    pixels: npt.NDArray[np.uint8]  # [N, S, S, 3]
    measures: npt.NDArray[np.float32]  # schema.MEASURES of each, [N, 6]
    rejected: list[Row]
    read_s: float  # seconds that its files took to be read
    decode_s: float


@functools.lru_cache(maxsize=1)
def frame_parts(address: str, made: str) -> dict[int, str]:
    """The paths of the parts of frames by number, read once in a process. `made`: that step's output hash."""
    del made  # it tells the parts from those of another time
    return RunDirectory(address, sent=True).parts("frames")


def chunks_of(run: RunDirectory, unit: Unit, chunk_rows: int) -> list[list[Row]]:
    """The originals of a unit, with COLUMNS, by chunk. Where it is of a marker, the part's bytes are compared."""
    rows = run.read_table(unit.path, COLUMNS).to_pylist()
    originals = [row for row in rows if row["copy_of"] is None and row.get("near_copy_of") is None]
    starts = range(unit.first * chunk_rows, min(unit.end * chunk_rows, len(originals)), chunk_rows)
    return [originals[start : start + chunk_rows] for start in starts]


class Decoder:
    """Rows of originals, with COLUMNS, to a chunk; frames that cannot be decoded become rejected rows.

    A copy takes the place of an original that cannot be read or that changed (see `copies`), whatever part it is in.
    ReadError where a file cannot be read for a reason that may be temporary. `made`: as of `frame_parts`.
    """

    def __init__(self, run: RunDirectory, config: EmbedConfig, made: str) -> None:
        self.run = run
        self.config = config
        self.made = made
        self.read_s = 0.0  # of the chunk at hand

    def __call__(self, rows: list[Row]) -> Chunk:
        """Pixels, ids and measures of the rows that can be decoded, and the rejected rows."""
        pixels: list[decoding.Pixels] = []
        ids: list[str] = []
        measures: list[list[float]] = []
        rejected: list[Row] = []
        self.read_s, begun = 0.0, time.perf_counter()
        for row in rows:
            frame, image, unusable = self.first_usable(row)
            rejected += unusable
            if frame is None or image is None:
                continue
            pixels.append(image)
            ids.append(frame)
            measures.append(list(decoding.measure(image)))
        size = self.config.image_size
        images = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        table = np.array(measures, np.float32).reshape(-1, len(schema.MEASURES))
        return Chunk(ids, images, table, rejected, self.read_s, time.perf_counter() - begun - self.read_s)

    def first_usable(self, original: Row) -> tuple[str | None, decoding.Pixels | None, list[Row]]:
        """Id and pixels of the first of an original and its copies that can be used, and rejected rows of those before.

        Without one, the rejected rows are those of all.
        """
        content, failed = original["content_hash"], list[tuple[Row, decoding.FrameError]]()
        candidates = chain([original], self.others(original))
        limit = original["width"] * original["height"]  # what ingest let through
        for row in candidates:
            begun = time.perf_counter()
            try:
                data = read_unchanged(row["uri"], content)
            except decoding.FrameError as error:
                failed.append((row, error))
                continue
            finally:
                self.read_s += time.perf_counter() - begun
            try:
                image = decoding.decode(data, self.config.image_size, limit)
                return row["frame_id"], image, refused(failed, row["frame_id"])
            except decoding.FrameError as error:  # and so with all that have the same bytes
                failed += [(one, error) for one in chain([row], candidates)]
        return None, None, refused(failed, None)

    def others(self, original: Row) -> Iterator[Row]:
        """The copies of an original; nothing is read until the first is drawn."""
        equal = copies.members(self.run, original["content_hash"], frame_parts(self.run.address, self.made))
        yield from (row for row in equal if row["frame_id"] != original["frame_id"])


def refused(failed: list[tuple[Row, decoding.FrameError]], by: str | None) -> list[Row]:
    """The rejected rows of frames that could not be used, and which frame was used in their place."""
    return [
        rejected_row(row["source"], row["uri"], row["path"], "embed", error)
        | {"frame_id": row["frame_id"], "replaced_by": by}
        for row, error in failed
    ]
