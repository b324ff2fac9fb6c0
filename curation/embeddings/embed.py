"""Frames to embeddings: Ray Data streams parts through decoding tasks into a pool of encoder actors.

A part is decoded in chunks, and a chunk travels as one row of one block: its rows are always encoded together,
whatever the number of workers, and no block grows with the input. The driver writes a part when its chunks are in.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from curation.console import StepSummary, Stopwatch, progress
from curation.embeddings.checkpoints import statistics_beside
from curation.embeddings.chunks import CHUNK, DecodePart
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import UNTRAINED, Encoder, about, configured, resolved
from curation.embeddings.vectors import faults, limit_threads
from curation.engine import resources
from curation.engine.accelerators import elastic, gpus
from curation.engine.chips import resolve_precision
from curation.engine.connect import connect
from curation.engine.metrics import Occupation, count_part
from curation.engine.stream import stream
from curation.engine.verdict import Spent
from curation.frames import copies
from curation.frames.decoding import FrameError
from curation.frames.frame import forget_unread, rejected_row
from curation.options import digest, require
from curation.store import schema
from curation.store.directory import File, RunDirectory, holding
from curation.store.filesystems import filesystem_of
from curation.store.markers import Step, check_rejected, marker_of, read_record
from curation.store.parts import part_path, rejected_path

PATIENCE_S = 24 * 3600.0  # without progress; Ray Data's own half hour is short for a queue for GPUs
FROM_ENCODER = (("vectors", pa.large_binary()), ("encode_s", pa.float64()), ("wait_s", pa.float64()))  # float32 [N, D]
ENCODED = pa.schema([*CHUNK, *(pa.field(name, kind) for name, kind in FROM_ENCODER)])


@holding
def embed(config: EmbedConfig) -> dict[str, Any]:
    """Embed every frame but exact copies into embeddings/ and return the step's marker; do only what is missing.

    What is missing includes, until the step is finished, the parts with frames that could not be read. ValueError:
    frames/ unfinished, an encoder or weights that do not fit, more than max_rejected rejected. ReadError: a file could
    not be read for a reason that may be temporary.
    """
    run = RunDirectory(config.run_dir)
    before = marker_of(run, "frames", "ingest")
    config = resolved(config)
    connect()
    precision = precision_of(run, config.precision)
    step = Step(run, "embed", "embeddings", config, embed_inputs(config, before, precision))
    if marker := step.find():
        return marker | {"reused": True}
    model = configured(config)
    dimensions = model.num_features
    devices = gpus()
    require(
        not devices or config.workers <= devices or elastic(),
        f"workers is {config.workers}, but there are {devices} GPUs, one for each",
    )
    step.begin()
    watch, spent = Stopwatch(), Spent()
    forget_unread(run, "embed", "embeddings")
    run.clear_rejected("embed", run.parts("embeddings"))
    missing, written = missing_parts(run)
    originals = before["rows_out"] - before["copies"]
    rejections = rejected_in(written)
    embedded = sum(file.rows for file in written) - rejections
    with progress("embed", originals, done=embedded + rejections) as bar:
        arriving = count_frames(encoded_chunks(run, config, missing, precision), bar, spent)
        for part, embeddings, rejected in assemble(arriving, dimensions, config.storage):
            begun = watch.seconds
            files = write_part(run, part, embeddings, rejected)
            spent.write_s += watch.seconds - begun
            written += files
            rejections += rejected_in(files)
            count_part(run.uri, "embed", len(embeddings), rejected_in(files))
            embedded += len(embeddings)
            early = embedded + rejections < originals
            check_rejected("embed", rejections, before["rows_out"], config.max_rejected, early=early)
    left = before["rows_out"] - embedded - rejections  # copies of what was embedded
    found = f"{before['rows_out']} frames in, {embedded} out, {rejections} rejected, {left} copies"
    assert embedded <= originals <= embedded + rejections, found
    assert 0 <= left <= before["copies"], found
    check_rejected("embed", rejections, before["rows_out"], config.max_rejected)
    note = f"{config.encoder}, {dimensions} dimensions, {precision}, {about(model)}"
    note += ", UNTRAINED (weights drawn from the seed)" if config.weights == UNTRAINED else ""
    note += f"; {spent.verdict(watch.seconds, resources.device_names())}" if missing else ""
    summary = StepSummary(
        rows_in=before["rows_out"],
        rows_out=embedded,
        rejected=rejections,
        copies=left,
        seconds=watch.seconds,
        device=resources.device_names(),
        note=note,
    )
    return step.finish(summary, written)


def precision_of(run: RunDirectory, requested: str) -> str:
    """The arithmetic of the step: for `auto` that of its start, on whatever chips, else what these chips have."""
    begun = read_record(run)["steps"].get("embeddings")
    if requested == "auto" and begun is not None and run.holds_files("embeddings"):
        return str(begun["inputs"]["precision"])
    return resolve_precision(requested, *resources.chips())


def rejected_in(files: list[File]) -> int:
    """How many rejected frames some of the step's files hold."""
    return sum(file.rows for file in files if file.path.startswith("rejected/"))


