"""What writers of shards are made of: names, keys, row groups, tar files by hand, and the record of what is there."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.exports import huggingface, kept, mds, records, webdataset
from curation.exports.config import ExportConfig
from curation.exports.formats import FORMATS, check
from curation.store.directory import File, RunDirectory


def frames(sizes: list[int]) -> pa.Table:
    ids = [f"{number:032x}" for number in range(len(sizes))]
    return pa.table({"frame_id": ids, "byte_size": pa.array(sizes, pa.int64()), "path": [f"ü {i}" for i in ids]})


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xd8\xff\xe0", "jpg"),
        (b"\x89PNG\r\n", "png"),
        (b"BM....", "bmp"),
        (b"MM\0*", "tif"),
        (b"II*\0", "tif"),
        (b"II+\0", "tif"),
        (b"RIFF\0\0\0\0WEBP", "webp"),
    ],
)
def test_extensions_are_of_the_content(data: bytes, name: str) -> None:
    assert webdataset.extension(data) == name


def test_a_tar_by_hand() -> None:
    sink, images = io.BytesIO(), [b"BM1", b"\xff\xd8\xff2"]
    webdataset.write(sink, frames([3, 4]), map(kept.Encoded, images), False)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        members = archive.getmembers()
        contents = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert [member.name for member in members] == [f"{0:032x}.bmp", f"{0:032x}.json", f"{1:032x}.jpg", f"{1:032x}.json"]
    assert {(each.mtime, each.uid, each.gid, each.mode, each.uname) for each in members} == {(0, 0, 0, 0o644, "")}
    assert contents[::2] == images
    assert [json.loads(text) for text in contents[1::2]] == frames([3, 4]).to_pylist()


def test_keys_are_of_values_and_rows_without_one_are_alone() -> None:
    table = frames([1] * 5).append_column("procedure", pa.array(["a", None, "a", None, "b"]))
    keys = kept.keys_of(table, "procedure")
    assert keys[0] == keys[2]
    assert len(np.unique(keys)) == 4
    assert (kept.keys_of(table.slice(2), "procedure") == keys[2:]).all()


@pytest.mark.parametrize("sizes", [[30, 30, 30, 90, 1], [32, 32], [], [1], [90, 90]])
def test_blocks_hold_64_mb_of_images_and_masks(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at the bytes themselves they are as the plan of row groups is; half of them may be of masks."""
    monkeypatch.setattr(kept, "ROW_GROUP_BYTES", 64 << 10)
    table = frames([size << 10 for size in sizes])
    for share in (1, 2):
        encoded = [
            kept.Encoded(b"x" * (size // share), b"y" * (size - size // share))
            for size in table["byte_size"].to_pylist()
        ]
        made = list(kept.blocks(table, iter(encoded)))
        cut = [
            (at, len(rows))
            for at, (rows, _) in zip(np.cumsum([0] + [len(rows) for rows, _ in made]), made, strict=False)
        ]
        assert cut == kept.row_groups(table)
        assert [each for _, held in made for each in held] == encoded
        assert pa.concat_tables([table.slice(0, 0), *(rows for rows, _ in made)]).equals(table)


def test_a_mask_is_a_member_of_the_tar() -> None:
    sink = io.BytesIO()
    webdataset.write(sink, frames([3, 4]), iter([kept.Encoded(b"BM1", b"\x89PNG2"), kept.Encoded(b"BM3")]), True)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        names = [name.partition(".") for name in archive.getnames()]
    assert [name[2] for name in names] == ["bmp", "json", "mask.png", "bmp", "json"]


def test_row_groups_hold_64_mb_of_images() -> None:
    mb = 1 << 20
    assert kept.row_groups(frames([30 * mb, 30 * mb, 30 * mb, 90 * mb, mb])) == [(0, 2), (2, 1), (3, 1), (4, 1)]
    assert kept.row_groups(frames([32 * mb, 32 * mb])) == [(0, 1), (1, 1)]  # the columns take room too
    assert kept.row_groups(frames([])) == []


@pytest.mark.parametrize(
    ("rows", "name"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**8, "100M<n<1B"), (10**13, "n>1T")],
)
def test_size_categories(rows: int, name: str) -> None:
    assert huggingface.category(rows) == name


def test_the_index_of_mds_adds_up() -> None:
    index = json.loads(mds.index([File("shard.00000.mds", 3, 70, "x"), File("shard.00001.mds", 2, 50, "y")], False))
    assert [(shard["samples"], shard["raw_data"]["bytes"]) for shard in index["shards"]] == [(3, 70), (2, 50)]


def test_only_whole_files_are_finished(tmp_path: Path) -> None:
    target = RunDirectory(str(tmp_path))
    wanted = {"subset": "s", "digest": "d", "options": {"format": "mds"}, "files": [], "complete": False}
    assert records.opened(target, wanted) == wanted
    records.begin(target, wanted)
    for number, content in enumerate((b"whole", b"half", None)):
        records.record(target, number, File(str(number), 1, 5, "x"))
        if content is not None:
            target.write_bytes(str(number), content)
    assert list(records.finished(target, records.opened(target, wanted))) == ["0"]
    with pytest.raises(ValueError, match="is of another subset, s; delete what"):
        records.opened(target, wanted | {"digest": "e"})
    records.complete(target, wanted, [File("0", 1, 5, "x")])
    assert target.read_json("export.json")["complete"] is True
    assert not target.exists(".export")
    assert list(records.finished(target, records.opened(target, wanted))) == ["0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_mb": 1}, "shard_mb is for formats with shards, and format parquet has none"),
        ({"format": "folder", "shuffle_seed": 0}, "shuffle_seed is for formats with shards, and format folder"),
        ({"keep_together": "patient"}, "keep_together is for formats with shards"),
        ({"format": "mds", "with_images": True}, "format mds always has the images"),
        ({"format": "mds", "link": "hard"}, "link is for the files of a folder, and format mds has none"),
        ({"format": "mds", "shard_mb": 0}, "shard_mb is 0; it must be at least 1"),
        ({"format": "mds", "shuffle_seed": -1}, "shuffle_seed is -1"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig(run_dir="r", **options)


def test_a_column_where_the_images_go_is_refused() -> None:
    check("webdataset", ["frame_id", "image", "mask"], None, True)
    with pytest.raises(ValueError, match="have a column image already"):
        check("huggingface", ["frame_id", "image"], None, False)
    check("huggingface", ["frame_id", "mask"], None, False)
    with pytest.raises(ValueError, match="have a column mask already"):
        check("huggingface", ["frame_id", "mask"], None, True)


def test_paths_are_different_and_sorted() -> None:
    for form in FORMATS.values():
        paths = [form.path(number, 1200) for number in range(1200)]
        assert sorted(set(paths)) == paths
