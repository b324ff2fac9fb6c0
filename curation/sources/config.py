"""Which frames a run reads. It reads no source itself."""

import re
from dataclasses import dataclass

from curation.options import check_common, option, require, run_dir_option

LINEAGE = ("center", "patient", "procedure")
NEAR_MOST = 20  # bits by which hashes of near copies may differ


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read: sources, globs and lineage."""

    run_dir: str = run_dir_option()
    source: tuple[str, ...] = option(
        "A folder tree of frames, as PATH or NAME=PATH (the name, by default the folder's, enters every frame's "
        "id); an existing path is always read as PATH. For an S3 store other than Amazon's: "
        "s3://BUCKET/FOLDER?endpoint_override=http://HOST. A public pool's name (gastrovision, hyper-kvasir-labelled, "
        "hyper-kvasir-unlabelled, hyper-kvasir-videos, kvasir-capsule) brings its globs and lineage."
    )
    include: tuple[str, ...] = option(
        "Read only files whose path below the source matches this glob, case-sensitive. What operating "
        "systems and tools leave in folders (._*, .DS_Store, Thumbs.db, .git and such) is always skipped.",
        (),
    )
    exclude: tuple[str, ...] = option("Skip files whose path below the source matches this glob.", ())
    lineage_pattern: str | None = option(
        "Regular expression searched in each path below its source; the named groups center, patient and "
        "procedure fill those columns, any other named group becomes a metadata column.",
        None,
    )
    part_rows: int = option("Frames in one part: the unit of work and of resuming.", 2000)
    max_pixels: int = option("Images with more pixels than this are rejected unread.", 100_000_000)
    near_copies: int | None = option(
        "Drop frames before they are embedded whose perceptual hash (PHash, 64 bits) differs in at most this many bits "
        "from that of an earlier frame that stays. Default: off, no frame is decoded on ingest.",
        None,
    )
    max_rejected: float = option("Stop when more than this share of frames is rejected.", 0.05, hashed=False)

    def __post_init__(self) -> None:
        require(len(self.source) > 0, "no source given; name at least one with --source PATH")
        check_common(self)
        require(self.part_rows >= 1, f"part_rows is {self.part_rows}; it must be at least 1")
        require(self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1")
        require(
            self.near_copies is None or 0 <= self.near_copies <= NEAR_MOST,
            f"near_copies is {self.near_copies}; it must be between 0 and {NEAR_MOST} (of 64 bits; unrelated pictures "
            "differ in about 32)",
        )
        if self.lineage_pattern is not None:
            check_pattern(self.lineage_pattern)


def check_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a lineage pattern; ValueError where it is not a regular expression or names no group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"lineage_pattern {pattern!r} is not a regular expression: {error}") from error
    require(
        len(compiled.groupindex) > 0,
        f"lineage_pattern {pattern!r} has no named group; write for example (?P<patient>p\\d+)",
    )
    return compiled
