"""What a run's frames were listed from, kept with them, and how the sources differ from it now.

Both are in one order, so they are compared as two sorted streams, a part at a time, whatever their length.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from curation.options import digest
from curation.sources.listing import Part
from curation.sources.reader import Entry
from curation.store.directory import RunDirectory
from curation.store.parts import part_path
from curation.store.schema import LISTING

STATE = "frames/_listing/state.json"
EXAMPLES = 3  # files named in a message


class Recorded(NamedTuple):
    """A file as it was listed, its place in the listing, and whether the part before its own is not there."""

    key: tuple[str, list[str]]
    size: int
    mtime_ns: int | None
    place: int
    part: int
    gap: bool


@dataclass
class Changes:
    """How sources differ from what was recorded: counts and the first names by kind, and the parts concerned."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    resized: set[int] = field(default_factory=set)  # parts with files of another size
    touched: set[int] = field(default_factory=set)  # parts with files of another time and the same size

    def note(self, kind: str, name: str = "", count: int = 1) -> None:
        """Count files of a kind, and keep the first names."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        names = self.names.setdefault(kind, [])
        if name and len(names) < EXAMPLES:
            names.append(name)

    @property
    def moved(self) -> bool:
        """Whether files were added or removed, so that parts no longer hold what they would now."""
        return bool(self.counts.get("added") or self.counts.get("removed"))

    @property
    def only_touched(self) -> bool:
        """Whether all that changed is the time of some files."""
        return bool(self.touched) and not self.moved and not self.resized

    def describe(self) -> str:
        """Return the counts with examples, as a clause."""
        texts = []
        for kind, count in self.counts.items():
            names = self.names[kind]
            more = ", ..." if count > len(names) else ""
            texts.append(f"{count} {kind}" + (f" ({', '.join(names)}{more})" if names else ""))
        return ", ".join(texts)


def listing_path(number: int) -> str:
    """The path of a part's listing."""
    return part_path("frames/_listing", number)


def record_listing(run: RunDirectory, part: Part) -> None:
    """Record what a part is made from."""
    rows = [
        {"source": entry.source, "path": entry.path, "size": entry.size, "mtime_ns": entry.mtime_ns}
        for entry in part.entries
    ]
    run.write_table(listing_path(part.number), pa.Table.from_pylist(rows, LISTING))


def state_of(parts: Iterable[str]) -> str:
    """One digest of a whole listing with its times, from those of its parts."""
    return digest(list(parts))


def recorded_listing(
    run: RunDirectory, numbers: Iterable[int], part_rows: int, absent: Collection[str]
) -> Iterator[Recorded]:
    """The files that parts were made from, in order, without those of the sources named in `absent`."""
    before = -1
    for number in numbers:
        rows = run.read_table(listing_path(number)).to_pylist()
        gap = number != before + 1
        before = number
        for place, row in enumerate(rows, number * part_rows):
            if row["source"] not in absent:
                key = row["source"], row["path"].split("/")
                yield Recorded(key, row["size"], row["mtime_ns"], place, number, gap)
                gap = False


def compare_listing(
    run: RunDirectory,
    numbers: Collection[int],
    entries: Iterable[Entry],
    part_rows: int,
    *,
    whole: bool,
    absent: Collection[str] = (),
) -> Changes:
    """Compare the listings of some parts with the sources' entries now; all entries are drawn.

    `whole` where the parts are all of a finished run. Otherwise files that were not recorded yet do not count as added,
    but a file added or removed before a part is noticed by the places of the files in it, and so is one after a short
    part, which is the last.
    """
    changes = Changes()
    past = recorded_listing(run, numbers, part_rows, absent)
    recorded = next(past, None)
    ended = whole  # whether the last recorded file was the last of the listing
    shift = 0  # files added less files removed, up to here
    for place, entry in enumerate(entries):
        key = entry.source, entry.path.split("/")
        while recorded is not None and recorded.key < key:
            changes.note("removed", "/".join(recorded.key[1]))
            shift -= 1
            ended = whole or (recorded.place + 1) % part_rows > 0
            recorded = next(past, None)
        if recorded is None or key < recorded.key:
            if ended if recorded is None else not recorded.gap:
                changes.note("added", entry.path)
                shift += 1
            continue
        if not absent and (unseen := place - recorded.place - shift):  # in parts that were not recorded
            changes.note("added" if unseen > 0 else "removed", count=abs(unseen))
            shift += unseen
        note_changed(changes, recorded, entry)
        ended = whole or (recorded.place + 1) % part_rows > 0  # only the last part is a short one
        recorded = next(past, None)
    for left in [recorded, *past] if recorded is not None else []:
        changes.note("removed", "/".join(left.key[1]))
    return changes


def note_changed(changes: Changes, recorded: Recorded, entry: Entry) -> None:
    """Note whether a file that is still there has another size or time."""
    if recorded.size != entry.size:
        changes.note("of another size", entry.path)
        changes.resized.add(recorded.part)
    elif recorded.mtime_ns != entry.mtime_ns:
        changes.note("of another time", entry.path)
        changes.touched.add(recorded.part)
