"""Names made of data stay in their folder and differ; files are put there whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.exports import folder
from curation.store.directory import RunDirectory

NASTY = st.sampled_from(["..", ".", "", "/", "//", "\\", "\0", "%", "%2E", "%2E%2E", ".tmp-", "~", "a.png", "é", " "])
PATHS = st.lists(st.one_of(NASTY, st.text(max_size=6), st.sampled_from(["x" * 250, "ü" * 200])), max_size=8).map(
    "".join
)
PATHS |= st.lists(st.one_of(NASTY, st.text(max_size=6)), max_size=6).map("/".join)
PLACES = st.tuples(PATHS, PATHS, st.none() | PATHS, st.none() | st.integers(0, 10**6))


@given(st.lists(PLACES, min_size=1, max_size=6, unique=True))
def test_names_stay_inside_are_legal_and_differ(places: list[Any]) -> None:
    names = [folder.safe_name(*place) for place in places]
    assert len(set(names)) == len(places)
    for name in names:
        assert os.path.normpath(f"/out/{name}") == f"/out/{name}", "it leads elsewhere"
        assert len(name.encode()) <= 900
        for component in name.split("/"):
            assert 0 < len(component.encode()) <= 255
            assert component not in (".", "..")
            assert not component.startswith(".tmp-")
            assert not set(component) & {"\\", "\0", "\n"}


@given(st.lists(PLACES, min_size=2, max_size=5, unique=True))
def test_no_file_is_anothers_folder(places: list[Any]) -> None:
    """With names of images, as those of frames are: an object store may hold x.png and x.png/y.png."""
    images = [(source, f"{path}.png", member, index) for source, path, member, index in places]
    names = {folder.safe_name(*place) for place in images}
    for name in names:
        parents = {name[:place] for place, char in enumerate(name) if char == "/"}
        assert not parents & names


def test_names_by_hand() -> None:
    expected = {
        ("s", "a/b.png"): "s/a/b.png",
        ("s", "a b/img- (1)#?ü.png"): "s/a b/img- (1)#?ü.png",
        ("s", "../../b.png"): "s/%2E%2E/%2E%2E/b.png",
        ("..", "b.png"): "%2E%2E/b.png",
        ("s/t", "b.png"): "s%2Ft/b.png",
        ("s", "/etc/b.png"): "s/%/etc/b.png",
        ("s", "a/./b\\c\0.png"): "s/a/%2E/b%5Cc%00.png",
        ("s", "100%.png"): "s/100%25.png",
        ("s", ".tmp-0.png"): "s/%2Etmp-0.png",
        ("s", "x.PNG/y.png"): "s/x.PNG%/y.png",
        ("s", "\udcff.png"): "s/%ED%B3%BF.png",
        ("s", "a.zip", "in/b.png"): "s/a.zip%min%2Fb.png.zip",
        ("s", "a.tif", None, 3): "s/a.tif%f3.tif",
        ("s", "a", None, 3): "s/a%f3",
    }
    assert {place: folder.safe_name(*place) for place in expected} == expected
    long = folder.safe_name("s", f"{'n' * 250}.jpeg")
    assert long == f"s/{'n' * 250}.jpeg"
    cut = folder.safe_name("s", f"{'n' * 251}.jpeg")
    assert cut.startswith("s/nnn")
    assert cut.endswith(".jpeg")
    assert len(cut) == 257
    assert len(folder.safe_name("s", "d" * 200 + ("/" + "d" * 200) * 9 + "/x.png").encode()) <= 900


ESCAPES = ["../escaped.png", "a/../../../escaped.png", "/escaped.png", "..\\escaped.png", "%2E%2E/escaped.png"]


@pytest.mark.parametrize("path", ESCAPES)
def test_nothing_is_written_outside(tmp_path: Path, path: str) -> None:
    target = RunDirectory(str(tmp_path / "out"))
    folder.place_file(target, f"images/{folder.safe_name('..', path)}", "unused", b"data", "copy")
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 1
    assert written[0].resolve().is_relative_to(tmp_path / "out/images")
    assert written[0].read_bytes() == b"data"


@pytest.mark.parametrize("where", ["images", "images/s", "images/s/deep"])
def test_a_symbolic_link_in_the_output_leads_nowhere(tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out" / where).parent.mkdir(parents=True)
    (tmp_path / "out" / where).symlink_to(outside)
    target = RunDirectory(str(tmp_path / "out"))
    with pytest.raises(ValueError, match="symbolic link; remove the link"):
        folder.place_file(target, "images/s/deep/x.png", "unused", b"data", "copy")
    assert list(outside.iterdir()) == []


def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    own.write_bytes(b"of the user")
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/images/x.png").symlink_to(own)
    folder.place_file(RunDirectory(str(tmp_path / "out")), "images/x.png", "unused", b"data", "copy")
    assert own.read_bytes() == b"of the user"
    assert not (tmp_path / "out/images/x.png").is_symlink()
    assert (tmp_path / "out/images/x.png").read_bytes() == b"data"


@pytest.mark.parametrize("before", ["nothing", "half", "other", "right", "symbolic", "hard", "dangling"])
@pytest.mark.parametrize("link", ["copy", "symbolic", "hard"])
def test_whatever_was_there_the_file_is_right_after(tmp_path: Path, before: str, link: str) -> None:
    source, to = tmp_path / "source.png", tmp_path / "out/images/x.png"
    source.write_bytes(b"data")
    to.parent.mkdir(parents=True)
    content = {"half": b"da", "other": b"atad", "right": b"data"}
    if before in content:
        to.write_bytes(content[before])
    elif before == "hard":
        os.link(source, to)
    elif before != "nothing":
        to.symlink_to(source if before == "symbolic" else tmp_path / "gone")
    folder.place_file(RunDirectory(str(tmp_path / "out")), "images/x.png", str(source), b"data", link)
    assert to.read_bytes() == b"data"
    assert to.is_symlink() == (link == "symbolic")
    if link != "copy":
        assert to.samefile(source)
    assert [file.name for file in to.parent.iterdir()] == ["x.png"]
    stat = to.lstat()
    folder.place_file(RunDirectory(str(tmp_path / "out")), "images/x.png", str(source), b"data", link)
    assert to.lstat() == stat, "what is right is left alone"


def test_a_hard_link_of_a_symbolic_link_is_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "annex").write_bytes(b"data")
    (tmp_path / "x.png").symlink_to("annex")
    folder.place_file(RunDirectory(str(tmp_path / "out")), "images/x.png", str(tmp_path / "x.png"), b"data", "hard")
    assert (tmp_path / "out/images/x.png").samefile(tmp_path / "annex")
    assert not (tmp_path / "out/images/x.png").is_symlink()


def test_foreign_files_are_named_and_half_written_ones_go(run: RunDirectory) -> None:
    for name in ("s/a.png", "s/deep/b.png", "s/.tmp-0123", "t/c.png", "note.txt"):
        run.write_bytes(f"images/{name}", b"x")
    keys = np.sort(folder.name_keys(["s/a.png", "s/deep/b.png"], folded=False))
    assert folder.foreign_files(run, "images", keys) == ["note.txt", "t/c.png"]
    assert run.names("images/s") == ["a.png"]
    every = np.sort(folder.name_keys(["s/a.png", "s/deep/b.png", "t/c.png", "note.txt"], folded=False))
    assert folder.foreign_files(run, "images", every) == []
    assert folder.foreign_files(run, "nothing", every) == []
    assert folder.name_keys([], folded=False).tolist() == []


def test_folded_keys_are_equal_where_case_is_ignored() -> None:
    one, other = "s/É.png", "s/e\u0301.PNG"
    assert len(set(folder.name_keys([one, other], folded=True).tolist())) == 1
    assert len(set(folder.name_keys([one, other], folded=False).tolist())) == 2


def test_in_object_storage_what_is_right_is_left_alone_and_nothing_is_linked(run: RunDirectory) -> None:
    if run.filesystem.type_name == "local":
        pytest.skip("for object storage")
    name = f"images/{folder.safe_name('s', '../../x.png')}"
    for before in (b"", b"atad", b"data"):
        run.write_bytes(name, before)
        folder.place_file(run, name, "unused", b"data", "copy")
        assert run.read_bytes("images/s/%2E%2E/%2E%2E/x.png") == b"data"
    with pytest.raises(ValueError, match="use --link copy"):
        folder.place_file(run, name, "/x.png", b"data", "hard")
