"""Frames to embeddings: Ray Data streams parts through decoding tasks into a pool of encoder actors.

A part is decoded in chunks, and a chunk travels as one row of one block: its rows are always encoded together,
whatever the number of workers, and no block grows with the input. The driver writes a part when its chunks are in.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from curation import engine, schema
from curation.checkpoints import beside
from curation.config import EmbedConfig
from curation.console import Stopwatch, progress
from curation.decode import CHUNK, DecodePart
from curation.encoder import UNTRAINED, Encoder, about, build, resolve_precision, resolved
from curation.filesystems import filesystem_of
from curation.markers import Step, check_rejected, marker_of
from curation.options import digest, require
from curation.store import File, RunDirectory
from curation.vectors import limit_threads

ENCODED = pa.schema([*CHUNK, pa.field("vectors", pa.large_binary())])  # float32 [N, D]


def embed(config: EmbedConfig) -> dict[str, Any]:
    """Embed every frame but exact copies into embeddings/ and return the step's marker; do only what is missing.

    ValueError: frames/ unfinished, an encoder or weights that do not fit, more than max_rejected rejected.
    """
    run = RunDirectory(config.run_dir)
    before = marker_of(run, "frames", "ingest")
    config = resolved(config)
    engine.connect()
    precision = resolve_precision(config.precision, gpu=engine.count("GPU") > 0)
    step = Step(run, "embed", "embeddings", config, embed_inputs(config, before, precision))
    if marker := step.find():
        return marker | {"reused": True}
    model = build(config)
    dimensions = model.num_features
    gpus = engine.count("GPU")
    require(not gpus or config.workers <= gpus, f"workers is {config.workers}, but there are {gpus} GPUs, one for each")
    step.begin()
    watch = Stopwatch()
    run.clear_rejected("embed", run.parts("embeddings"))
    missing, written = missing_parts(run)
    originals = before["rows_out"] - before["copies"]
    with progress("embed", originals, done=sum(file.rows for file in written)) as bar:
        arriving = counted(chunks(run, config, missing, precision), bar)
        for part, embeddings, rejected in assemble(arriving, dimensions, config.storage):
            written += write_part(run, part, embeddings, rejected)
    embedded = sum(file.rows for file in written if file.path.startswith("embeddings/"))
    rejections = sum(file.rows for file in written) - embedded
    assert originals == embedded + rejections, f"{originals} frames in, {embedded} out and {rejections} rejected"
    check_rejected("embed", rejections, originals, config.max_rejected)
    counts = {"rows_in": before["rows_out"], "rows_out": embedded, "rejected": rejections, "copies": before["copies"]}
    note = f"{config.encoder}, {dimensions} dimensions, {precision}, {about(model)}"
    note += ", UNTRAINED (weights drawn from the seed)" if config.weights == UNTRAINED else ""
    return step.finish(counts | {"seconds": watch.seconds, "note": note}, written)


def missing_parts(run: RunDirectory) -> tuple[list[int], list[File]]:
    """Return the numbers of the parts of frames without embeddings, and the files of those that have them."""
    existing = run.parts("embeddings")
    described = engine.stream(ray.remote(describe_part), ((run, number) for number in existing))
    return [number for number in run.parts("frames") if number not in existing], [file for f in described for file in f]


def counted(rows: Iterator[dict[str, Any]], bar: Any) -> Iterator[dict[str, Any]]:
    """Pass chunks on and count their frames on the progress bar."""
    for row in rows:
        yield row
        bar.update(len(row["frame_ids"]) + len(row["rejected"]))


def embed_inputs(config: EmbedConfig, before: dict[str, Any], precision: str) -> dict[str, str]:
    """What the embeddings depend on beside the config: the frames, the arithmetic and the weights' bytes."""
    inputs = {"frames": before["output_hash"], "precision": precision}
    if config.weights not in (None, UNTRAINED):
        try:
            system, path = filesystem_of(str(config.weights))
            with system.open_input_stream(path) as file:
                inputs["weights"] = hashlib.sha256(file.read()).hexdigest()
            if recorded := beside(str(config.weights)):
                inputs["statistics"] = digest(recorded)
        except OSError as error:
            raise ValueError(f"weights file {config.weights} cannot be read: {error}") from error
    return inputs


def chunks(run: RunDirectory, config: EmbedConfig, parts: list[int], precision: str) -> Iterator[dict[str, Any]]:
    """Encoded chunks (rows of ENCODED) of the parts numbered `parts`, in the order in which they are done."""
    if not parts:
        return
    gpus, cpus = engine.count("GPU"), max(1, engine.count("CPU"))
    workers = config.workers or gpus or cpus
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = config.chunk_rows * config.image_size**2 * 3  # so that a chunk is a block
    # Without GPUs a core decodes for its own encoder: a quarter of it is held back, so that neither waits.
    decoder: dict[str, Any] = {"num_cpus": 1.0} if gpus else {"num_cpus": 0.25 * cpus / max(workers, cpus)}
    encoder: dict[str, Any] = {"num_gpus": 1.0} if gpus else {"num_cpus": 0.75 * cpus / max(workers, cpus)}
    dataset = (
        ray.data.from_items([{"part": number} for number in parts], override_num_blocks=len(parts))
        .map_batches(DecodePart(run, config), batch_size=1, batch_format="pyarrow", **decoder)
        .map_batches(
            EncodeChunk,
            fn_constructor_args=(config, precision),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers),
            **encoder,
        )
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch).to_pylist()


class EncodeChunk:
    """An actor with an encoder: rows of DECODED to rows of ENCODED."""

    def __init__(self, config: EmbedConfig, precision: str) -> None:
        limit_threads(engine.granted_cpus())
        self.shape = (-1, config.image_size, config.image_size, 3)
        self.encoder = Encoder(config, precision, engine.device())

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode each row by itself, so that what is computed together never depends on the schedule."""
        vectors = []
        for pixels in batch["pixels"]:
            images_NSS3 = np.frombuffer(pixels.as_buffer(), dtype=np.uint8).reshape(self.shape)
            vectors.append(self.encoder(images_NSS3).tobytes() if len(images_NSS3) else b"")
        columns = [batch[field.name] for field in CHUNK]
        return pa.Table.from_arrays([*columns, pa.array(vectors, pa.large_binary())], schema=ENCODED)


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
    embeddings_path, rejected_path = part_paths(part)
    written = [run.write_table(rejected_path, rejected)] if rejected.num_rows else []
    return [*written, run.write_table(embeddings_path, embeddings)]


def part_paths(part: int) -> tuple[str, str]:
    """Where a part of the embeddings is, and its frames that could not be decoded."""
    return f"embeddings/part-{part:06d}.parquet", f"rejected/part-{part:06d}-embed.parquet"


def describe_part(run: RunDirectory, part: int) -> list[File]:
    """The files of a part that is there: its embeddings, and its rejected frames where there are any."""
    return [run.describe(path) for path in part_paths(part) if run.exists(path)]
