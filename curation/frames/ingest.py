"""Sources to frames: Ray tasks read, check and hash each file once; copies are marked in a second pass."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import ray

from curation.console import StepSummary, progress, warn
from curation.engine.connect import connect
from curation.engine.metrics import count_part
from curation.engine.stream import stream
from curation.engine.tasks import Account, Task
from curation.frames import copies, decoding, settling
from curation.frames.frame import forget_unread, frame_row, rejected_row
from curation.frames.further import Further, further_of
from curation.sources import changes, reader
from curation.sources.config import IngestConfig
from curation.sources.lineage import Lineages
from curation.sources.listing import Listing, Part
from curation.sources.reader import Source
from curation.store import schema
from curation.store.directory import File, RunDirectory, holding
from curation.store.markers import Step, check_rejected, read_record
from curation.store.parts import part_path, rejected_path

MEMORY = 256 * 2**20  # bytes a task that reads files declares: one with 30 megapixels open (OURS)
DIGEST = b"endosieve.listing"  # key in a part's Arrow metadata: digest of the listing it was made from
FURTHER_KEY = b"endosieve.further"  # and the further pages and animation frames of its files


class Reading(NamedTuple):
    """How files are read: what has more pixels is rejected, and whether perceptual hashes are taken."""

    max_pixels: int
    hashed: bool


@dataclass(frozen=True)
class IngestedPart:
    """The result of one part."""

    files: list[File]
    frames: int
    rejected: int
    further: Further


@holding
def ingest(config: IngestConfig) -> dict[str, Any]:
    """Read the sources into frames/ and rejected/ and return the step's marker; do only what is missing.

    Warns where a pool's count differs from the published one, and where a source that was read completely is missing
    now. ValueError: a source missing, empty, not the pool that it is named for, or changed since it was listed; more
    than max_rejected rejected, as soon as that is certain.
    """
    run = RunDirectory(config.run_dir)
    for text in reader.readings(config.source):
        warn(text)
    found = as_recorded(run, reader.parse_sources(config.source))
    config = dataclasses.replace(config, source=tuple(source.text for source in found))
    lineages = Lineages(found, config.lineage_pattern)
    step = Step(run, "ingest", "frames", config, {})
    if marker := step.find():
        check_unchanged(run, config, found, lineages)
        return marker | {"reused": True}
    reader.check_there(found)
    surveyed = check_listing(run, config, found)
    step.begin()
    connect()
    watch = Account()
    forget_unread(run, "ingest", "frames")
    existing = run.parts("frames")
    run.clear_rejected("ingest", existing)
    listing, reading = Listing(config, found), Reading(config.max_pixels, config.near_copies is not None)
    done: list[IngestedPart] = []
    states: list[str] = []
    rejected = 0

    def calls() -> Iterator[tuple[Any, ...]]:
        for part in listing.parts(config.part_rows):
            if rejected > config.max_rejected * surveyed.listed:
                return
            states.append(part.state)
            yield run, lineages, reading, part, part.number in existing

    with progress("ingest", surveyed.listed) as bar:
        for result in stream(Task(ingest_part, "reading and decoding files", memory=MEMORY), calls()):
            done.append(result)
            rejected += result.rejected
            count_part(run.uri, "ingest", result.frames, result.rejected)
            bar.update(result.frames + result.rejected)
    frames = sum(result.frames for result in done)
    check_rejected("ingest", rejected, surveyed.listed, config.max_rejected, early=frames + rejected < surveyed.listed)
    assert frames + rejected == listing.listed, "a listed file is neither a frame nor rejected"
    files = {file.path: file for result in done for file in result.files}
    marked, rewritten, found_copies = mark_all(run, config, frames)
    files |= {file.path: file for file in rewritten}
    note = f"{found_copies}; {listing.describe_skipped()}; {listing.excluded} excluded by the globs"
    note += listing.describe_pools() + unread_pages(done) + watch.verdict()
    run.write_json(changes.STATE, {"listing": changes.state_of(states)})
    summary = StepSummary(
        rows_in=listing.listed,
        rows_out=frames,
        rejected=rejected,
        copies=marked,
        seconds=watch.seconds,
        note=note,
    )
    return step.finish(summary, list(files.values()))


def unread_pages(done: list[IngestedPart]) -> str:
    """Warn of pages and animation frames beyond the first of their files, and return it as a clause of the note."""
    ordered = sorted(done, key=lambda result: result.files[0].path)
    further = sum((result.further for result in ordered), Further()).describe()
    if not further:
        return ""
    warn(f"{further}; only the first of each file becomes a frame: split such files to use all of them")
    return f"; {further}"


def as_recorded(run: RunDirectory, found: list[Source]) -> list[Source]:
    """The sources as the run recorded them where those are the same ones, reached through other links."""
    texts = read_record(run)["steps"].get("frames", {}).get("config", {}).get("source", [])
    if len(texts) != len(found) or not all(map(reader.same, texts, (source.text for source in found))):
        return found
    return [
        dataclasses.replace(source, uri=text.removeprefix(f"{source.name}="))
        for source, text in zip(found, texts, strict=True)
    ]


def check_listing(run: RunDirectory, config: IngestConfig, found: list[Source]) -> Listing:
    """List all sources once, compare the listing with the existing parts, and return it for its counts.

    Warns of what may be wrong. Parts whose files have another size or time are deleted, to be made again. ValueError
    as `Listing.check_found`, and where files were added or removed since the run was begun.
    """
    listing, existing = Listing(config, found), run.parts("frames")
    known = [number for number in existing if run.exists(changes.listing_path(number))]
    changed = changes.compare_listing(run, known, listing, config.part_rows, whole=False)
    listing.check_found()
    if changed.moved:
        raise ValueError(
            f"the sources changed since {run.uri} was begun: {changed.describe()}; "
            "put them back as they were, or use another --run-dir, or delete frames/ in this one to start from scratch"
        )
    for text in listing.warnings():
        warn(text)
    again = {*(existing.keys() - set(known)), *changed.resized, *changed.touched}
    if changed.counts:
        warn(f"files changed since {run.uri} was begun: {changed.describe()}; {len(again)} parts are made again")
    for number in again:
        run.delete(existing[number])
    return listing


def check_unchanged(run: RunDirectory, config: IngestConfig, found: list[Source], lineages: Lineages) -> None:
    """ValueError, saying what changed, where the sources are not what a finished run read.

    Only names, sizes and times are compared; a file with another time is read, and its content compared. Sources that
    are missing, as on another machine, give a warning: what was recorded of them still counts.
    """
    away = reader.missing(found)
    for text in away.values():
        warn(f"{text}; the run keeps what was read from it, and a step that needs one of its files will name that file")
    there = [source for source in found if source.name not in away]
    if not there or not run.exists(changes.STATE):
        return

    def parts() -> Iterator[Part]:
        return Listing(config, there).parts(config.part_rows)

    state = changes.state_of(part.state for part in parts())
    if state == run.read_json(changes.STATE)["listing"]:
        return
    entries = Listing(config, there)
    changed = changes.compare_listing(run, run.parts("frames"), entries, config.part_rows, whole=True, absent=away)
    if changed.only_touched and not away:
        connect()
        reading = Reading(config.max_pixels, config.near_copies is not None)
        calls = ((run, lineages, reading, part) for part in parts() if part.number in changed.touched)
        others = changes.Changes()
        for name in (name for names in stream(Task(other_contents, "reading files"), calls) for name in names):
            others.note("of other content", name)
        if not others.counts:
            for part in (part for part in parts() if part.number in changed.touched):
                changes.record_listing(run, part)
            run.write_json(changes.STATE, {"listing": state})
        changed = others
    if changed.counts and not changed.only_touched:
        raise ValueError(
            f"the sources changed since {run.uri} read them: {changed.describe()}. Put them back as they were; or use "
            "another --run-dir; or delete frames/ there, and what was made from it: embeddings/, clusters/, scores/ "
            "and subsets/"
        )


def other_contents(run: RunDirectory, lineages: Lineages, reading: Reading, part: Part) -> list[str]:
    """The paths of a part whose files have another content, or are rejected for another reason, than recorded."""
    path, rejected = part_path("frames", part.number), rejected_path(part.number, "ingest")
    rows = run.read_table(path, ["source", "path", "content_hash"]).to_pylist()
    known = {(row["source"], row["path"]): row["content_hash"] for row in rows}
    if run.exists(rejected):
        rows = run.read_table(rejected, ["source", "path", "reason"]).to_pylist()
        known |= {(row["source"], row["path"]): row["reason"] for row in rows}
    times = run.read_table(changes.listing_path(part.number), ["mtime_ns"])["mtime_ns"].to_pylist()

    def outcome(entry: reader.Entry) -> str:
        try:
            return str(frame_row(entry, lineages[entry.source], *reading)["content_hash"])
        except decoding.FrameError as error:
            return error.reason

    touched = (entry for entry, time in zip(part.entries, times, strict=True) if entry.mtime_ns != time)
    return [entry.path for entry in touched if outcome(entry) != known[entry.source, entry.path]]


def ingest_part(run: RunDirectory, lineages: Lineages, reading: Reading, part: Part, exists: bool) -> IngestedPart:
    """Write frames/part-N and, where needed, its rejected frames and its listing; where it exists, describe it only."""
    path, rejected = part_path("frames", part.number), rejected_path(part.number, "ingest")
    if exists:
        metadata = run.read_schema(path).metadata or {}
        further = Further.from_bytes(metadata[FURTHER_KEY]) if FURTHER_KEY in metadata else Further()
        written = [run.describe(name) for name in (path, rejected) if run.exists(name)]
    else:
        good, bad = [], []
        for entry in part.entries:
            try:
                good.append(frame_row(entry, lineages[entry.source], *reading))
            except decoding.FrameError as error:
                bad.append(rejected_row(entry.source, entry.uri, entry.path, "ingest", error))
        changes.record_listing(run, part)
        written = [run.write_table(rejected, pa.Table.from_pylist(bad, schema.REJECTED))] if bad else []
        further = further_of(good)
        metadata = {DIGEST: part.digest.encode(), FURTHER_KEY: further.to_bytes()}
        columns = schema.frames(lineages.metadata, reading.hashed).with_metadata(metadata)
        written.insert(0, run.write_table(path, pa.Table.from_pylist(good, columns)))
    return IngestedPart(written, written[0].rows, sum(file.rows for file in written[1:]), further)


def mark_copies(run: RunDirectory) -> tuple[int, list[File]]:
    """Set copy_of on every frame whose content an earlier frame (in the tables' order) has, and list them by content.

    Holds 8 bytes per frame here, and all of a row only for frames whose 64-bit hash prefix repeats. Returns the
    number of copies and the files written.
    """
    parts = run.parts("frames")
    calls: list[tuple[Any, ...]] = [(run, path) for path in parts.values()]
    hashed = list(stream(Task(copies.hash_prefixes, "finding copies"), calls, in_order=True))
    prefixes = ray.put(copies.repeated([prefix for prefix, _ in hashed]))
    rows = stream(Task(copies.repeated_rows, "finding copies"), [(*call, prefixes) for call in calls], in_order=True)
    marked = copies.mark(dict(zip(parts, rows, strict=True)))
    changed = [number for number, (_, before) in zip(parts, hashed, strict=True) if before or number in marked.copy_of]
    calls = [(run, parts[number], marked.copy_of.get(number, {})) for number in changed]
    rewritten = list(stream(Task(copies.write_copies, "finding copies"), calls))
    return sum(map(len, marked.copy_of.values())), [*rewritten, *copies.write_index(run, marked.index)]


def mark_all(run: RunDirectory, config: IngestConfig, frames: int) -> tuple[int, list[File], str]:
    """Mark exact copies and, where asked for, near ones; return their number, the files written, and a clause on both.

    Near copies go last, since exact copies take no part in them. A file that is written twice is listed twice.
    """
    exact, files = mark_copies(run)
    text = f"{exact} exact copies marked"
    if config.near_copies is None:
        return exact, files, text
    near, again = settling.mark_near_copies(run, config.near_copies, config.part_rows)
    spared = f"{near / max(1, frames - exact):.1%} less to embed"
    text += f"; {near} near copies within {config.near_copies} of 64 bits marked, {spared}"
    return exact + near, [*files, *again], text
