"""How sources differ from what a run was listed from: the merge of two sorted streams against plain sets."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.sources import changes
from curation.sources.listing import Part
from curation.sources.reader import Entry
from curation.store.directory import RunDirectory

FILES = st.dictionaries(
    st.sampled_from(["a", "a/b", "a-b", "b", "b/a/c", "b/b", "b.c", "c", "d", "d/d", "e", "ö"]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
)


def entries_of(files: dict[str, tuple[int, int]]) -> list[Entry]:
    ordered = sorted(files.items(), key=lambda item: item[0].split("/"))
    return [Entry("s", path, f"/{path}", size, time) for path, (size, time) in ordered]


def recorded(folder: Path, files: dict[str, tuple[int, int]], rows: int) -> tuple[RunDirectory, list[Part]]:
    run, entries = RunDirectory(str(folder)), entries_of(files)
    starts = range(0, len(entries), rows)
    parts = [Part(number, tuple(entries[start : start + rows])) for number, start in enumerate(starts)]
    for part in parts:
        changes.record_listing(run, part)
    return run, parts


@settings(max_examples=100, deadline=None)
@given(before=FILES, after=FILES, rows=st.integers(1, 5))
def test_a_finished_listing_is_compared_exactly(
    tmp_path_factory: object, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], rows: int
) -> None:
    run, parts = recorded(tmp_path_factory.mktemp("run"), before, rows)  # type: ignore[attr-defined]
    found = changes.compare_listing(run, range(len(parts)), entries_of(after), rows, whole=True)
    both = [(before[path], after[path]) for path in before.keys() & after.keys()]
    expected = {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "of another size": sum(old[0] != new[0] for old, new in both),
        "of another time": sum(old[0] == new[0] and old[1] != new[1] for old, new in both),
    }
    assert found.counts == {kind: count for kind, count in expected.items() if count}
    assert found.moved == (before.keys() != after.keys())


@settings(max_examples=100, deadline=None)
@given(before=FILES, after=FILES, rows=st.integers(1, 3), data=st.data())
def test_parts_of_a_killed_run_are_kept_only_where_they_are_what_they_would_be(
    tmp_path_factory: object,
    before: dict[str, tuple[int, int]],
    after: dict[str, tuple[int, int]],
    rows: int,
    data: st.DataObject,
) -> None:
    """Whatever came or went, also in parts that were not written yet."""
    run, parts = recorded(tmp_path_factory.mktemp("run"), before, rows)  # type: ignore[attr-defined]
    there = [part.number for part in parts if data.draw(st.booleans())]
    found = changes.compare_listing(run, there, entries_of(after), rows, whole=False)
    now = entries_of(after)
    again = {number: tuple(now[number * rows : (number + 1) * rows]) for number in there}
    wrong = {number for number in there if again[number] != parts[number].entries}
    if found.moved:
        assert before.keys() != after.keys()
    else:
        assert wrong == found.resized | found.touched


def test_what_is_told() -> None:
    found = changes.Changes()
    for name in "abcd":
        found.note("added", name)
    found.note("removed", "x")
    found.note("removed", count=2)
    assert found.describe() == "4 added (a, b, c, ...), 3 removed (x, ...)"
    assert not found.only_touched
