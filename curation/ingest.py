"""Sources to frames: Ray tasks read, check and hash each file once; exact copies are marked in a second pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation import engine, images, schema, sources
from curation.config import IngestConfig
from curation.console import Stopwatch, progress, warn
from curation.frames import frame_row, rejected_row
from curation.markers import Step, check_rejected
from curation.store import File, RunDirectory, holding

DIGEST = b"endosieve.listing"  # key in a part's Arrow metadata: digest of the listing it was made from


@dataclass(frozen=True)
class Done:
    """What one part came to."""

    files: list[File]
    frames: int
    rejected: int


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
    copies, rewritten = mark_copies(run)
    files |= {file.path: file for file in rewritten}
    frames, rejected = (sum(getattr(result, name) for result in done) for name in ("frames", "rejected"))
    assert frames + rejected == listing.listed, "a listed file is neither a frame nor rejected"
    check_rejected("ingest", rejected, listing.listed, config.max_rejected)
    counts = {"rows_in": listing.listed, "rows_out": frames, "rejected": rejected, "copies": copies}
    note = f"{copies} exact copies marked; {listing.describe_skipped()}; {listing.excluded} excluded by the globs"
    note += listing.describe_pools()
    return step.finish(counts | {"seconds": watch.seconds, "note": note}, list(files.values()))


def ingest_part(run: RunDirectory, config: IngestConfig, part: sources.Part, exists: bool) -> Done:
    """Write frames/part-N and, where needed, its rejected frames; where it exists, only check that it is the same.

    ValueError when an existing part was made from another listing.
    """
    path, rejected_path = part_paths(part.number)
    if exists:
        if (run.read_schema(path).metadata or {}).get(DIGEST, b"").decode() != part.digest:
            raise ValueError(
                f"the sources changed since {run.uri} was begun (first seen in {path}); "
                "put them back as they were, or use another --run-dir"
            )
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
        columns = schema.frames(lineages.metadata).with_metadata({DIGEST: part.digest.encode()})
        written.insert(0, run.write_table(path, pa.Table.from_pylist(good, columns)))
    return Done(written, written[0].rows, sum(file.rows for file in written[1:]))


def part_paths(number: int) -> tuple[str, str]:
    """Where part `number` of frames is, and the frames of it that were rejected on reading."""
    return f"frames/part-{number:06d}.parquet", f"rejected/part-{number:06d}-ingest.parquet"


def mark_copies(run: RunDirectory) -> tuple[int, list[File]]:
    """Set copy_of on every frame whose content an earlier frame (in the tables' order) has.

    Holds 8 bytes a frame here, and all of a row only for frames whose 64-bit hash prefix repeats. Returns the
    number of copies and the parts written anew.
    """
    parts = list(run.parts("frames").values())
    prefixes = list(engine.stream(ray.remote(hash_prefixes), ((run, path) for path in parts)))
    values, counts = np.unique(np.concatenate([prefix for _, prefix in prefixes]), return_counts=True)
    repeated = ray.put(values[counts > 1])
    if not (counts > 1).any():
        return 0, []
    found = dict(engine.stream(ray.remote(repeated_rows), ((run, path, repeated) for path in parts)))
    originals: dict[str, str] = {}
    copies: dict[str, dict[str, str]] = {}
    for path in parts:  # ascending, so that the first of equal frames is the original
        for content, frame in found[path]:
            original = originals.setdefault(content, frame)
            if original != frame:
                copies.setdefault(path, {})[frame] = original
    calls = ((run, path, marks) for path, marks in copies.items())
    return sum(map(len, copies.values())), list(engine.stream(ray.remote(write_copies), calls))


def hash_prefixes(run: RunDirectory, path: str) -> tuple[str, npt.NDArray[np.uint64]]:
    """The part and the first 64 bits of each of its content hashes, uint64 [rows]."""
    hashes = run.read_table(path, ["content_hash"])["content_hash"].to_pylist()
    return path, _prefixes(hashes)


def _prefixes(hashes: list[str]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


def repeated_rows(run: RunDirectory, path: str, repeated: npt.NDArray[np.uint64]) -> tuple[str, list[tuple[str, str]]]:
    """The part and, for its rows whose prefix is among the sorted `repeated`, content hash and frame id."""

    def rows() -> Iterator[tuple[str, str]]:
        table = run.read_table(path, ["content_hash", "frame_id"])
        hashes, ids = table["content_hash"].to_pylist(), table["frame_id"].to_pylist()
        for row in np.flatnonzero(np.isin(_prefixes(hashes), repeated)):
            yield hashes[row], ids[row]

    return path, list(rows())


def write_copies(run: RunDirectory, path: str, copy_of: dict[str, str]) -> File:
    """Write the part anew with copy_of set for the frames in `copy_of`."""
    table = run.read_table(path)
    values = pa.array([copy_of.get(frame) for frame in table["frame_id"].to_pylist()], pa.string())
    field = schema.FRAMES.field("copy_of")
    return run.write_table(path, table.set_column(table.schema.get_field_index("copy_of"), field, values))
