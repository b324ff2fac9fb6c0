"""Sources to frames: Ray tasks read, check and hash each file once; exact copies are marked in a second pass."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from curation import copies, engine, images, schema, sources
from curation.config import IngestConfig
from curation.console import Stopwatch, progress, warn
from curation.frames import forget_unread, frame_row, rejected_row
from curation.further import Further, further_of
from curation.markers import Step, check_rejected
from curation.store import File, RunDirectory, holding

DIGEST = b"endosieve.listing"  # key in a part's Arrow metadata: digest of the listing it was made from
BESIDE = b"endosieve.further"  # and what its files hold beside the frames


@dataclass(frozen=True)
class Done:
    """What one part came to."""

    files: list[File]
    frames: int
    rejected: int
    further: Further


@holding
def ingest(config: IngestConfig) -> dict[str, Any]:
    """Read the sources into frames/ and rejected/ and return the step's marker; do only what is missing.

    A pool of another count than published is warned of. ValueError: a source missing, empty, not the pool that it is
    named for, or changed since a killed run listed it; more than max_rejected rejected.
    """
    run = RunDirectory(config.run_dir)
    step = Step(run, "ingest", "frames", config, {})
    if marker := step.find():
        return marker | {"reused": True}
    surveyed = sources.survey(config)
    for text in surveyed.warnings():
        warn(text)
    step.begin()
    engine.connect()
    watch = Stopwatch()
    forget_unread(run, "ingest", "frames")
    existing = run.parts("frames")
    run.clear_rejected("ingest", existing)
    listing = sources.Listing(config)
    calls = ((run, config, part, part.number in existing) for part in listing.parts(config.part_rows))
    done: list[Done] = []
    with progress("ingest", surveyed.listed) as bar:
        for result in engine.stream(ray.remote(ingest_part), calls):
            done.append(result)
            bar.update(result.frames + result.rejected)
    files = {file.path: file for result in done for file in result.files}
    marked, rewritten = mark_copies(run)
    files |= {file.path: file for file in rewritten}
    frames, rejected = (sum(getattr(result, name) for result in done) for name in ("frames", "rejected"))
    assert frames + rejected == listing.listed, "a listed file is neither a frame nor rejected"
    check_rejected("ingest", rejected, listing.listed, config.max_rejected)
    done.sort(key=lambda result: result.files[0].path)
    if further := sum((result.further for result in done), Further()).describe():
        warn(f"{further}; only the first of a file is a frame: split such files to have them all")
    counts = {"rows_in": listing.listed, "rows_out": frames, "rejected": rejected, "copies": marked}
    note = f"{marked} exact copies marked; {listing.describe_skipped()}; {listing.excluded} excluded by the globs"
    note += listing.describe_pools() + (f"; {further}" if further else "")
    return step.finish(counts | {"seconds": watch.seconds, "note": note}, list(files.values()))


def ingest_part(run: RunDirectory, config: IngestConfig, part: sources.Part, exists: bool) -> Done:
    """Write frames/part-N and, where needed, its rejected frames; where it exists, only check that it is the same.

    ValueError when an existing part was made from another listing.
    """
    path, rejected_path = part_paths(part.number)
    if exists:
        metadata = run.read_schema(path).metadata or {}
        if metadata.get(DIGEST, b"").decode() != part.digest:
            raise ValueError(
                f"the sources changed since {run.uri} was begun (first seen in {path}); "
                "put them back as they were, or use another --run-dir"
            )
        further = Further.from_bytes(metadata[BESIDE]) if BESIDE in metadata else Further()
        written = [run.describe(name) for name in (path, rejected_path) if run.exists(name)]
    else:
        lineages = sources.Lineages(config)
        good, bad = [], []
        for entry in part.entries:
            try:
                good.append(frame_row(entry, lineages[entry.source], config.max_pixels))
            except images.FrameError as error:
                bad.append(rejected_row(entry.source, entry.uri, entry.path, "ingest", error))
        written = [run.write_table(rejected_path, pa.Table.from_pylist(bad, schema.REJECTED))] if bad else []
        further = further_of(good)
        metadata = {DIGEST: part.digest.encode(), BESIDE: further.to_bytes()}
        columns = schema.frames(lineages.metadata).with_metadata(metadata)
        written.insert(0, run.write_table(path, pa.Table.from_pylist(good, columns)))
    return Done(written, written[0].rows, sum(file.rows for file in written[1:]), further)


def part_paths(number: int) -> tuple[str, str]:
    """Where part `number` of frames is, and the frames of it that were rejected on reading."""
    return f"frames/part-{number:06d}.parquet", f"rejected/part-{number:06d}-ingest.parquet"


def mark_copies(run: RunDirectory) -> tuple[int, list[File]]:
    """Set copy_of on every frame whose content an earlier frame (in the tables' order) has, and list them by content.

    Holds 8 bytes a frame here, and all of a row only for frames whose 64-bit hash prefix repeats. Returns the
    number of copies and the files written.
    """
    parts = run.parts("frames")
    calls: list[tuple[Any, ...]] = [(run, path) for path in parts.values()]
    hashed = list(engine.stream(ray.remote(copies.hash_prefixes), calls, in_order=True))
    prefixes = ray.put(copies.repeated([prefix for prefix, _ in hashed]))
    rows = engine.stream(ray.remote(copies.repeated_rows), [(*call, prefixes) for call in calls], in_order=True)
    marked = copies.marks(dict(zip(parts, rows, strict=True)))
    changed = [number for number, (_, before) in zip(parts, hashed, strict=True) if before or number in marked.copy_of]
    calls = [(run, parts[number], marked.copy_of.get(number, {})) for number in changed]
    rewritten = list(engine.stream(ray.remote(copies.write_copies), calls))
    return sum(map(len, marked.copy_of.values())), [*rewritten, *copies.write_index(run, marked.index)]
