"""Lineage read off a path: center, patient, procedure and the user's metadata, by a pattern with named groups."""

from collections.abc import Sequence

from curation.options import require
from curation.sources.config import LINEAGE, check_pattern
from curation.sources.reader import Source
from curation.store.schema import FRAMES, IMAGE, NEAR, SCORES


class Lineage:
    """Center, patient, procedure and user metadata, read off a path by a pattern with named groups."""

    def __init__(self, pattern: str | None) -> None:
        self._pattern = check_pattern(pattern) if pattern else None
        groups = tuple(self._pattern.groupindex) if self._pattern else ()
        self.metadata = tuple(name for name in groups if name not in LINEAGE)
        taken = [name for name in self.metadata if name in (*FRAMES.names, *NEAR.names, *SCORES.names, IMAGE.name)]
        require(not taken, f"lineage_pattern has groups named like built-in columns: {taken}; rename them")

    def of(self, path: str) -> dict[str, str | None]:
        """The columns for `path`; null where the pattern does not match."""
        empty: dict[str, str | None] = dict.fromkeys((*LINEAGE, *self.metadata))
        match = self._pattern.search(path) if self._pattern else None
        return empty | match.groupdict() if match else empty


class Lineages:
    """The lineage of each source: by the user's pattern, or else by its pool's."""

    def __init__(self, sources: Sequence[Source], pattern: str | None) -> None:
        self._of = {
            source.name: Lineage(pattern or (source.pool.lineage_pattern if source.pool else None))
            for source in sources
        }
        self.metadata = tuple(dict.fromkeys(name for lineage in self._of.values() for name in lineage.metadata))

    def __getitem__(self, source: str) -> Lineage:
        return self._of[source]
