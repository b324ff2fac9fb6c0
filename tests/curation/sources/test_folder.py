"""Folder trees as people have them: links, leftovers of operating systems, special files, and names of all kinds."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from curation.frames import decoding, frame
from curation.sources import listing
from curation.sources.config import IngestConfig
from curation.sources.folder import is_leftover
from curation.sources.lineage import Lineage

NAMES = (
    "img- (1).png",
    "a#b.png",
    "a%20b.png",
    "a%2fb.png",
    "a?b.png",
    "a+b.png",
    "a,b.png",
    "a=b.png",
    "a:b@c.png",
    "[1].png",
    "{x,y}.png",
    "-x.png",
    " lead.png",
    "trail .png",
    "x..png",
    "tab\tx.png",
    "new\nline.png",
    "q'uote\".png",
    "back\\slash.png",
    "Hoehe_\u00f6.png",
    "Hoehe_o\u0308.png",
    "\u5185\u955c_001.png",
    "\u05e9\u05dc\u05d5\u05dd.png",
    "polyp_\U0001f52c.png",
    "n" * 236 + ".png",
    "s3:x.png",
    "~.png",
    "$HOME.png",
    "*.png",
    ".hidden.png",
)


def listed(*source: Any, **values: Any) -> listing.Listing:
    return listing.Listing(IngestConfig(run_dir="unused", source=tuple(map(str, source)), **values))


def paths(*source: Any, **values: Any) -> list[str]:
    return [entry.path for entry in listed(*source, **values)]


def plant(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("below", ["plain", "#Model_Weights", "a=b", "100%", "what?", " space ", "s3:"])
def test_every_name_is_listed_and_read(tmp_path: Path, below: str) -> None:
    tree = plant(tmp_path / below, *NAMES)
    entries = list(listed(tree))
    assert sorted(entry.path for entry in entries) == sorted(NAMES)
    assert {entry.path: frame.read_bytes(entry.uri) for entry in entries} == {name: name.encode() for name in NAMES}
    assert not any(entry.problem for entry in entries)


def test_a_name_that_is_not_utf8_is_one_rejected_row(tmp_path: Path) -> None:
    plant(tmp_path, "x.png")
    bad = os.fsencode(tmp_path) + b"/H\xf6he"
    os.mkdir(bad)
    for name in (b"1.png", b"\xff.png", b"notes.txt"):
        Path(os.fsdecode(bad + b"/" + name)).write_bytes(b"1")
    entries = list(listed(tmp_path))
    assert [entry.path for entry in entries] == ["H\\xf6he/1.png", "H\\xf6he/\\xff.png", "x.png"]
    assert [entry.problem and entry.problem[0] for entry in entries] == ["name is not UTF-8"] * 2 + [None]
    with pytest.raises(decoding.FrameError) as caught:
        frame.frame_row(entries[0], Lineage(None), 1200)
    assert caught.value.reason == "name is not UTF-8"
    row = frame.rejected_row("s", entries[0].uri, entries[0].path, "ingest", caught.value)
    assert row["uri"] == f"{tmp_path}/H\\xf6he/1.png"


def test_links_to_nothing_are_listed_with_what_to_do(tmp_path: Path) -> None:
    plant(tmp_path, "x.png")
    targets = {"annex.png": ".git/annex/objects/k/k.png", "gone.png": "/mnt/away/1.png", "notes.txt": "nowhere"}
    targets |= {"one.png": "two.png", "two.png": "one.png", "through.png": "x.png/y.png", "disk": "/mnt/away"}
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    found = listed(tmp_path)
    problems = {entry.path: entry.problem for entry in found}
    assert {path: problem and problem[0] for path, problem in problems.items()} == {
        **dict.fromkeys(["annex.png", "gone.png", "one.png", "through.png", "two.png"], "link to nothing"),
        "x.png": None,
    }
    assert "git annex get" in str(problems["annex.png"])
    assert ".git/annex/objects/k/k.png" in str(problems["annex.png"])
    assert "/mnt/away/1.png" in str(problems["gone.png"])
    assert found.skipped == {"link to nothing": 2}
    assert "2 links lead to nothing" in found.warnings()[0]
    assert "disk" in found.warnings()[0]


def test_what_systems_leave_is_passed_over_and_counted(tmp_path: Path) -> None:
    plant(tmp_path, *(f"Original/{k}.png" for k in range(3)))
    plant(tmp_path, *(f"{folder}/._{k}.png" for k in range(3) for folder in ("Original", "__MACOSX/Original")))
    plant(tmp_path, "Original/.DS_Store", "Thumbs.db", "desktop.ini", "~$report.png", ".nfs0000.png", ".~lock.x.png#")
    plant(tmp_path, "$RECYCLE.BIN/1.png", "@eaDir/1.png/THUMB.jpg", ".git/annex/objects/1.png", "lost+found/1.png")
    plant(tmp_path, ".ipynb_checkpoints/1.png", "System Volume Information/1.png")
    found = listed(tmp_path, include=("**/*.png",))
    assert [entry.path for entry in found] == [f"Original/{k}.png" for k in range(3)]
    assert found.passed.leftovers.pop("AppleDouble") == 6
    kinds = [".DS_Store", "Thumbs.db", "desktop.ini", "~$...", ".nfs...", ".~lock...", "$RECYCLE.BIN", "@eaDir"]
    kinds += [".git", "lost+found", ".ipynb_checkpoints", "System Volume Information"]
    assert found.passed.leftovers == dict.fromkeys(kinds, 1)
    assert "passed over 12 leftovers of operating systems and tools (1 $RECYCLE.BIN, " in found.describe_skipped()
    assert found.skipped.total() == 0


@pytest.mark.parametrize("name", ["._x.png", "THUMBS.DB", ".ds_store", "Icon\r", "x_$folder$", ".Trash-1000", ".SVN"])
def test_leftovers(name: str) -> None:
    assert is_leftover(name) is not None


@pytest.mark.parametrize("name", [".hidden.png", "_x.png", "git", "thumbs.db.png", "..png", "$x.png", "~x.png", "nfs"])
def test_names_that_are_nobodys_leftovers(name: str) -> None:
    assert is_leftover(name) is None


def test_special_files_are_never_opened(tmp_path: Path) -> None:
    plant(tmp_path, "x.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's name is short
        try:
            one.bind("s.png")
        finally:
            os.chdir(here)
        found = listed(tmp_path)
        assert [entry.path for entry in found] == ["x.png"]
    assert found.passed.special == {"named pipe": 1, "device": 1, "socket": 1}


def counts(found: listing.Listing) -> tuple[list[str], int, list[str]]:
    return [entry.path for entry in found], found.passed.links, found.passed.loops


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    plant(tmp_path / "src", "a/1.png", "2.png")
    (tmp_path / "src/again").symlink_to(".")
    (tmp_path / "src/a/up").symlink_to("..")
    (tmp_path / "src/a/out").symlink_to(tmp_path)
    names, links, loops = counts(listed(tmp_path / "src"))
    assert names == ["2.png", "a/1.png"]
    assert links == 0
    assert loops == ["a/out/src", "a/up", "again"]


@pytest.mark.parametrize(("real", "link"), [("a", "z"), ("z", "a")])
def test_a_view_by_links_lists_each_file_by_its_real_path(tmp_path: Path, real: str, link: str) -> None:
    """Whichever is met first; a link to a file too."""
    plant(tmp_path, *(f"{real}/{k}.png" for k in range(4)))
    (tmp_path / link).mkdir()
    (tmp_path / link / "p0").symlink_to(f"../{real}")
    (tmp_path / link / "1.png").symlink_to(f"../{real}/1.png")
    names, links, loops = counts(listed(tmp_path))
    assert (names, links, loops) == ([f"{real}/{k}.png" for k in range(4)], 5, [])
    assert paths(tmp_path, include=(f"{link}/**",)) == [f"{link}/1.png", *(f"{link}/p0/{k}.png" for k in range(4))]


def test_links_out_of_the_source_are_frames_of_their_own(tmp_path: Path) -> None:
    plant(tmp_path, "src/0.png", "all/1.png", "all/2.png", "all/deep/3.png")
    for name in ("p0", "p1"):
        (tmp_path / "src" / name).symlink_to("../all")
    (tmp_path / "src/x.png").symlink_to("../all/1.png")
    names, links, _ = counts(listed(tmp_path / "src"))
    assert names == ["0.png", "p0/1.png", "p0/2.png", "p0/deep/3.png", "x.png"]
    assert links == 3
    assert paths(tmp_path / "src", include=("p1/**",)) == ["p1/1.png", "p1/2.png", "p1/deep/3.png"]


def test_a_link_to_what_is_not_listed_itself_is_listed(tmp_path: Path) -> None:
    """As git-annex keeps files below .git, and caches keep them without a suffix."""
    plant(tmp_path, ".git/annex/objects/k1/k1.png", "blobs/0123")
    (tmp_path / "annexed.png").symlink_to(".git/annex/objects/k1/k1.png")
    (tmp_path / "cached.png").symlink_to("blobs/0123")
    names, links, _ = counts(listed(tmp_path))
    assert (names, links) == (["annexed.png", "cached.png"], 0)


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for k in range(9):
        plant(tmp_path / "far", f"{k}/{k}.png")
        for other in range(9):
            (tmp_path / f"far/{k}/to{other}").symlink_to(f"../{other}")
    plant(tmp_path, "src/x.png")
    (tmp_path / "src/in").symlink_to("../far/0")
    names = paths(tmp_path / "src")
    assert len(names) == 10
    assert paths(tmp_path / "far") == [f"{k}/{k}.png" for k in range(9)]


def test_cases_of_letters_are_told(tmp_path: Path) -> None:
    plant(tmp_path, "1.jpg", "2.JPG", "3.Jpg", "4.png", "notes.TXT")
    found = listed(tmp_path, include=("*.jpg",))
    assert [entry.path for entry in found] == ["1.jpg"]
    assert found.excluded == 4
    [told] = found.warnings()
    assert told.startswith("2 image files differ from --include or --exclude by upper and lower case only (2.JPG, 3.Jp")
    found = listed(tmp_path, exclude=("*.JPG",))
    assert [entry.path for entry in found] == ["1.jpg", "3.Jpg", "4.png"]
    assert "2 image files differ" in found.warnings()[0]
    found = listed(tmp_path)
    assert len(list(found)) == 4
    assert found.warnings() == []
    with pytest.raises(ValueError, match=r"no image found .* 1 image files differ .*4.png"):
        listing.count_files(IngestConfig(run_dir="unused", source=(str(tmp_path),), include=("*.PNG",)))


@pytest.mark.parametrize(
    ("content", "todo"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "Git LFS: run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--1.png\n", "git-annex: run `git annex get`"),
    ],
)
def test_pointers_are_named(tmp_path: Path, content: bytes, todo: str) -> None:
    plant(tmp_path, "x.png")
    (tmp_path / "x.png").write_bytes(content)
    [entry] = listed(tmp_path)
    with pytest.raises(decoding.FrameError) as caught:
        frame.frame_row(entry, Lineage(None), 1200)
    assert caught.value.reason == "pointer to a file elsewhere"
    assert todo in caught.value.message
