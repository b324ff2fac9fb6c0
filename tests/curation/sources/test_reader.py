import io
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.frames import decoding, frame
from curation.frames.further import FURTHER
from curation.sources import lineage, listing, reader
from curation.sources.config import LINEAGE, IngestConfig
from curation.store import schema

TREE = (
    "a/images/1.jpg",
    "a/images/2.PNG",
    "a/masks/1.jpg",
    "a/x.jpeg",
    "a b/images/ü.webp",
    "a-b/1.bmp",
    "b/deep/images/x.tiff",
    "c/.hidden.jpg",
    "images/0.tif",
)
OTHERS = (".jpg", "a/video.mp4", "b.txt", "c/notes.TXT", "noext", "images.tar.gz")


def plant(root: Path, paths: tuple[str, ...] = TREE + OTHERS) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * len(path))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "tree")


def listed(*source: Any, **values: Any) -> listing.Listing:
    return listing.Listing(IngestConfig(run_dir="unused", source=tuple(map(str, source)), **values))


def paths(*source: Any, **values: Any) -> list[str]:
    return [entry.path for entry in listed(*source, **values)]


def test_a_tree_is_listed_by_path_components_with_the_rest_counted_by_kind(tree: Path) -> None:
    found = listed(tree)
    entries = list(found)
    assert [entry.path for entry in entries] == sorted(TREE, key=lambda path: path.split("/"))
    assert [entry.size for entry in entries] == [len(entry.path) for entry in entries]
    assert {entry.source for entry in entries} == {"tree"}
    assert all(Path(entry.uri).samefile(tree / entry.path) for entry in entries)
    assert found.skipped == {"no suffix": 2, ".mp4": 1, ".txt": 2, ".gz": 1}
    assert (found.listed, found.excluded) == (9, 0)
    assert found.describe_skipped() == "skipped 6 files of other kinds (1 .gz, 1 .mp4, 2 .txt, 2 no suffix)"


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ({"include": ("**/images/*",)}, {"a/images/1.jpg", "a/images/2.PNG", "a b/images/ü.webp", TREE[6], TREE[8]}),
        ({"include": ("*.jpg",)}, {"a/images/1.jpg", "a/masks/1.jpg", "c/.hidden.jpg"}),
        ({"include": ("images/*",)}, {"images/0.tif"}),
        ({"include": ("a/**",)}, {"a/images/1.jpg", "a/images/2.PNG", "a/masks/1.jpg", "a/x.jpeg"}),
        ({"include": ("*.{bmp,webp}",)}, {"a-b/1.bmp", "a b/images/ü.webp"}),
        ({"include": ("*.bmp", "*.tiff")}, {"a-b/1.bmp", "b/deep/images/x.tiff"}),
        ({"exclude": ("**/images/*",)}, {"a/masks/1.jpg", "a/x.jpeg", "a-b/1.bmp", "c/.hidden.jpg"}),
        ({"include": ("a/**",), "exclude": ("**/masks/*", "*.PNG")}, {"a/images/1.jpg", "a/x.jpeg"}),
    ],
)
def test_globs(tree: Path, globs: dict[str, tuple[str, ...]], expected: set[str]) -> None:
    found = listed(tree, **globs)
    assert {entry.path for entry in found} == expected
    assert found.listed + found.excluded + found.skipped.total() == len(TREE + OTHERS)


def test_what_globs_exclude_is_not_counted_as_another_kind(tree: Path) -> None:
    found = listed(tree, include=("**/images/*",))
    assert len(list(found)) == 5
    assert (found.skipped.total(), found.excluded) == (0, 10)


def identities(*source: Any) -> list[str]:
    return [frame.frame_id(entry.source, entry.path) for entry in listed(*source)]


def test_identity_does_not_depend_on_place_or_order(tmp_path: Path) -> None:
    here = plant(tmp_path / "here" / "frames")
    there = plant(tmp_path / "there" / "frames", tuple(reversed(TREE)))
    assert identities(here) == identities(there) == identities(f"frames={here}") == identities(f"{here}/")
    assert not set(identities(here)) & set(identities(f"other={here}"))
    other = plant(tmp_path / "other", ("z.jpg",))
    assert identities(here, other) == identities(other, here)
    assert [entry.source for entry in listed(other, here)] == ["frames"] * 9 + ["other"]


