"""Masks go along in every format, and LitData, Lance and imagefolder open what is theirs.

A rule takes the next frame's file for the mask of some frames, so that bytes of masks are those of known files.
"""

import itertools
import json
import os
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.exports.config import ExportConfig
from curation.exports.export import export

RULE = r"frame_(\d+)0(?=\.jpg)=>frame_\g<1>1"
OWNED = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
Exported = Callable[[str], Path]
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def kept(reference: tuple[Path, Any]) -> Rows:
    """The kept frames' rows by id, in their order, with the bytes of their files as `image` and of masks as `mask`."""
    made = {}
    for row in pq.read_table(reference[0] / "subsets/curated/kept.parquet").to_pylist():
        file = Path(row["uri"])
        mask = file.with_name(file.name.replace("0.jpg", "1.jpg"))
        has_one = mask != file and mask.exists()
        made[row["frame_id"]] = row | {"image": file.read_bytes(), "mask": mask.read_bytes() if has_one else None}
    assert 0 < sum(row["mask"] is not None for row in made.values()) < len(made)
    return made


@pytest.fixture(scope="module")
def exported(reference: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """exported(form): the output of an export with masks. Not to be changed."""
    made: dict[str, Path] = {}

    def make(form: Any) -> Path:
        if form not in made:
            made[form] = tmp_path_factory.mktemp(form) / "out"
            export(ExportConfig(run_dir=str(reference[0]), output=str(made[form]), format=form, mask=RULE))
        return made[form]

    return make


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lance, imported without what it would do to the rest of this process: warn whenever it forks."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    return pytest.importorskip("lance", reason="comes with the extra lance")


def need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} comes with the extra {extra}")


def test_webdataset(exported: Exported, kept: Rows) -> None:
    found: Rows = {}
    for shard in exported("webdataset").glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                frame, _, suffix = member.name.partition(".")
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                row = found.setdefault(frame, {"mask": None})
                row |= json.loads(data) if suffix == "json" else {"mask" if "mask" in suffix else "image": data}
    assert found == kept


@OWNED
def test_huggingface(exported: Exported, kept: Rows, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="comes with the extra dev")
    made = datasets.load_dataset(str(exported("huggingface")), cache_dir=str(tmp_path / "cache"), split="train")
    assert made.features["mask"] == datasets.Image()
    with_mask = next(place for place, row in enumerate(kept.values()) if row["mask"] is not None)
    assert made[with_mask]["mask"].size == (160, 128)
    plain = datasets.Image(decode=False)
    rows = made.cast_column("image", plain).cast_column("mask", plain).to_list()
    pictures = [{name: row[name] and row[name]["bytes"] for name in ("image", "mask")} for row in rows]
    assert {row["frame_id"]: row | each for row, each in zip(rows, pictures, strict=True)} == kept
    assert "`mask`" in (exported("huggingface") / "README.md").read_text()


def test_mds(exported: Exported, kept: Rows) -> None:
    need("streaming", "mosaicml")
    output = exported("mds")
    found = {sample["frame_id"]: sample for sample in mds_samples(output)}
    assert {
        frame: row["metadata"] | {"image": row["image"], "mask": row["mask"] or None} for frame, row in found.items()
    } == kept


def mds_samples(output: Path) -> list[dict[str, Any]]:
    """What MosaicML's reader of one shard finds: a StreamingDataset is opened in test_exports_open.py."""
    reader = pytest.importorskip("streaming.base.format", reason="comes with the extra mosaicml").reader_from_json
    shards = json.loads((output / "index.json").read_text())["shards"]
    readers = [reader(str(output), None, shard) for shard in shards]
    return [each[place] for each in readers for place in range(each.samples)]


def test_tfrecord(exported: Exported, kept: Rows) -> None:
    """Read by the library that wrote it, since TensorFlow's definitions and its exclude each other in a process."""
    need("tfrecord", "tfrecord")
    output = exported("tfrecord")
    described = json.loads((output / "features.json").read_text())
    assert described["mask"] == {"list": "bytes_list", "type": "large_binary", "optional": True}
    assert described["byte_size"] == {"list": "int64_list", "type": "int64", "optional": False}
    assert described["timestamp_s"] == {"list": "bytes_list", "type": "double", "optional": True}
    assert set(described) == {*next(iter(kept.values()))}
    shards = sorted(output.glob("*.tfrecord"))
    content = b"".join(shard.read_bytes() for shard in shards)
    masks = [row["mask"] for row in kept.values() if row["mask"] is not None]
    assert all(mask in content for mask in masks)


@OWNED
def test_litdata(exported: Exported, kept: Rows) -> None:
    litdata = pytest.importorskip("litdata", reason="comes with the extra litdata")
    opened = litdata.StreamingDataset(str(exported("litdata")), shuffle=False)
    samples = [opened[place] for place in range(len(opened))]
    assert [sample["frame_id"] for sample in samples] == list(kept)
    found = [json.loads(row["metadata"]) | {"image": row["image"], "mask": row["mask"] or None} for row in samples]
    assert found == list(kept.values())
    assert [sample["frame_id"] for sample in opened] == list(kept)


