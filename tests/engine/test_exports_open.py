"""Exports with shards: their own libraries open them and find every frame's bytes; reruns make only what is missing."""

import gc
import io
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import pipeline
from curation.console import StepSummary
from curation.exports.config import ExportConfig
from curation.exports.export import export
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.markers import Step, marker_of

Written = Callable[[Path], dict[str, tuple[int, int]]]
FOLDERS = ("plain", "with space", "50%25 #1", "who? über ☃", "a%2Fb&c=d", "<tag> 'q'")
SUFFIXES = (".jpg", ".png", ".bmp", ".tif", ".webp")
FORMATS = ("webdataset", "huggingface", "tfrecord", "mds", "litdata")
LIBRARIES = {"tfrecord": "tfrecord", "mds": "streaming", "litdata": "litdata"}
OTHERS = {"export.json", "README.md", "index.json", "features.json"}


@pytest.fixture(scope="module")
def run_dir(
    local_ray: None,
    drawn: tuple[Path, Any],
    settings: Callable[..., pipeline.RunConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of frames of all image formats, whose folders have unusual names. Not to be changed."""
    sources = tmp_path_factory.mktemp("odd") / "frames"
    for number, file in enumerate(sorted((drawn[0] / "center_a").rglob("*.jpg"))[:60]):
        parts = file.relative_to(drawn[0] / "center_a").parts
        name = f"{file.stem}{SUFFIXES[number % len(SUFFIXES)]}"
        to = sources.joinpath(*parts[:-1], FOLDERS[number % len(FOLDERS)], name)
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix == ".jpg":
            shutil.copy(file, to)
        else:
            Image.open(file).resize((320, 256)).save(to)
    made = tmp_path_factory.mktemp("exports") / "run"
    config = settings(made, source=(f"odd={sources}",), select={"d": 1.0})
    pipeline.ingest(config.ingest)
    embed_by_chance(made, config.embed)
    pipeline.cluster(config.cluster)
    pipeline.select(config.select)
    export(config.export)
    return made


def embed_by_chance(run_dir: Path, config: Any) -> None:
    """Finished embeddings/ of random unit vectors: an encoder would take half a minute to start."""
    run = RunDirectory(str(run_dir))
    ingested = marker_of(run, "frames", "ingest")
    step = Step(run, "embed", "embeddings", config, {"frames": ingested["output_hash"]})
    step.begin()
    columns, files, generator = schema.embeddings(16, "float16"), [], np.random.default_rng(0)
    for number, path in run.parts("frames").items():
        table = run.read_table(path)
        ids = table.filter(pc.is_null(table["copy_of"]))["frame_id"].combine_chunks()
        x_ND = generator.standard_normal((len(ids), 16))
        x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float16)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), type=columns.field("embedding").type)
        measures = [pa.array(np.zeros(len(ids), np.float32)) for _ in schema.MEASURES]
        made = pa.Table.from_arrays([ids, vectors, *measures], schema=columns)
        files.append(run.write_table(f"embeddings/part-{number:06d}.parquet", made))
    rows = sum(file.rows for file in files)
    step.finish(StepSummary(rows_in=ingested["rows_out"], rows_out=rows, seconds=0.0), files)


@pytest.fixture(scope="module")
def kept(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The kept frames' rows by id, with the bytes of their files as `image`."""
    rows = pq.read_table(run_dir / "subsets/curated/kept.parquet").to_pylist()
    assert len(rows) > 40
    assert sum(row["byte_size"] for row in rows) > 4 << 20
    assert {Path(row["path"]).suffix for row in rows} == set(SUFFIXES)
    assert all(any(f"/{name}/" in f"/{row['path']}" for row in rows) for name in FOLDERS)
    return {row["frame_id"]: row | {"image": Path(row["uri"]).read_bytes()} for row in rows}


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """exported(form): the output of an export in shards of 1 MB. Not to be changed."""
    made: dict[str, Path] = {}

    def make(form: Any) -> Path:
        if form not in made:
            made[form] = tmp_path_factory.mktemp(form) / "out"
            export(ExportConfig(run_dir=str(run_dir), output=str(made[form]), format=form, shard_mb=1))
        return made[form]

    return make


def need(form: str) -> None:
    """Skip where the library that writes a format is missing. It is not loaded: tfrecord excludes TensorFlow."""
    if form in LIBRARIES and find_spec(LIBRARIES[form]) is None:
        pytest.skip(f"{LIBRARIES[form]} comes with an extra")


def files(output: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(output)): file.read_bytes()
        for file in output.rglob("*")
        if file.is_file() and file.name != "export.json"
    }


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "export.json").read_text())
    return found


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # it leaves tar files to the garbage collector
def test_webdataset_opens(exported: Callable[[str], Path], kept: dict[str, Any]) -> None:
    webdataset = pytest.importorskip("webdataset", reason="comes with the extra webdataset")
    shards = sorted(map(str, exported("webdataset").glob("shard-*.tar")))
    assert len(shards) > 3
    found = {}
    opened = webdataset.WebDataset(shards, shardshuffle=False)
    for sample in opened:
        row = json.loads(sample.pop("json"))
        frame, [image] = sample["__key__"], [value for name, value in sample.items() if not name.startswith("__")]
        assert Path(row["path"]).suffix[1:] in sample
        found[frame] = row | {"image": image}
    assert found == kept
    del opened
    gc.collect()


