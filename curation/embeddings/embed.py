"""Frames to embeddings: Ray Data hands parts of frames to encoder actors, which decode, encode and write them.

A part's frames are encoded in chunks that are always the same, whatever the number of workers. The driver receives a
record of a few numbers for each part, and moves no frames. The last parts are cut into slices, so that all encoders
end together; a task joins them.
"""

import hashlib
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from curation.console import StepSummary, Stopwatch, progress
from curation.embeddings.checkpoints import statistics_beside
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import UNTRAINED, about, configured, resolved
from curation.embeddings.encoding import AHEAD_BYTES, AT_ONCE, EncodeUnit, Work
from curation.embeddings.tables import describe_part, join_slices
from curation.embeddings.units import cut
from curation.engine import resources
from curation.engine.accelerators import elastic, gpus
from curation.engine.chips import resolve_precision
from curation.engine.connect import connect
from curation.engine.metrics import count_part
from curation.engine.stream import stream
from curation.engine.verdict import Spent
from curation.frames.frame import forget_unread
from curation.options import digest, require
from curation.store.directory import File, RunDirectory, holding
from curation.store.filesystems import filesystem_of
from curation.store.markers import Step, check_rejected, marker_of, read_record
from curation.store.parts import part_number

PATIENCE_S = 24 * 3600.0  # without progress; Ray Data's own half hour is short for a queue for GPUs
WAVE = 8192  # units of one Ray Data execution


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
    missing, written = missing_parts(run, before)
    work = work_of(run, config, precision, before["output_hash"])
    written += encode_missing(work, before, missing, written, spent)
    originals, rejections = before["rows_out"] - before["copies"], rejected_in(written)
    embedded = sum(file.rows for file in written) - rejections
    left = before["rows_out"] - embedded - rejections  # copies of what was embedded
    found = f"{before['rows_out']} frames in, {embedded} out, {rejections} rejected, {left} copies"
    assert embedded <= originals <= embedded + rejections, found
    assert 0 <= left <= before["copies"], found
    check_rejected("embed", rejections, before["rows_out"], config.max_rejected)
    note = f"{config.encoder}, {dimensions} dimensions, {precision}, {about(model)}"
    note += ", UNTRAINED (weights drawn from the seed)" if config.weights == UNTRAINED else ""
    note += f"; {spent.verdict(resources.device_names())}" if missing else ""
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


def encode_missing(
    work: Work, before: dict[str, Any], missing: list[File], done: list[File], spent: Spent
) -> list[File]:
    """Encode the missing parts, count what they take in `spent`, and return their files.

    `before` is the marker of frames/, `done` are the files of parts that are there. ValueError as soon as more than
    max_rejected are rejected.
    """
    run, originals, written = work.run, before["rows_out"] - before["copies"], list[File]()
    rejections = rejected_in(done)
    accounted = sum(file.rows for file in done)
    try:
        with progress("embed", originals, done=accounted) as bar, closing(records(work, missing)) as arriving:
            for record, files in committed(arriving, run, work.made):
                bar.update(record["frames"])
                spent.add(record)
                written += files
                if not files:
                    continue
                rejections += rejected_in(files)
                accounted += sum(file.rows for file in files)
                count_part(run.uri, "embed", files[-1].rows, rejected_in(files))
                early = accounted < originals
                check_rejected("embed", rejections, before["rows_out"], work.config.max_rejected, early=early)
    finally:
        for folder in ("embeddings", "rejected"):
            run.clear_temporary(folder)  # slices
    return written


def precision_of(run: RunDirectory, requested: str) -> str:
    """The arithmetic of the step: for `auto` that of its start, on whatever chips, else what these chips have."""
    begun = read_record(run)["steps"].get("embeddings")
    if requested == "auto" and begun is not None and run.holds_files("embeddings"):
        return str(begun["inputs"]["precision"])
    return resolve_precision(requested, *resources.chips())