@OWNED
def test_lance(exported: Exported, kept: Rows, library: Any) -> None:
    opened = library.dataset(str(exported("lance")))
    opened.validate()
    assert opened.version == 1
    assert opened.to_table().to_pylist() == list(kept.values())
    last = len(kept) - 1
    assert opened.take([last], columns=["image"]).to_pylist() == [{"image": list(kept.values())[last]["image"]}]


@OWNED
@pytest.mark.parametrize("form", ["litdata", "lance", "webdataset"])
def test_several_shards_in_an_order_of_their_own(
    form: Any, reference: tuple[Path, Any], kept: Rows, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whatever groups and waves they are made in, the same seed gives the same bytes, and half of them come back."""
    need(form, form)
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(ExportConfig, "shard_bytes", 30_000)
    config = {"run_dir": str(reference[0]), "format": form, "keep_together": "procedure", "shuffle_seed": 5}
    export(ExportConfig(**config, output=str(tmp_path / "one")))
    monkeypatch.setattr("curation.exports.shards.WAVE_ROWS", 30)
    monkeypatch.setattr("curation.exports.shards.CHUNK_ROWS", 30)
    export(ExportConfig(**config, output=str(tmp_path / "two")))
    shards = [file for file in json.loads((tmp_path / "one/export.json").read_text())["files"] if file["rows"]]
    assert len(shards) > 1
    assert [file for file in json.loads((tmp_path / "two/export.json").read_text())["files"] if file["rows"]] == shards
    (tmp_path / "two" / shards[0]["path"]).unlink()
    export(ExportConfig(**config, output=str(tmp_path / "two")))
    for file in shards:
        assert (tmp_path / "one" / file["path"]).read_bytes() == (tmp_path / "two" / file["path"]).read_bytes()
    if form == "lance":
        opened = request.getfixturevalue("library").dataset(str(tmp_path / "two"))
        order = opened.to_table(["frame_id"])["frame_id"].to_pylist()
    else:
        order = {"litdata": order_of_litdata, "webdataset": order_of_tars}[form](tmp_path / "two")
    assert sorted(order) == sorted(kept)
    assert order != list(kept)
    procedures = [kept[frame]["procedure"] for frame in order]
    changes = sum(one != other for one, other in itertools.pairwise(procedures))
    assert changes == len(set(procedures)) - 1


def order_of_litdata(output: Path) -> list[str]:
    opened = pytest.importorskip("litdata").StreamingDataset(str(output), shuffle=False)
    return [opened[place]["frame_id"] for place in range(len(opened))]


def order_of_tars(output: Path) -> list[str]:
    names = []
    for shard in sorted(output.glob("*.tar")):
        with tarfile.open(shard) as archive:
            names += archive.getnames()
    return [name.partition(".")[0] for name in names if name.endswith(".json")]


def test_a_rule_that_finds_no_mask_is_refused_before_anything_is_written(
    reference: tuple[Path, Any], tmp_path: Path
) -> None:
    for rule in (r"nowhere=>x", r"\.jpg$=>.mask.png"):
        with pytest.raises(ValueError, match="finds no mask of any kept frame"):
            export(ExportConfig(run_dir=str(reference[0]), output=str(tmp_path), format="webdataset", mask=rule))
        assert not list(tmp_path.iterdir())
    config = ExportConfig(run_dir=str(reference[0]), output=str(tmp_path / "out"), format="webdataset", mask=RULE)
    export(config)
    with pytest.raises(ValueError, match=r"with other options: mask was .*, now None; use the old ones"):
        export(ExportConfig(run_dir=str(reference[0]), output=str(tmp_path / "out"), format="webdataset"))


@OWNED
def test_imagefolder_finds_the_columns_and_torchvision_the_files(
    reference: tuple[Path, Any], kept: Rows, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="comes with the extra dev")
    torchvision = pytest.importorskip("torchvision.datasets", reason="comes with the extra dev")
    config = ExportConfig(run_dir=str(reference[0]), output=str(tmp_path / "out"), format="folder")
    export(config)
    export(config)
    images = str(tmp_path / "out/images")
    made = datasets.load_dataset("imagefolder", data_dir=images, cache_dir=str(tmp_path / "cache"), split="train")
    made = made.cast_column("image", datasets.Image(decode=False))
    found = {row["frame_id"]: row for row in made.to_list()}
    assert len(made) == len(kept)
    for frame, row in kept.items():
        assert Path(found[frame]["image"]["path"]).read_bytes() == row["image"]
        columns = {name: value for name, value in row.items() if name not in ("image", "mask")}
        assert {name: found[frame][name] for name in columns} == columns
    folders = torchvision.ImageFolder(images)
    assert folders.classes == sorted({row["source"] for row in kept.values()})
    read = {str(Path(path).relative_to(images)): folders.classes[label] for path, label in folders.samples}
    assert read == {f"{row['source']}/{row['path']}": row["source"] for row in kept.values()}