def test_datasets_opens(exported: Callable[[str], Path], kept: dict[str, Any], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="comes with the extra dev")
    output = exported("huggingface")
    made = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"), split="train")
    assert made.features["image"] == datasets.Image()
    assert made.features["byte_size"] == datasets.Value("int64")
    assert made.features["centroid_distance"] == datasets.Value("float32")
    assert made[0]["image"].size == (made[0]["width"], made[0]["height"])
    rows = made.cast_column("image", datasets.Image(decode=False)).to_list()
    assert {row["frame_id"]: row | {"image": row["image"]["bytes"]} for row in rows} == kept
    card = (output / "README.md").read_text()
    assert f"{len(kept)} endoscopy frames" in card
    assert "n<1K" in card
    for file in output.glob("data/*.parquet"):
        metadata = pq.read_metadata(file)
        assert all(metadata.row_group(group).total_byte_size <= 64 << 20 for group in range(metadata.num_row_groups))


def test_tensorflow_opens(exported: Callable[[str], Path], kept: dict[str, Any]) -> None:
    need("tfrecord")
    tensorflow = pytest.importorskip("tensorflow", reason="is for Linux on x86 only")
    shards = sorted(map(str, exported("tfrecord").glob("train-*.tfrecord")))
    assert len(shards) > 3
    found = {}
    for record in tensorflow.data.TFRecordDataset(shards):
        features = tensorflow.train.Example.FromString(record.numpy()).features.feature
        values = {name: getattr(value, value.WhichOneof("kind")).value[0] for name, value in features.items()}
        image = values.pop("image")
        row = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
        found[row["frame_id"]] = row | {"image": image}
    expected = {frame: {name: value for name, value in row.items() if value is not None} for frame, row in kept.items()}
    assert found == expected


def test_streaming_opens(exported: Callable[[str], Path], kept: dict[str, Any]) -> None:
    streaming = pytest.importorskip("streaming", reason="comes with the extra mosaicml, which not every Python has")
    output = exported("mds")
    opened = streaming.StreamingDataset(local=str(output), shuffle=False, batch_size=1)
    samples = [opened[place] for place in range(len(opened))]
    assert {sample["frame_id"]: sample["metadata"] | {"image": sample["image"]} for sample in samples} == kept


@pytest.mark.parametrize("form", FORMATS)
def test_a_rerun_makes_only_what_is_missing(
    form: Any, run_dir: Path, exported: Callable[[str], Path], tmp_path: Path, written: Written
) -> None:
    need(form)
    output = Path(shutil.copytree(exported(form), tmp_path / "out"))
    config = ExportConfig(run_dir=str(run_dir), output=str(output), format=form, shard_mb=1)
    whole, complete = files(output), manifest(output)
    assert complete["complete"]
    assert not (output / ".export").exists()
    assert export(config)["reused"]
    killed = complete | {"files": [], "complete": False}  # what a killed export leaves:
    (output / "export.json").write_text(json.dumps(killed))
    (output / ".export").mkdir()
    shards = [file for file in complete["files"] if file["rows"]]
    for number, file in enumerate(shards):
        (output / f".export/{number:06d}.json").write_text(json.dumps(file))
    (output / ".export/000001.json").unlink()
    (output / shards[1]["path"]).unlink()
    (output / shards[2]["path"]).write_bytes(b"half")
    (output / ".tmp-0-x").write_bytes(b"half")
    before = written(output)
    assert "reused" not in export(config)
    after = written(output)
    assert files(output) == whole
    assert manifest(output) == complete
    remade = {path for path in after if after[path] != before.get(path)} - OTHERS
    assert remade == {shards[1]["path"], shards[2]["path"]}
    (output / shards[0]["path"]).unlink()  # of an export that was complete
    export(config)
    assert files(output) == whole


