"""A part of frames to decoded chunks, as a Ray Data worker runs it. It knows neither Ray nor PyTorch.

PyTorch stays out so that a decoding process starts in a fraction of a second and in a tenth of the memory.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from curation import images, schema
from curation.config import EmbedConfig
from curation.frames import read_bytes, rejected_row
from curation.store import RunDirectory

CHUNK = [
    pa.field("part", pa.int32()),
    pa.field("chunk", pa.int32()),
    pa.field("chunks", pa.int32()),  # in this part
    pa.field("frame_ids", pa.list_(pa.string())),
    pa.field("measures", pa.list_(pa.float32())),  # schema.MEASURES of each frame, one frame after the other
    pa.field("rejected", pa.list_(pa.struct(list(schema.REJECTED)))),
]
DECODED = pa.schema([*CHUNK, pa.field("pixels", pa.large_binary())])  # uint8 [N, S, S, 3]


class DecodePart:
    """A row {part} to its chunks (rows of DECODED); frames that cannot be decoded become rejected rows."""

    def __init__(self, run: RunDirectory, config: EmbedConfig) -> None:
        self.run = run
        self.config = config

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield a table of one row for each chunk; at least one, so that an empty part is finished too."""
        [part] = batch["part"].to_pylist()
        columns = ["frame_id", "source", "uri", "path", "width", "height", "copy_of"]
        rows = self.run.read_table(self.run.parts("frames")[part], columns).to_pylist()
        originals = [row for row in rows if row["copy_of"] is None]
        step = self.config.chunk_rows
        starts = range(0, max(1, len(originals)), step)
        for chunk, start in enumerate(starts):
            content = self.decode(originals[start : start + step])
            row = {"part": part, "chunk": chunk, "chunks": len(starts), **content}
            yield pa.Table.from_pylist([row], DECODED)

    def decode(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pixels, ids and measures of the rows that can be decoded, and the rejected rows."""
        pixels: list[images.Pixels] = []
        ids: list[str] = []
        measures: list[float] = []
        rejected: list[dict[str, str]] = []
        for row in rows:
            try:
                image = images.decode(read_bytes(row["uri"]), self.config.image_size, row["width"] * row["height"])
            except images.FrameError as error:
                rejected.append(rejected_row(row["source"], row["uri"], row["path"], "embed", error))
                continue
            pixels.append(image)
            ids.append(row["frame_id"])
            measures.extend(images.measure(image))
        content = np.stack(pixels).tobytes() if pixels else b""
        return {"frame_ids": ids, "measures": measures, "rejected": rejected, "pixels": content}
