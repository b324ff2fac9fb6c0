"""Where frames come from: folder trees of image files, listed in an order that does not depend on the file system.

It reads names and sizes, never contents, and holds one folder's names at a time.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow.fs as pafs
from wcmatch import glob

from curation.config import LINEAGE, IngestConfig, check_pattern
from curation.filesystems import filesystem_of
from curation.options import digest, require
from curation.pools import POOLS, Pool
from curation.schema import FRAMES, IMAGE, SCORES

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jpe", ".jfif")
GLOB = glob.GLOBSTAR | glob.BRACE | glob.MATCHBASE | glob.DOTGLOB


@dataclass(frozen=True)
class Source:
    """A named folder tree, and the public pool it is where the user named one."""

    name: str
    uri: str
    pool: Pool | None = None


@dataclass(frozen=True)
class Entry:
    """One image file: its place below the source, where its bytes are, and how many."""

    source: str
    path: str
    uri: str
    size: int


@dataclass(frozen=True)
class Part:
    """A part to ingest: its number, its entries in order, and a digest of them."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Digest of what is listed, without absolute paths."""
        return digest([[entry.source, entry.path, entry.size] for entry in self.entries])


def frame_id(source: str, path: str, member: str | None = None, frame_index: int | None = None) -> str:
    """The frame's identity: 32 hex characters from the source's name and the frame's place in it."""
    place = "\0".join((source, path, member or "", "" if frame_index is None else str(frame_index)))
    return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def content_hash(data: bytes) -> str:
    """32 hex characters that are equal for equal bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def parse_sources(texts: tuple[str, ...]) -> list[Source]:
    """Sources by name, from PATH or NAME=PATH. ValueError where one is missing or two share a name."""
    sources: dict[str, Source] = {}
    for text in texts:
        named = re.match(r"([A-Za-z0-9._-]+)=(.+)", text)
        uri = (named[2] if named else text).rstrip("/") or "/"
        system, path = filesystem_of(uri)
        uri = path if isinstance(system, pafs.LocalFileSystem) else uri  # absolute, for other working directories
        name = named[1] if named else path.rpartition("/")[2]
        found = system.get_file_info(path).type
        require(found != pafs.FileType.NotFound, f"source {uri} does not exist")
        require(found == pafs.FileType.Directory, f"source {uri} is no folder; a source is a tree of image files")
        require(
            name not in sources,
            f"two sources are named {name!r} ({sources.get(name)} and {uri}); tell them apart with NAME=PATH",
        )
        sources[name] = Source(name, uri, POOLS.get(name) if named else None)
    return [sources[name] for name in sorted(sources)]


def walk(source: Source) -> Iterator[tuple[str, int]]:
    """Path below the source and size of each file, in the order of the paths' components."""
    system, root = filesystem_of(source.uri)

    def below(folder: str) -> Iterator[tuple[str, int]]:
        infos = system.get_file_info(pafs.FileSelector(f"{root}/{folder}".rstrip("/")))
        for info in sorted(infos, key=lambda info: info.base_name):
            path = f"{folder}/{info.base_name}".lstrip("/")
            if info.type == pafs.FileType.Directory:
                yield from below(path)
            elif info.type == pafs.FileType.File:
                yield path, info.size

    return below("")