def test_object_storage_gets_the_same_bytes(run_dir: Path, exported: Callable[[str], Path], bucket: str) -> None:
    form: Any = "huggingface"
    config = ExportConfig(run_dir=str(run_dir), output=bucket.format(form), format=form, shard_mb=1)
    export(config)
    away, expected = RunDirectory(bucket.format(form)), exported(form)
    assert away.read_json("export.json") == manifest(expected)
    assert {path: away.read_bytes(path) for path in files(expected)} == files(expected)
    assert not away.exists(".export")
    assert export(config)["reused"]
    gone = manifest(expected)["files"][1]["path"]
    away.delete(gone)
    export(config)
    assert away.read_bytes(gone) == files(expected)[gone]
    with pytest.raises(ValueError, match="other options"):
        export(ExportConfig(run_dir=str(run_dir), output=bucket.format(form), format=form))


@pytest.mark.parametrize("form", ["webdataset", "huggingface"])
def test_procedures_stay_together(form: Any, run_dir: Path, tmp_path: Path, kept: dict[str, Any]) -> None:
    options = {"format": form, "shard_mb": 1, "keep_together": "procedure", "shuffle_seed": 3}
    config = ExportConfig(run_dir=str(run_dir), output=str(tmp_path / "out"), **options)
    export(config)
    rows = manifest(tmp_path / "out")["files"]
    assert sum(file["rows"] for file in rows) == len(kept)
    assert manifest(tmp_path / "out")["options"] == options
    if form == "huggingface":
        shards = [pq.read_table(file).to_pylist() for file in sorted((tmp_path / "out/data").iterdir())]
        found = [[row["procedure"] for row in shard] for shard in shards]
        assert len(found) > 1
        places = {name for shard in found for name in shard}
        assert all(sum(name in shard for shard in found) == 1 for name in places)
        frames = [row["frame_id"] for shard in shards for row in shard]
        assert sorted(frames) == sorted(kept)
        assert frames != [frame for frame in kept if frame in set(frames)]
    with pytest.raises(ValueError, match=r"other options: shuffle_seed was 3, now 4; use the old ones, delete what"):
        export(ExportConfig(run_dir=str(run_dir), output=str(tmp_path / "out"), **options | {"shuffle_seed": 4}))


def test_parts_of_work_do_not_show(
    run_dir: Path, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.exports.shards.MOST_GROUPS", 2)
    monkeypatch.setattr("curation.exports.shards.CHUNK_ROWS", 7)
    export(ExportConfig(run_dir=str(run_dir), output=str(tmp_path), format="webdataset", shard_mb=1))
    assert files(tmp_path) == files(exported("webdataset"))


def test_what_failed_halfway_is_finished(run_dir: Path, tmp_path: Path, exported: Callable[[str], Path]) -> None:
    """A file that is missing stops the export; once it is back the rest is made."""
    whole = exported("webdataset")
    output = tmp_path / "out"
    last = pq.read_table(run_dir / "subsets/curated/kept.parquet").to_pylist()[-1]["uri"]
    moved = shutil.move(last, tmp_path / "moved")
    config = ExportConfig(run_dir=str(run_dir), output=str(output), format="webdataset", shard_mb=1)
    try:
        with pytest.raises(ValueError, match=r"the file of a kept frame, .* cannot be used any more"):
            export(config)
    finally:
        shutil.move(moved, last)
    assert not manifest(output)["complete"]
    export(config)
    assert files(output) == files(whole)
    assert manifest(output) == manifest(whole)


def test_what_is_refused(
    run_dir: Path, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, output: Path, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            export(ExportConfig(run_dir=str(run_dir), output=str(output), **{"format": "webdataset"} | options))

    held = exported("webdataset")
    refused("other options: shard_mb was 1, now 256", held)
    refused("format was 'webdataset', now 'huggingface'", held, format="huggingface", shard_mb=1)
    refused("holds an export with shards", held, format="parquet")
    refused(r"the frames have the columns frame_id, .*centroid_distance", tmp_path, keep_together="ward")
    refused("holds an export of format parquet or folder", _parquet(run_dir, tmp_path / "parquet"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/shard-000000.tar").write_bytes(b"of the user")
    refused(r"foreign/shard-000000.tar was not written by an export", tmp_path / "foreign")
    monkeypatch.setattr("curation.exports.formats.find_spec", lambda _: None)
    refused(r"pip install 'endosieve\[mosaicml\]'", tmp_path / "none", format="mds")
    assert not (tmp_path / "none/export.json").exists()


def _parquet(run_dir: Path, output: Path) -> Path:
    export(ExportConfig(run_dir=str(run_dir), output=str(output)))
    return output


def test_the_default_output_and_pictures_in_it(run_dir: Path, kept: dict[str, Any]) -> None:
    export(ExportConfig(run_dir=str(run_dir), format="huggingface"))
    table = pq.read_table(run_dir / "subsets/curated/huggingface/data/train-00000-of-00001.parquet")
    assert table["frame_id"].to_pylist() == list(kept)
    row = table.to_pylist()[1]
    assert Image.open(io.BytesIO(row["image"]["bytes"])).format is not None
    assert row["image"]["path"].startswith(row["frame_id"])