def missing_parts(run: RunDirectory) -> tuple[list[int], list[File]]:
    """Return the numbers of the parts of frames without embeddings, and the files of those that have them."""
    existing = run.parts("embeddings")
    described = stream(ray.remote(describe_part), ((run, number) for number in existing))
    return [number for number in run.parts("frames") if number not in existing], [file for f in described for file in f]


def count_frames(rows: Iterator[dict[str, Any]], bar: Any, spent: Spent) -> Iterator[dict[str, Any]]:
    """Pass chunks on, and count their frames on the progress bar and what they took in `spent`."""
    for row in rows:
        yield row
        spent.add(row)
        bar.update(len(row["frame_ids"]) + len(row["rejected"]))


def embed_inputs(config: EmbedConfig, before: dict[str, Any], precision: str) -> dict[str, str]:
    """What the embeddings depend on besides the config: the frames, the arithmetic and the weights' bytes."""
    inputs = {"frames": before["output_hash"], "precision": precision}
    if config.weights in (None, UNTRAINED):
        return inputs | {"weights": config.weights or "timm"}
    try:
        system, path = filesystem_of(str(config.weights))
        with system.open_input_stream(path) as file:
            inputs["weights"] = hashlib.sha256(file.read()).hexdigest()
        if recorded := statistics_beside(str(config.weights)):
            inputs["statistics"] = digest(recorded)
    except OSError as error:
        raise ValueError(f"weights file {config.weights} cannot be read: {error}") from error
    return inputs


def encoded_chunks(
    run: RunDirectory, config: EmbedConfig, parts: list[int], precision: str
) -> Iterator[dict[str, Any]]:
    """Encoded chunks (rows of ENCODED) of the parts numbered `parts`, in the order in which they are done."""
    if not parts:
        return
    devices, cpus = gpus(), max(1, resources.count("CPU"))
    workers = config.workers or devices or cpus
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = PATIENCE_S
    context.target_max_block_size = config.chunk_rows * config.image_size**2 * 3  # so that a chunk is a block
    # Without GPUs a core decodes for its own encoder: a quarter of it is held back, so that neither waits.
    decoder: dict[str, Any] = {"num_cpus": 1.0} if devices else {"num_cpus": 0.25 * cpus / max(workers, cpus)}
    encoder: dict[str, Any] = {"num_gpus": 1.0} if devices else {"num_cpus": 0.75 * cpus / max(workers, cpus)}
    dataset = (
        ray.data.from_items([{"part": number} for number in parts], override_num_blocks=len(parts))
        .map_batches(DecodePart(run, config), batch_size=1, batch_format="pyarrow", **decoder)
        .map_batches(
            EncodeChunk,
            fn_constructor_args=(config, precision),
            batch_size=1,  # a chunk
            batch_format="pyarrow",
            compute=encoder_pool(config.workers, workers, len(parts)),
            **encoder,
        )
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch).to_pylist()


def encoder_pool(asked: int, there: int, parts: int) -> ActorPoolStrategy:
    """The pool of encoders: of a fixed size, but on an autoscaling cluster as many as it gives, at most one a part."""
    if asked or not elastic():
        return ActorPoolStrategy(size=there)
    return ActorPoolStrategy(min_size=1, max_size=max(1, parts))


