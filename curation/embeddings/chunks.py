"""A part of frames to decoded chunks, as a Ray Data worker runs it. It imports neither Ray nor PyTorch.

PyTorch stays out so that a decoding process starts in a fraction of a second and in a tenth of the memory.
"""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from curation.embeddings.config import EmbedConfig
from curation.frames import copies, decoding
from curation.frames.frame import read_unchanged, rejected_row
from curation.store import schema
from curation.store.directory import RunDirectory

CHUNK = [
    pa.field("part", pa.int32()),
    pa.field("chunk", pa.int32()),
    pa.field("chunks", pa.int32()),  # in this part
    pa.field("frame_ids", pa.list_(pa.string())),
    pa.field("measures", pa.list_(pa.float32())),  # schema.MEASURES of each frame, one frame after the other
    pa.field("rejected", pa.list_(pa.struct(list(schema.REJECTED)))),
    pa.field("read_s", pa.float64()),  # seconds that its files took to be read
    pa.field("decode_s", pa.float64()),
]
DECODED = pa.schema([*CHUNK, pa.field("pixels", pa.large_binary())])  # uint8 [N, S, S, 3]


class DecodePart:
    """A row {part} to its chunks (rows of DECODED); frames that cannot be decoded become rejected rows.

    A copy takes the place of an original that cannot be read or that changed (see `copies`), whatever part it is in.
    ReadError where a file cannot be read for a reason that may be temporary.
    """

    def __init__(self, run: RunDirectory, config: EmbedConfig) -> None:
        self.run = run
        self.config = config
        self.read_s = 0.0  # of the chunk at hand

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield a table of one row for each chunk; at least one, so that an empty part is finished too."""
        [part] = batch["part"].to_pylist()
        columns = [*copies.ROW, "content_hash", "width", "height", "copy_of", "near_copy_of"]
        rows = self.run.read_table(self.run.parts("frames")[part], columns).to_pylist()
        originals = [row for row in rows if row["copy_of"] is None and row.get("near_copy_of") is None]
        step = self.config.chunk_rows
        starts = range(0, max(1, len(originals)), step)
        for chunk, start in enumerate(starts):
            content = self.decode(originals[start : start + step])
            row = {"part": part, "chunk": chunk, "chunks": len(starts), **content}
            yield pa.Table.from_pylist([row], DECODED)

    def decode(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pixels, ids and measures of the rows that can be decoded, and the rejected rows."""
        pixels: list[decoding.Pixels] = []
        ids: list[str] = []
        measures: list[float] = []
        rejected: list[dict[str, Any]] = []
        self.read_s, begun = 0.0, time.perf_counter()
        for row in rows:
            frame, image, unusable = self.first_usable(row)
            rejected += unusable
            if frame is None or image is None:
                continue
            pixels.append(image)
            ids.append(frame)
            measures.extend(decoding.measure(image))
        content = np.stack(pixels).tobytes() if pixels else b""
        spent = {"read_s": self.read_s, "decode_s": time.perf_counter() - begun - self.read_s}
        return {"frame_ids": ids, "measures": measures, "rejected": rejected, "pixels": content} | spent

    def first_usable(self, original: dict[str, Any]) -> tuple[str | None, decoding.Pixels | None, list[dict[str, Any]]]:
        """Id and pixels of the first of an original and its copies that can be used, and rejected rows of those before.

        Without one, the rejected rows are those of all.
        """
        content, failed = original["content_hash"], list[tuple[dict[str, Any], decoding.FrameError]]()
        others = (row for row in copies.members(self.run, content) if row["frame_id"] != original["frame_id"])
        candidates = chain([original], others)
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


def refused(failed: list[tuple[dict[str, Any], decoding.FrameError]], by: str | None) -> list[dict[str, Any]]:
    """The rejected rows of frames that could not be used, and which frame was used in their place."""
    return [
        rejected_row(row["source"], row["uri"], row["path"], "embed", error)
        | {"frame_id": row["frame_id"], "replaced_by": by}
        for row, error in failed
    ]
