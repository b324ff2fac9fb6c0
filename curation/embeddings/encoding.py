"""The actor that turns units of frames into parts of embeddings: decoded, encoded and written, with a small record.

It takes two units at a time: one is encoded, while the other is decoded ahead or written. Its memory: the pixels of one
chunk, or on GPUs those of AHEAD_BYTES in Ray's object store, and the vectors of two parts.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation.embeddings.chunks import Chunk, Decoder, Row, chunks_of, frame_parts
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import Encoder
from curation.embeddings.tables import Tables, embeddings_table, write_part, write_slice
from curation.embeddings.units import Unit
from curation.embeddings.vectors import faults, limit_threads
from curation.engine import resources
from curation.engine.errors import cause_of
from curation.engine.metrics import Occupation
from curation.engine.stream import stream
from curation.frames import copies
from curation.frames.decoding import FrameError
from curation.frames.frame import rejected_row
from curation.store import schema
from curation.store.directory import File, RunDirectory

AT_ONCE = 2  # units in an actor
AHEAD_BYTES = 1 << 30  # of pixels decoded ahead for one encoder
SECONDS = ("read_s", "decode_s", "encode_s", "wait_s", "write_s")
FILE = pa.struct([("path", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())])
RECORD = pa.schema(
    [
        pa.field("part", pa.int32()),
        pa.field("slices", pa.int32()),  # of the part; 0: of a unit that is still under way
        pa.field("first", pa.int32()),  # chunk of the unit
        pa.field("end", pa.int32()),
        pa.field("frames", pa.int64()),  # embedded or rejected since the unit's last record
        pa.field("files", pa.list_(FILE)),  # of a whole part
        *(pa.field(name, pa.float64()) for name in SECONDS),  # spent since the unit's last record
    ]
)


@dataclass(frozen=True)
class Work:
    """What all encoders of a step are told. `made`: the output hash of frames/."""

    run: RunDirectory
    config: EmbedConfig
    precision: str
    made: str
    ahead: int = 2  # chunks decoded ahead by tasks
    decoder_cpus: float = 1.0  # of such a task
    report_s: float = 5.0  # between records of a unit


@dataclass
class Progress:
    """What a unit took since its last record."""

    unit: Unit
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    since: float = field(default_factory=time.perf_counter)

    def add(self, chunk: Chunk, encode_s: float, wait_s: float) -> None:
        """Count a chunk."""
        self.frames += len(chunk.ids) + len(chunk.rejected)
        for name, value in zip(SECONDS, (chunk.read_s, chunk.decode_s, encode_s, wait_s), strict=False):
            self.seconds[name] += value

    def record(self, files: list[File] | None) -> pa.Table:
        """A row of RECORD, of a unit that is done where it has `files`; counts from zero again."""
        place = {"part": self.unit.part, "first": self.unit.first, "end": self.unit.end, "frames": self.frames}
        done = {"slices": 0, "files": []}
        if files is not None:
            done = {"slices": self.unit.slices, "files": [vars(file) for file in files]}
        row = place | done | self.seconds
        self.frames, self.seconds, self.since = 0, dict.fromkeys(SECONDS, 0.0), time.perf_counter()
        return pa.Table.from_pylist([row], RECORD)


def decode(work: Work, rows: list[Row]) -> Chunk:
    """Decode a chunk, as a task."""
    return Decoder(work.run, work.config, work.made)(rows)


class EncodeUnit:
    """An actor with an encoder: units to parts in the run's directory, and records of them."""

    def __init__(self, work: Work) -> None:
        self.work = work
        limit_threads(resources.granted_cpus())
        self.encoder = self.make_encoder()
        self.dimensions = self.encoder.dimensions
        self.encoding = threading.Lock()  # one unit after the other, so that a killed actor loses one that is encoded
        self.occupation = Occupation(work.run.uri, "embed", resources.device())
        self.on_gpu = bool(ray.get_gpu_ids())
        task: Any = ray.remote(decode)
        options = {"num_cpus": work.decoder_cpus, "max_retries": resources.RETRIES, "scheduling_strategy": "DEFAULT"}
        self.decoding = task.options(**options)

    def make_encoder(self) -> Any:
        """What turns the images of a chunk into vectors."""
        return Encoder(self.work.config, self.work.precision, resources.device())

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Encode and write a unit; yield a record now and then, and the last one when all of it is written."""
        [row] = batch.to_pylist()
        unit = Unit.from_row(row)
        progress, encoded = Progress(unit), list[Tables]()
        chunks = self.decoded(chunks_of(self.work.run, unit, self.work.config.chunk_rows))
        ahead = next(chunks, None)
        with self.encoding:
            for chunk in chain([] if ahead is None else [ahead], chunks):
                with self.occupation:
                    encoded.append(self.encode(chunk, unit))
                progress.add(chunk, self.occupation.busy_s, self.occupation.waited_s)
                if time.perf_counter() - progress.since > self.work.report_s:
                    yield progress.record(None)
        begun = time.perf_counter()
        files = self.write(unit, encoded)
        progress.seconds["write_s"] = time.perf_counter() - begun
        yield progress.record(files)

    def decoded(self, chunks: list[list[Row]]) -> Iterator[Chunk]:
        """Chunks in order: decoded here, or ahead by tasks where a GPU computes meanwhile, or files come from afar."""
        work = self.work
        if not self.on_gpu and not any("://" in row["uri"] for rows in chunks for row in rows):
            yield from map(Decoder(work.run, work.config, work.made), chunks)
            return
        try:
            yield from stream(self.decoding, ((work, rows) for rows in chunks), in_order=True, limit=work.ahead)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from error

    def encode(self, chunk: Chunk, unit: Unit) -> Tables:
        """Embeddings and rejected frames of a chunk; frames without a usable vector become rejected ones."""
        ids, measures, rejected = chunk.ids, chunk.measures, chunk.rejected
        vectors = self.encoder(chunk.pixels) if ids else np.empty((0, self.dimensions), np.float32)
        bad: npt.NDArray[np.intp] = faults(vectors)
        if len(bad):
            rejected = rejected + [self.rejected(unit, chunk, ids[place]) for place in bad]
            ids = [frame for place, frame in enumerate(ids) if place not in set(bad.tolist())]
            vectors, measures = (np.delete(array, bad, axis=0) for array in (vectors, measures))
        table = embeddings_table(ids, vectors.astype(self.work.config.storage), measures)
        return table, pa.Table.from_pylist(rejected, schema.REJECTED)

    def write(self, unit: Unit, encoded: list[Tables]) -> list[File]:
        """Write a unit, and return its files where it is a whole part."""
        nothing = np.empty((0, self.dimensions), self.work.config.storage)
        empty = embeddings_table([], nothing, np.empty((0, len(schema.MEASURES)), np.float32))
        embeddings, rejected = zip((empty, schema.REJECTED.empty_table()), *encoded, strict=True)
        tables = pa.concat_tables(embeddings).combine_chunks(), pa.concat_tables(rejected).combine_chunks()
        if unit.slices > 1:
            write_slice(self.work.run, unit, tables)
            return []
        return write_part(self.work.run, unit.part, tables, self.frame_parts)

    @property
    def frame_parts(self) -> dict[int, str]:
        """The paths of the parts of frames, by number."""
        return frame_parts(self.work.run.address, self.work.made)

    def rejected(self, unit: Unit, chunk: Chunk, frame: str) -> Row:
        """The rejected row of a frame of a chunk that has no usable vector."""
        error = FrameError(
            "no finite vector",
            f"{self.work.config.encoder} in {self.work.precision} gives no finite vector with a length; where many "
            "frames have none, use --precision float32 or other weights",
        )
        place = self.place_of(unit, chunk, frame)
        return rejected_row(place["source"], place["uri"], place["path"], "embed", error)

    def place_of(self, unit: Unit, chunk: Chunk, frame: str) -> Row:
        """Source, uri and path of a frame of a chunk; one that took the place of another may be of another part."""
        rows = self.work.run.read_table(unit.path, [*copies.ROW, "content_hash"]).to_pylist()
        of_part: dict[str, Row] = {one["frame_id"]: one for one in rows}
        if frame in of_part:
            return of_part[frame]
        replaced = next(one["frame_id"] for one in chunk.rejected if one["replaced_by"] == frame)
        equal = copies.members(self.work.run, of_part[replaced]["content_hash"], self.frame_parts)
        return next(one for one in equal if one["frame_id"] == frame)