class Listing:
    """The image files of all sources that the globs let through, and counts of what was passed over."""

    def __init__(self, config: IngestConfig) -> None:
        self.sources = parse_sources(config.source)
        self._pools = [(source, source.pool) for source in self.sources if source.pool]
        self.skipped: Counter[str] = Counter()  # by suffix: files of a kind that is not read here
        self.excluded = 0
        self.listed = 0
        self._found: Counter[str] = Counter()  # by source
        self._placed: Counter[str] = Counter()  # by source: those that lie as its pool's frames do
        self._as_published = not (config.include or config.lineage_pattern)
        globs = {source.name: config.include or (source.pool.include if source.pool else ()) for source in self.sources}
        self._include = {name: glob.compile(texts, flags=GLOB) if texts else None for name, texts in globs.items()}
        self._exclude = glob.compile(config.exclude, flags=GLOB) if config.exclude else None

    def __iter__(self) -> Iterator[Entry]:
        for source in self.sources:
            for path, size in walk(source):
                if not self._wanted(source.name, path):
                    self.excluded += 1
                    continue
                stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
                if not (dot and stem) or f".{suffix.lower()}" not in IMAGE_SUFFIXES:
                    self.skipped[f".{suffix.lower()}" if dot and stem else "no suffix"] += 1
                    continue
                self.listed += 1
                self._found[source.name] += 1
                self._placed[source.name] += lies_in_place(source, path)
                yield Entry(source.name, path, f"{source.uri}/{path}", size)

    def _wanted(self, source: str, path: str) -> bool:
        include = self._include[source]
        included = include is None or include.match(path)
        return bool(included and not (self._exclude is not None and self._exclude.match(path)))

    def parts(self, rows: int) -> Iterator[Part]:
        """The listing cut into parts of `rows` entries; the last may be shorter."""
        entries = iter(self)
        number = 0
        while block := tuple(islice(entries, rows)):
            yield Part(number, block)
            number += 1

    def check_found(self) -> None:
        """Raise ValueError, saying what was there instead, where nothing was listed, or nothing of a pool."""
        for source, pool in self._pools:
            found = self._placed if self._as_published else self._found
            require(
                found[source.name] > 0,
                f"no frame of {source.name} in {source.uri}: {self._found[source.name]} images lie elsewhere, "
                f"{self.excluded} files excluded by the globs, {self.describe_skipped()}. Expected {pool.layout}. "
                "Give the folder that holds this, or, for what is no such pool, another name before the =",
            )
        where = ", ".join(source.uri for source in self.sources)
        require(
            self.listed > 0,
            f"no image found in {where}: {self.excluded} files excluded by the globs, {self.describe_skipped()}; "
            f"expected at least one of {' '.join(IMAGE_SUFFIXES)}",
        )

    def describe_skipped(self) -> str:
        """The skipped files by kind, as a sentence."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.skipped.items()))
        return f"skipped {self.skipped.total()} files of other kinds" + (f" ({kinds})" if kinds else "")

    def describe_pools(self) -> str:
        """What pools should have and do not, as clauses that each begin with `; `; empty where all is as expected."""
        return "".join(f"; {found}" for found, _, _ in self._odd_pools())

    def warnings(self) -> list[str]:
        """The same, with the folder and the expected tree, a sentence for each pool."""
        return [
            f"{found}, in {where}: is it whole, and that pool? Expected {layout}. What is there is taken"
            for found, where, layout in self._odd_pools()
        ]

    def _odd_pools(self) -> Iterator[tuple[str, str, str]]:
        for source, pool in self._pools:
            found = self._found[source.name]
            if pool.count not in (None, found):
                yield f"{source.name} has {found} frames, expected {pool.count}", source.uri, pool.layout


def lies_in_place(source: Source, path: str) -> bool:
    """Whether a path is one that the pool's lineage can be read off; true where the source is no pool, or has none."""
    pattern = source.pool.lineage_pattern if source.pool else None
    return pattern is None or re.search(pattern, path) is not None


def survey(config: IngestConfig) -> Listing:
    """Return a listing gone through once, for its counts. ValueError as `check_found`. Reads names only."""
    listing = Listing(config)
    for _ in listing:
        pass
    listing.check_found()
    return listing


class Lineage:
    """Center, patient, procedure and user metadata, read off a path by a pattern with named groups."""

    def __init__(self, pattern: str | None) -> None:
        self._pattern = check_pattern(pattern) if pattern else None
        groups = tuple(self._pattern.groupindex) if self._pattern else ()
        self.metadata = tuple(name for name in groups if name not in LINEAGE)
        taken = [name for name in self.metadata if name in (*FRAMES.names, *SCORES.names, IMAGE.name)]
        require(not taken, f"lineage_pattern has groups named like columns of ours: {taken}; rename them")

    def of(self, path: str) -> dict[str, str | None]:
        """The columns for `path`; null where the pattern does not match."""
        empty: dict[str, str | None] = dict.fromkeys((*LINEAGE, *self.metadata))
        match = self._pattern.search(path) if self._pattern else None
        return empty | match.groupdict() if match else empty


class Lineages:
    """The lineage of each source: by the user's pattern, or else by that of the pool the source is."""

    def __init__(self, config: IngestConfig) -> None:
        self._of = {
            source.name: Lineage(config.lineage_pattern or (source.pool.lineage_pattern if source.pool else None))
            for source in parse_sources(config.source)
        }
        self.metadata = tuple(dict.fromkeys(name for lineage in self._of.values() for name in lineage.metadata))

    def __getitem__(self, source: str) -> Lineage:
        return self._of[source]