def rejected_in(files: list[File]) -> int:
    """How many rejected frames some of the step's files hold."""
    return sum(file.rows for file in files if file.path.startswith("rejected/"))


def missing_parts(run: RunDirectory, before: dict[str, Any]) -> tuple[list[File], list[File]]:
    """Return the parts of frames without embeddings, as their marker lists them, and the files of those with them."""
    existing = run.parts("embeddings")
    described = stream(ray.remote(describe_part), ((run, number) for number in existing))
    done = [file for files in described for file in files]
    frames = sorted((File(**entry) for entry in before["files"]), key=lambda file: file.path)
    parts = [file for file in frames if file.path == f"frames/{file.path.rpartition('/')[2]}"]
    return [file for file in parts if part_number(file.path) not in existing], done


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


def work_of(run: RunDirectory, config: EmbedConfig, precision: str, made: str) -> Work:
    """What the encoders are told: how much they have decoded ahead by tasks, and what a task takes."""
    devices = gpus()
    chunk_bytes = config.chunk_rows * config.image_size**2 * 3
    share = resources.under_way() // max(1, config.workers or devices)
    ahead = max(2, min(share, AHEAD_BYTES // chunk_bytes)) if devices else 2
    # Without GPUs the encoders take all CPUs: a task is there to wait for files that come from afar.
    return Work(run, config, precision, made, ahead=ahead, decoder_cpus=1.0 if devices else 0.0)


def records(work: Work, files: list[File], encoder: type[EncodeUnit] = EncodeUnit) -> Generator[dict[str, Any]]:
    """Encode some parts of frames; records (rows of RECORD) of their units, in the order in which they come.

    What Ray Data keeps here of a unit is some 10 KB, so it is given WAVE of them at a time.
    """
    devices, cpus = gpus(), max(1, resources.count("CPU"))
    workers = work.config.workers or devices or cpus
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = PATIENCE_S
    context.target_max_block_size = 1  # so that a record is a block, and comes at once
    share = math.floor(10_000 * cpus / max(workers, cpus)) / 10_000
    granted: dict[str, Any] = {"num_gpus": 1.0} if devices else {"num_cpus": share}
    units = list(cut(files, work.config.chunk_rows, workers))
    for start in range(0, len(units), WAVE):
        wave = [unit.to_row() for unit in units[start : start + WAVE]]
        dataset = ray.data.from_items(wave, override_num_blocks=len(wave)).map_batches(
            encoder,
            fn_constructor_args=(work,),
            batch_size=1,
            batch_format="pyarrow",
            compute=encoder_pool(work.config.workers, workers, len(wave)),
            **granted,
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from cast(pa.Table, batch).to_pylist()


def encoder_pool(asked: int, there: int, units: int) -> ActorPoolStrategy:
    """The pool of encoders: of a fixed size, but on an autoscaling cluster as many as it gives, at most one a unit."""
    fixed = asked or not elastic()
    size = {"size": there} if fixed else {"min_size": 1, "max_size": max(1, units)}
    return ActorPoolStrategy(
        **size,
        max_concurrent_calls_per_actor=AT_ONCE,
        max_tasks_in_flight_per_actor=AT_ONCE,
        enable_true_multi_threading=True,
    )


def committed(
    arriving: Iterable[dict[str, Any]], run: RunDirectory, made: str
) -> Iterator[tuple[dict[str, Any], list[File]]]:
    """Pass records on, each with the files of the part that it completes; a part of slices is joined by a task."""
    there: dict[int, set[tuple[int, int]]] = {}  # slices of parts that are not complete yet
    join: Any = ray.remote(join_slices).options(num_cpus=0, max_retries=resources.RETRIES)
    for record in arriving:
        part, files = record["part"], [File(**file) for file in record["files"]]
        if record["slices"] > 1:
            slices = there.setdefault(part, set())
            slices.add((record["first"], record["end"]))
            if len(slices) == record["slices"]:
                files = ray.get(join.remote(run, part, sorted(there.pop(part)), made))
        yield record, files