@given(
    st.lists(
        st.tuples(st.text(max_size=6), st.text(max_size=6), st.none() | st.text(min_size=1, max_size=6)), max_size=9
    )
)
def test_frame_ids_differ_where_places_do(places: list[tuple[str, str, str | None]]) -> None:
    places = [place for place in set(places) if not any("\0" in (text or "") for text in place)]
    ids = {frame.frame_id(*place) for place in places}
    ids |= {frame.frame_id(*place, frame_index=index) for place in places for index in (0, 7)}
    assert len(ids) == 3 * len(places)
    assert all(len(bytes.fromhex(frame_id)) == 16 for frame_id in ids)


def test_frame_id_stays_what_it_is() -> None:
    """Ids are in users' tables: a change of this value orphans them."""
    assert frame.frame_id("s", "a/1.jpg") == "41e30c6ea37e47db7403fa56e46e9334"  # BLAKE2b of 16 bytes
    assert frame.content_hash(b"abc") == "cf4ab791c62b8d2b2109c90275287816"


def test_sources_are_named_and_sorted(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    texts = (f"{tree}/", f"zz={tree}", f"first.one-2={tree}/a", f"{tmp_path}/a=b")
    assert [(source.name, source.uri) for source in reader.parse_sources(texts)] == [
        ("a=b", f"{tmp_path}/a=b"),
        ("first.one-2", f"{tree}/a"),
        ("tree", str(tree)),
        ("zz", str(tree)),
    ]


def test_sources_that_cannot_be_read_are_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="source /nowhere/at/all does not exist"):
        reader.check_there(reader.parse_sources(("/nowhere/at/all",)))
    with pytest.raises(ValueError, match=r"b.txt is not a folder"):
        reader.check_there(reader.parse_sources((f"{tree}/b.txt",)))
    with pytest.raises(ValueError, match=r"two sources are named 'tree' .* give each a name of its own with NAME=PATH"):
        reader.parse_sources((str(tree), f"tree={tree}/a"))
    with pytest.raises(ValueError, match="no file system is known for zzz://"):
        reader.parse_sources(("zzz://bucket/x",))