class EncodeChunk:
    """An actor with an encoder: rows of DECODED to rows of ENCODED. Frames without a usable vector become rejected."""

    def __init__(self, config: EmbedConfig, precision: str) -> None:
        self.config, self.precision = config, precision
        limit_threads(resources.granted_cpus())
        self.shape = (-1, config.image_size, config.image_size, 3)
        self.encoder = Encoder(config, precision, resources.device())
        self.occupation = Occupation(RunDirectory(config.run_dir).uri, "embed", resources.device())

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode each row by itself, so that what is computed together never depends on the schedule."""
        with self.occupation:
            rows = self.encode(batch)
        spent = {"encode_s": self.occupation.busy_s, "wait_s": self.occupation.waited_s}
        idle = dict.fromkeys(spent, 0.0)
        return pa.Table.from_pylist([row | (idle if number else spent) for number, row in enumerate(rows)], ENCODED)

    def encode(self, batch: pa.Table) -> list[dict[str, Any]]:
        """Encode rows of DECODED; rows of ENCODED but for the times."""
        rows = batch.select([field.name for field in CHUNK]).to_pylist()
        for row, pixels in zip(rows, batch["pixels"], strict=True):
            images_NSS3 = np.frombuffer(pixels.as_buffer(), dtype=np.uint8).reshape(self.shape)
            vectors = self.encoder(images_NSS3) if len(images_NSS3) else np.empty((0, 1), np.float32)
            row.update(self.usable(row, vectors))
        return cast(list[dict[str, Any]], rows)

    def usable(self, row: dict[str, Any], vectors_ND: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The vectors of a chunk, and what else changes in its row where some are not finite or have no length."""
        bad = faults(vectors_ND)
        if not len(bad):
            return {"vectors": vectors_ND.tobytes()}
        ids = [row["frame_ids"][place] for place in bad]
        measures = np.delete(np.reshape(row["measures"], (-1, len(schema.MEASURES))), bad, axis=0)
        return {
            "vectors": np.delete(vectors_ND, bad, axis=0).tobytes(),
            "frame_ids": [frame for frame in row["frame_ids"] if frame not in ids],
            "measures": measures.ravel().tolist(),
            "rejected": row["rejected"] + [self.rejected(row, frame) for frame in ids],
        }

    def rejected(self, row: dict[str, Any], frame: str) -> dict[str, Any]:
        """The rejected row of a frame of a chunk that has no usable vector."""
        error = FrameError(
            "no finite vector",
            f"{self.config.encoder} in {self.precision} gives no finite vector with a length; where many frames have "
            "none, use --precision float32 or other weights",
        )
        place = self.place_of(row, frame)
        return rejected_row(place["source"], place["uri"], place["path"], "embed", error)

    def place_of(self, row: dict[str, Any], frame: str) -> dict[str, Any]:
        """Source, uri and path of a frame of a chunk; one that took the place of another may be of another part."""
        run = RunDirectory(self.config.run_dir)
        rows = run.read_table(run.parts("frames")[row["part"]], [*copies.ROW, "content_hash"]).to_pylist()
        of_part: dict[str, dict[str, Any]] = {one["frame_id"]: one for one in rows}
        if frame in of_part:
            return of_part[frame]
        replaced = next(one["frame_id"] for one in row["rejected"] if one["replaced_by"] == frame)
        equal = copies.members(run, of_part[replaced]["content_hash"])
        return next(one for one in equal if one["frame_id"] == frame)


def assemble(
    arriving: Iterator[dict[str, Any]], dimensions: int, storage: str
) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Collect chunks into parts; yields (part, embeddings, rejected) when the last chunk of a part is in.

    A chunk that arrives twice, as after a lost worker, counts once.
    """
    waiting: dict[int, dict[int, dict[str, Any]]] = {}
    for row in arriving:
        collected = waiting.setdefault(row["part"], {})
        collected[row["chunk"]] = row
        if len(collected) == row["chunks"]:
            ordered = [collected[chunk] for chunk in sorted(collected)]
            rejected = [item for chunk in ordered for item in chunk["rejected"]]
            table = embeddings_table(ordered, dimensions, storage)
            yield row["part"], table, pa.Table.from_pylist(rejected, schema.REJECTED)
            del waiting[row["part"]]


def embeddings_table(rows: list[dict[str, Any]], dimensions: int, storage: str) -> pa.Table:
    """The table of schema.embeddings from the chunks of a part, in order."""
    columns = schema.embeddings(dimensions, storage)
    vectors = np.frombuffer(b"".join(row["vectors"] for row in rows), np.float32).astype(storage)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors), type=columns.field("embedding").type)
    flat = [value for row in rows for value in row["measures"]]
    measures = np.array(flat, np.float32).reshape(-1, len(schema.MEASURES))
    ids = pa.array([frame for row in rows for frame in row["frame_ids"]], pa.string())
    return pa.Table.from_arrays([ids, embedding, *(pa.array(column) for column in measures.T)], schema=columns)


def write_part(run: RunDirectory, part: int, embeddings: pa.Table, rejected: pa.Table) -> list[File]:
    """Write one part and return its files: the rejected frames first, since the embeddings commit it."""
    rejected = copies.with_their_copies(run, part, rejected)
    written = [run.write_table(rejected_path(part, "embed"), rejected)] if rejected.num_rows else []
    return [*written, run.write_table(part_path("embeddings", part), embeddings)]


def describe_part(run: RunDirectory, part: int) -> list[File]:
    """The files of a part that is there: its embeddings, and its rejected frames where there are any."""
    paths = part_path("embeddings", part), rejected_path(part, "embed")
    return [run.describe(path) for path in paths if run.exists(path)]
