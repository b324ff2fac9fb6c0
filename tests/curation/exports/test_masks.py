"""A rule names the mask of a frame below the same source, wherever that is; what it cannot name it says."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.exports import masks
from curation.exports.config import ExportConfig, mask_rule
from curation.store.filesystems import absolute, below

RULE = r"images/(.*)\.jpg=>masks/\1.png"
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name.strip(".") != ""
)


def row(folder: Path | str, path: str) -> dict[str, Any]:
    return {"frame_id": "0" * 32, "uri": below(absolute(str(folder)), path), "path": path}


def test_by_hand() -> None:
    assert masks.mask_path(RULE, "a/images/b c#1.jpg") == "a/masks/b c#1.png"
    assert masks.mask_path(RULE, "a/images/b.png") is None
    assert masks.mask_path("images=>masks", "images/images/x.png") == "masks/masks/x.png"
    assert masks.mask_path(r"\.jpg$=>_mask.jpg", "x.jpg") == "x_mask.jpg"
    assert masks.mask_path("jpg=>jpg", "x.jpg") is None
    assert masks.mask_path("x=>a/./b/../c", "x.jpg") == "a/c.jpg"


@pytest.mark.parametrize("rule", ["^=>/", "images=>..", "^=>../", "images=>a/../../..", ".*=>"])
def test_no_mask_is_outside_the_source(rule: str) -> None:
    with pytest.raises(ValueError, match="is not below the frame's source; give another rule"):
        masks.mask_path(rule, "images/x.jpg")


@pytest.mark.parametrize("root", ["/data/a b%20", "s3://bucket/a%20b?region=eu", "s3://bucket", "memory://x"])
@given(parts=st.lists(NAMES, min_size=1, max_size=3), mask=st.lists(NAMES, min_size=1, max_size=3))
def test_a_mask_is_where_the_source_would_put_it(root: str, parts: list[str], mask: list[str]) -> None:
    """Names with spaces, '#', '%', '?' and any other character, on disk and in object storage."""
    path, wanted = "/".join(parts), "/".join(mask)
    source = absolute(root)
    assert masks.mask_uri(below(source, path), path, wanted) == below(source, wanted)


def test_bytes_or_none(tmp_path: Path) -> None:
    for name in ("images/ü #1.jpg", "masks/ü #1.png", "images/b.jpg", "images/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "masks/c.png").mkdir()
    assert masks.read_mask(RULE, row(tmp_path, "images/ü #1.jpg")) == "masks/ü #1.png".encode()
    assert masks.has_mask(RULE, row(tmp_path, "images/ü #1.jpg"))
    assert masks.read_mask(RULE, row(tmp_path, "images/b.jpg")) is None
    assert not masks.has_mask(RULE, row(tmp_path, "images/b.jpg"))
    assert masks.read_mask(RULE, row(tmp_path, "other/b.jpg")) is None
    assert not masks.has_mask(RULE, row(tmp_path, "images/c.jpg"))
    with pytest.raises(ValueError, match=r"the mask of frame 0+ cannot be used: .*masks/c\.png: unreadable"):
        masks.read_mask(RULE, row(tmp_path, "images/c.jpg"))


@pytest.mark.parametrize("rule", ["images", "=>masks", "(=>x", r"a=>\1", r"(a)=>\2", r"(?P<n>a)=>\g<m>"])
def test_rules_that_cannot_be_read(rule: str) -> None:
    with pytest.raises(ValueError, match=f"mask.*{re.escape(repr(rule))}"):
        ExportConfig(run_dir="run", format="webdataset", mask=rule)


def test_rules_that_can() -> None:
    for rule in (r"(a)|b=>\1", r"(?i)IMAGES=>masks", "a=>", r"(?P<n>a)=>\g<n>x"):
        assert mask_rule(rule)
        assert ExportConfig(run_dir="run", format="webdataset", mask=rule).mask == rule
    with pytest.raises(ValueError, match="mask is for formats with shards, and format folder has none"):
        ExportConfig(run_dir="run", format="folder", mask="a=>b")