def test_a_source_in_memory(tree: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe({"/source/a/1.jpg": b"abc", "/source/0.png": b"abcd", "/source/t.txt": b""})
    entries = list(listed("memory://source"))
    assert [(entry.source, entry.path, entry.size) for entry in entries] == [
        ("source", "0.png", 4),
        ("source", "a/1.jpg", 3),
    ]
    assert [frame.read_bytes(entry.uri) for entry in entries] == [b"abcd", b"abc"]
    system.rm("/source", recursive=True)


def test_nothing_found_says_what_was_there(tree: Path) -> None:
    found_nothing = IngestConfig(run_dir="unused", source=(str(tree),), include=("*.mp4", "*.txt"))
    found = listing.Listing(found_nothing)
    assert list(found) == []
    message = (
        r"no image found in .*tree: 13 files excluded by the globs, skipped 2 files of other kinds \(1 .mp4, 1 .txt\)"
    )
    with pytest.raises(ValueError, match=message + ".*expected at least one of .jpg .jpeg .jpe .jfif .png"):
        found.check_found()
    with pytest.raises(ValueError, match="no image found"):
        listing.count_files(found_nothing)
    assert listing.count_files(IngestConfig(run_dir="unused", source=(str(tree),), include=("*.jpg",))).listed == 3


def test_parts_are_consecutive_and_their_digest_is_of_what_is_listed(tmp_path: Path) -> None:
    here, there = plant(tmp_path / "here" / "s"), plant(tmp_path / "there" / "s")
    parts = list(listed(here).parts(4))
    assert [(part.number, len(part.entries)) for part in parts] == [(0, 4), (1, 4), (2, 1)]
    assert [entry for part in parts for entry in part.entries] == list(listed(here))
    digests = [part.digest for part in parts]
    assert [part.digest for part in listed(there).parts(4)] == digests
    (there / "a-b/1.bmp").write_bytes(b"longer than before")  # the second of the second part
    changed = [part.digest for part in listed(there).parts(4)]
    assert [before == after for before, after in zip(digests, changed, strict=True)] == [True, False, True]
    assert [part.digest for part in listed(f"t={here}").parts(4)] != digests
    assert [part.number for part in listed(here).parts(9)] == [0]
    assert len(set(digests)) == 3


def test_addresses_of_a_relative_source_hold_from_elsewhere(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = next(iter(listed("tree")))
    monkeypatch.chdir(os.sep)
    assert frame.read_bytes(entry.uri) == b"x" * len(entry.path)


def test_lineage_by_hand() -> None:
    read = lineage.Lineage(r"(?P<center>[A-Z]+)/(?P<patient>p\d+)/(?:(?P<view>retro|ante)_)?(?P<number>\d+)")
    assert read.metadata == ("view", "number")
    assert read.of("x/OSLO/p12/retro_7.jpg") == {
        "center": "OSLO",
        "patient": "p12",
        "procedure": None,
        "view": "retro",
        "number": "7",
    }
    assert read.of("OSLO/p12/7.jpg")["view"] is None
    assert read.of("elsewhere.jpg") == dict.fromkeys([*LINEAGE, "view", "number"])
    assert lineage.Lineage(None).of("OSLO/p12/7.jpg") == dict.fromkeys(LINEAGE)
    assert lineage.Lineage(None).metadata == ()


@pytest.mark.parametrize("taken", ["path", "frame_id", "width", "copy_of"])
def test_lineage_refuses_the_names_of_our_columns(taken: str) -> None:
    with pytest.raises(ValueError, match=rf"named like built-in columns: \['{taken}'\]"):
        lineage.Lineage(f"(?P<patient>p)(?P<{taken}>x)")


@pytest.mark.parametrize("taken", ["cluster", "centroid_distance", "image"])
def test_lineage_refuses_the_names_that_export_adds(taken: str) -> None:
    with pytest.raises(ValueError, match="named like built-in columns"):
        lineage.Lineage(f"(?P<patient>p)(?P<{taken}>x)")


def test_lineage_refuses_bad_patterns() -> None:
    with pytest.raises(ValueError, match=r"is not a regular expression: .*position 0"):
        lineage.Lineage("(")
    with pytest.raises(ValueError, match="has no named group; write for example"):
        lineage.Lineage(r"p\d+")


@pytest.fixture
def picture(tmp_path: Path) -> reader.Entry:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    file = tmp_path / "p1" / "x.png"
    file.parent.mkdir()
    file.write_bytes(stream.getvalue())
    return reader.Entry("s", "p1/x.png", str(file), len(stream.getvalue()))


def test_a_frames_row(picture: reader.Entry) -> None:
    row = frame.frame_row(picture, lineage.Lineage(r"(?P<patient>p\d)/(?P<name>\w+)"), 1200)
    data = Path(picture.uri).read_bytes()
    assert row.pop(FURTHER) == 0
    assert row == {
        "frame_id": frame.frame_id("s", "p1/x.png"),
        "source": "s",
        "uri": picture.uri,
        "path": "p1/x.png",
        "content_hash": frame.content_hash(data),
        "byte_size": len(data),
        "width": 40,
        "height": 30,
        "center": None,
        "patient": "p1",
        "procedure": None,
        "name": "x",
    }
    assert set(row) <= set(schema.frames(("name",)).names)


def test_a_rejected_row_keeps_the_frames_identity(picture: reader.Entry) -> None:
    with pytest.raises(decoding.FrameError) as caught:
        frame.frame_row(picture, lineage.Lineage(None), 1199)
    row = frame.rejected_row(picture.source, picture.uri, picture.path, "ingest", caught.value)
    assert row == {
        "frame_id": frame.frame_id("s", "p1/x.png"),
        "source": "s",
        "uri": picture.uri,
        "path": "p1/x.png",
        "step": "ingest",
        "reason": "too large",
        "message": "40 x 30 pixels, more than 1199",
        "replaced_by": None,
    }
    assert list(row) == schema.REJECTED.names


def test_a_file_that_has_gone_is_missing(picture: reader.Entry) -> None:
    Path(picture.uri).unlink()
    with pytest.raises(decoding.FrameError) as caught:
        frame.frame_row(picture, lineage.Lineage(None), 1200)
    assert caught.value.reason == "missing"
    assert picture.uri in caught.value.message
