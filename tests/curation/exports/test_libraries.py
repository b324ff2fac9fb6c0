"""Writers that use a library: equal frames give equal bytes, and the library reads back what went in, nulls too."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.exports import huggingface, kept, lance, litdata
from curation.exports.kept import Encoded
from curation.store import schema
from curation.store.directory import File

COLUMNS = schema.frames(("note",))


def frames(first: int, last: int) -> pa.Table:
    """Frames with nulls in the first row of a shard or in others, and with a note that is the name of a file."""
    place = {"source": "s", "uri": __file__, "content_hash": "0" * 32, "byte_size": 3}
    rows = [
        place
        | {
            "frame_id": f"{n:032x}",
            "path": f"ü #{n}.jpg",
            "note": None if n % 3 == 0 else __file__,
            "timestamp_s": n / 3,
        }
        for n in range(first, last)
    ]
    return pa.Table.from_pylist(rows, COLUMNS)


def encoded(first: int, last: int) -> list[Encoded]:
    return [Encoded(b"\xff\xd8\xff%d" % n, b"GIF%d" % n if n % 2 else None) for n in range(first, last)]


def written(form: Any, folder: Path, masked: bool) -> list[dict[str, Any]]:
    """The frames of three shards that are written below a folder, each twice."""
    files, rows = [], []
    for number, (first, last) in enumerate([(0, 3), (3, 7), (7, 8)]):
        sinks = [io.BytesIO(), io.BytesIO()]
        for sink in sinks:
            form.write(sink, frames(first, last), iter(encoded(first, last)), masked)
        content = sinks[0].getvalue()
        assert content == sinks[1].getvalue()
        path = form.path(number, 3)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        files.append(File(path, last - first, len(content), ""))
        for row, each in zip(frames(first, last).to_pylist(), encoded(first, last), strict=True):
            rows.append(row | {"image": each.image} | ({"mask": each.mask} if masked else {}))
    for path, content in form.others(files, COLUMNS, {"mask": "a=>b" if masked else None}).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return rows


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lance, imported without what it would do to the rest of this process: warn whenever it forks."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    return pytest.importorskip("lance", reason="comes with the extra lance")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block", [1, 64 << 20])
def test_lance(tmp_path: Path, masked: bool, block: int, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is one fragment, of however many blocks."""
    monkeypatch.setattr(kept, "ROW_GROUP_BYTES", block)
    rows = written(lance, tmp_path, masked)
    opened = library.dataset(str(tmp_path))
    assert opened.to_table().to_pylist() == rows
    assert [len(each.to_table()) for each in opened.get_fragments()] == [3, 4, 1]
    assert opened.schema.field("image") == schema.IMAGE
    assert opened.schema.field("byte_size") == COLUMNS.field("byte_size")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_versions", "data"]
    library.write_dataset(opened.to_table(), str(tmp_path), mode="append")
    assert library.dataset(str(tmp_path)).to_table().to_pylist() == rows * 2, "it can be added to"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("masked", [False, True])
def test_litdata(tmp_path: Path, masked: bool) -> None:
    """A text that is the name of a file stays that text."""
    library = pytest.importorskip("litdata", reason="comes with the extra litdata")
    rows = written(litdata, tmp_path, masked)
    opened = library.StreamingDataset(str(tmp_path), shuffle=False)
    samples = [opened[place] for place in range(len(opened))]
    found = [json.loads(each["metadata"]) | {"image": each["image"]} for each in samples]
    if masked:
        found = [row | {"mask": each["mask"] or None} for row, each in zip(found, samples, strict=True)]
    assert found == rows
    assert [each["frame_id"] for each in samples] == [row["frame_id"] for row in rows]
    assert all(set(each) == {"frame_id", "image", "metadata"} | ({"mask"} if masked else set()) for each in samples)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_chunk_that_litdata_cannot_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litdata", reason="comes with the extra litdata")
    monkeypatch.setattr(litdata, "LIMIT", 1000)
    with pytest.raises(ValueError, match="cannot be larger than 4 GB; give a smaller --shard-mb"):
        litdata.write(io.BytesIO(), frames(0, 9), iter(encoded(0, 9)), False)


def test_masks_of_an_unknown_format_are_taken_along() -> None:
    sink = io.BytesIO()
    huggingface.write(sink, frames(0, 2), iter(encoded(0, 2)), True)
    found = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert found["mask"].to_pylist() == [None, {"bytes": b"GIF1", "path": f"{1:032x}.mask.bin"}]
    assert found["image"].to_pylist()[1] == {"bytes": b"\xff\xd8\xff1", "path": f"{1:032x}.jpg"}
