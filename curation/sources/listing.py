"""The image files of all sources that the globs let through, in one order, cut into parts, and counts of the rest."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from wcmatch import glob

from curation.options import digest, require
from curation.sources.config import IngestConfig
from curation.sources.folder import NO_LINK, Found, Passed, walk
from curation.sources.reader import Entry, Source, check_there, parse_sources, unmounted
from curation.store.filesystems import below, scheme_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
GLOB = glob.GLOBSTAR | glob.BRACE | glob.MATCHBASE | glob.DOTGLOB
EXAMPLES = 3  # files named in a message


@dataclass(frozen=True)
class Part:
    """A part to ingest: its number, and its entries in order."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Digest of what is listed, without absolute paths and times."""
        return digest([[entry.source, entry.path, entry.size] for entry in self.entries])

    @property
    def state(self) -> str:
        """Digest of what is listed and when it was written."""
        return digest([[entry.source, entry.path, entry.size, entry.mtime_ns] for entry in self.entries])


class Globs:
    """Which paths of a source are listed: by the user's globs, or else its pool's, and by suffix."""

    def __init__(self, config: IngestConfig, source: Source) -> None:
        include = config.include or (source.pool.include if source.pool else ())
        self._include, self._exclude = (
            [glob.compile(texts, flags=flags) if texts else None for flags in (GLOB, GLOB | glob.IGNORECASE)]
            for texts in (include, config.exclude)
        )

    def let_through(self, path: str) -> bool:
        """Whether the globs let a path through."""
        return self._through(path, 0, 0)

    def differs_by_case(self, path: str) -> bool:
        """Whether they decide differently when --include or --exclude ignores case."""
        if self._include[0] is None and self._exclude[0] is None:
            return False
        through = self._through(path, 0, 0)
        return through != self._through(path, 1, 0) or through != self._through(path, 0, 1)

    def lists(self, path: str) -> bool:
        """Whether a path is listed."""
        return other_suffix(path) is None and self.let_through(path)

    def _through(self, path: str, include: int, exclude: int) -> bool:
        included, excluded = self._include[include], self._exclude[exclude]
        return bool((included is None or included.match(path)) and not (excluded is not None and excluded.match(path)))


