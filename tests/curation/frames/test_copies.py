"""Exact copies by hand: who is whose copy, the index, the fate of copies, and against brute force."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.frames import copies
from curation.frames.frame import content_hash
from curation.store import schema
from curation.store.directory import RunDirectory

PARTS = ["aab", "ca", "", "bd"]  # the content of each frame, by part


def frame(number: int, row: int) -> str:
    return f"{number:016x}{row:016x}"


def content(letter: str) -> str:
    return content_hash(letter.encode())


@pytest.fixture
def marked(run: RunDirectory) -> RunDirectory:
    """frames/ of PARTS, marked as ingest marks them."""
    for number, letters in enumerate(PARTS):
        rows = [
            {"frame_id": frame(number, row), "source": "s", "uri": f"u{number}{row}", "path": f"p{number}{row}"}
            | {"content_hash": content(letter), "byte_size": 1}
            for row, letter in enumerate(letters)
        ]
        run.write_table(f"frames/part-{number:06d}.parquet", pa.Table.from_pylist(rows, schema.FRAMES))
    mark(run)
    return run


def mark(run: RunDirectory) -> copies.Marks:
    parts = run.parts("frames")
    hashed = {number: copies.hash_prefixes(run, path) for number, path in parts.items()}
    prefixes = copies.repeated([prefix for prefix, _ in hashed.values()])
    marks = copies.mark({number: copies.repeated_rows(run, path, prefixes) for number, path in parts.items()})
    for number, (_, before) in hashed.items():
        if before or number in marks.copy_of:
            copies.write_copies(run, parts[number], marks.copy_of.get(number, {}))
    copies.write_index(run, marks.index)
    return marks


def copy_of(run: RunDirectory) -> list[list[str | None]]:
    return [run.read_table(path)["copy_of"].to_pylist() for path in run.parts("frames").values()]


def test_the_first_of_equal_frames_is_the_original(marked: RunDirectory) -> None:
    a, b = frame(0, 0), frame(0, 2)
    assert copy_of(marked) == [[None, a, None], [None, a], [], [b, None]]
    listed = marked.read_table(copies.INDEX)
    assert listed.schema == schema.COPIES
    expected = [(content("a"), 0, 0), (content("a"), 0, 1), (content("a"), 1, 1), (content("b"), 0, 2)]
    expected += [(content("b"), 3, 0)]
    assert [tuple(row.values())[:3] for row in listed.to_pylist()] == sorted(expected)


def test_members_come_in_the_order_of_the_tables(marked: RunDirectory) -> None:
    found = list(copies.members(marked, content("a")))
    assert [row["frame_id"] for row in found] == [frame(0, 0), frame(0, 1), frame(1, 1)]
    assert found[2] == {"frame_id": frame(1, 1), "source": "s", "uri": "u11", "path": "p11"}
    assert list(copies.members(marked, content("c"))) == []
    assert list(copies.uris(marked, "u01", content("a"))) == ["u01", "u00", "u11"]
    assert list(copies.uris(marked, "u10", content("c"))) == ["u10"]


def test_marks_of_an_earlier_call_do_not_stay(marked: RunDirectory) -> None:
    path = marked.parts("frames")[0]
    marked.write_table(path, marked.read_table(path).slice(2, 1))  # as if both were gone when the part was read again
    mark(marked)
    assert copy_of(marked) == [[None], [None, None], [], [frame(0, 2), None]]
    marked.write_table(path, marked.read_table(path).slice(0, 0))
    mark(marked)
    assert copy_of(marked) == [[], [None, None], [], [None, None]]
    assert not marked.exists(copies.INDEX)


def rejected(*rows: tuple[str, str, str | None]) -> pa.Table:
    blank = dict.fromkeys(schema.REJECTED.names, "x")
    made = [blank | {"frame_id": name, "reason": reason, "replaced_by": by} for name, reason, by in rows]
    return pa.Table.from_pylist(made, schema.REJECTED)


def copies_of(run: RunDirectory) -> dict[str, str]:
    """because_of of each exact copy."""
    known = copies.read_replacements(run)
    tables = [copies.copies_in(run.read_table(path), known) for path in run.parts("frames").values()]
    return {row["frame_id"]: row["because_of"] for table in tables for row in table.to_pylist()}


def test_copies_of_an_original_and_of_what_took_its_place(marked: RunDirectory) -> None:
    a, replacement, last, b = frame(0, 0), frame(0, 1), frame(1, 1), frame(0, 2)
    assert copies_of(marked) == {replacement: a, last: a, frame(3, 0): b}
    marked.write_table("rejected/part-000000-embed.parquet", rejected((a, "missing", replacement)))
    assert copies_of(marked) == {last: replacement, frame(3, 0): b}
    tried = rejected((a, "missing", last), (replacement, "changed since ingest", last), (b, "corrupt", None))
    marked.write_table("rejected/part-000000-embed.parquet", copies.with_their_copies(marked, 0, tried))
    assert copies_of(marked) == {}


def test_what_is_wrong_with_bytes_is_wrong_with_their_copies(marked: RunDirectory) -> None:
    a, replacement, last, b = frame(0, 0), frame(0, 1), frame(1, 1), frame(0, 2)
    bad = rejected((a, "not finite", None), (b, "missing", None))
    found = copies.with_their_copies(marked, 0, bad).to_pylist()
    assert [(row["frame_id"], row["reason"]) for row in found[2:]] == [
        (replacement, "not finite"),
        (last, "not finite"),
    ]
    assert (found[3]["uri"], found[3]["path"]) == ("u11", "p11")
    promoted = rejected((a, "missing", last), (replacement, "missing", last), (last, "not finite", None))
    assert copies.with_their_copies(marked, 0, promoted).equals(promoted)
    promoted = rejected((a, "missing", replacement), (replacement, "not finite", None))
    found = copies.with_their_copies(marked, 0, promoted).to_pylist()
    assert [row["frame_id"] for row in found] == [a, replacement, last]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=5))
def test_marks_against_brute_force(parts: list[list[str]]) -> None:
    found: dict[int, Any] = {
        number: [(content(letter), frame(number, row), row) for row, letter in enumerate(letters)]
        for number, letters in enumerate(parts)
    }
    flat = [(letter, frame(number, row)) for number, letters in enumerate(parts) for row, letter in enumerate(letters)]
    expected = {
        name: next(first for other, first in flat if other == letter)
        for place, (letter, name) in enumerate(flat)
        if letter in [other for other, _ in flat[:place]]
    }
    marks = copies.mark(found)
    assert {name: first for of_part in marks.copy_of.values() for name, first in of_part.items()} == expected
    letters = [letter for letter, _ in flat]
    assert len(marks.index) == sum(letters.count(letter) > 1 for letter in letters)
    assert marks.index["content_hash"].to_pylist() == sorted(marks.index["content_hash"].to_pylist())