def other_suffix(path: str) -> str | None:
    """None for an image by its suffix; else the suffix in lower case, or `no suffix`."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    if not (dot and stem):
        return "no suffix"
    return None if f".{suffix.lower()}" in IMAGE_SUFFIXES else f".{suffix.lower()}"


class Listing:
    """The image files of all sources that the globs let through, and counts of what was passed over."""

    def __init__(self, config: IngestConfig, sources: list[Source] | None = None) -> None:
        if sources is None:
            sources = parse_sources(config.source)
            check_there(sources)
        self.sources = sources
        self._pools = [(source, source.pool) for source in self.sources if source.pool]
        self.skipped: Counter[str] = Counter()  # by suffix: files of a kind that is not read here
        self.passed = Passed()
        self.excluded = 0
        self.listed = 0
        self.cased: list[str] = []  # the first files on which the globs would decide differently if they ignored case
        self.by_case = 0  # how many there are
        self.dangling: list[str] = []  # the first links to nothing that may be folders
        self._found: Counter[str] = Counter()  # by source
        self._placed: Counter[str] = Counter()  # by source: those that lie as its pool's frames do
        self._as_published = not (config.include or config.lineage_pattern)
        self._globs = {source.name: Globs(config, source) for source in self.sources}

    def __iter__(self) -> Iterator[Entry]:
        for source in self.sources:
            globs = self._globs[source.name]
            for found in walk(source.uri, globs.lists, self.passed):
                if self._is_listed(found, globs):
                    self.listed += 1
                    self._found[source.name] += 1
                    self._placed[source.name] += lies_in_place(source, found.path)
                    uri = below(source.uri, found.path)
                    yield Entry(source.name, found.path, uri, found.size, found.mtime_ns, found.problem)

    def _is_listed(self, found: Found, globs: Globs) -> bool:
        kind = other_suffix(found.path)
        through = globs.let_through(found.path)
        if kind is None and globs.differs_by_case(found.path):
            self.by_case += 1
            self.cased = [*self.cased, found.path][:EXAMPLES]
        if not through:
            self.excluded += 1
        elif kind is not None and found.problem is not None and found.problem[0] == NO_LINK:
            self.skipped[NO_LINK] += 1
            self.dangling = [*self.dangling, found.path][:EXAMPLES]
        elif kind is not None:
            self.skipped[kind] += 1
        return through and kind is None

    def parts(self, rows: int) -> Iterator[Part]:
        """The listing cut into parts of `rows` entries; the last may be shorter."""
        entries = iter(self)
        number = 0
        while block := tuple(islice(entries, rows)):
            yield Part(number, block)
            number += 1

    def check_found(self) -> None:
        """Raise ValueError, saying what was there instead, where nothing, or nothing of a pool, was listed."""
        for source, pool in self._pools:
            found = self._placed if self._as_published else self._found
            require(
                found[source.name] > 0,
                f"no frame of {source.name} in {source.uri}: {self._found[source.name]} images lie elsewhere, "
                f"{self.excluded} files excluded by the globs, {self.describe_skipped()}. Expected {pool.layout}. "
                "Give the folder that holds this, or, if it is not that pool, another name before the =",
            )
        local = [scheme_of(source.uri) is None for source in self.sources]
        hints = [unmounted(source.uri) if here else "" for source, here in zip(self.sources, local, strict=True)]
        where = ", ".join(f"{source.uri}{hint}" for source, hint in zip(self.sources, hints, strict=True))
        cased = f"; {self.describe_case()}" if self.by_case else ""
        require(
            self.listed > 0,
            f"no image found in {where}: {self.excluded} files excluded by the globs, {self.describe_skipped()}; "
            f"expected at least one of {' '.join(IMAGE_SUFFIXES)}{cased}",
        )

    def describe_skipped(self) -> str:
        """What was passed over by kind, as clauses: other kinds of files, leftovers, special files, links."""
        texts = [f"skipped {describe_counts(self.skipped, 'files of other kinds')}"]
        if self.passed.leftovers:
            texts.append(
                f"passed over {describe_counts(self.passed.leftovers, 'leftovers of operating systems and tools')}"
            )
        if self.passed.special:
            texts.append(f"passed over {describe_counts(self.passed.special, 'special files')}")
        if self.passed.links:
            texts.append(f"links to files that are listed themselves: {self.passed.links}")
        if loops := self.passed.loops:
            texts.append(f"links to folders that they lie in: {len(loops)} ({', '.join(loops[:EXAMPLES])})")
        return "; ".join(texts)

    def describe_case(self) -> str:
        """How many files the globs would treat differently if they ignored case."""
        names = ", ".join(self.cased) + (", ..." if self.by_case > len(self.cased) else "")
        return (
            f"{self.by_case} image files differ from --include or --exclude by upper and lower case only ({names}); "
            "write both cases, such as '*.{jpg,JPG}', to match them too"
        )

    def describe_pools(self) -> str:
        """Where pools are not as expected, as clauses that each begin with `; `; empty where all are."""
        return "".join(f"; {found}" for found, _, _ in self._odd_pools())

    def warnings(self) -> list[str]:
        """What may be wrong, a sentence each: pools of another size, upper and lower case, dangling links."""
        texts = [
            f"{found}, in {where}: is it complete, and the right pool? Expected {layout}. The frames found are used"
            for found, where, layout in self._odd_pools()
        ]
        texts += [self.describe_case()] if self.by_case else []
        if self.dangling:
            texts.append(
                f"{self.skipped[NO_LINK]} links lead to nothing and have no image's suffix, so they may be folders of "
                f"frames whose disk is not mounted: {', '.join(self.dangling)}"
            )
        return texts

    def _odd_pools(self) -> Iterator[tuple[str, str, str]]:
        for source, pool in self._pools:
            found = self._found[source.name]
            if pool.count not in (None, found):
                yield f"{source.name} has {found} frames, expected {pool.count}", source.uri, pool.layout


def count_files(config: IngestConfig) -> Listing:
    """List all sources once and return the listing for its counts. ValueError as `check_found`. Reads names only."""
    listing = Listing(config)
    for _ in listing:
        pass
    listing.check_found()
    return listing


def describe_counts(kinds: Counter[str], of_what: str) -> str:
    """Counts by kind as a clause."""
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{kinds.total()} {of_what}" + (f" ({listed})" if listed else "")


def lies_in_place(source: Source, path: str) -> bool:
    """Whether the pool's lineage can be read off a path; true where the source is not a pool or has no lineage."""
    pattern = source.pool.lineage_pattern if source.pool else None
    return pattern is None or re.search(pattern, path) is not None
