"""Files that vanish or change between two steps: copies take their place, or the frame is named; nothing passes by."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import pipeline
from curation.__main__ import main
from curation.clusters.cluster import cluster
from curation.embeddings.chunks import DecodePart
from curation.embeddings.embed import embed
from curation.exports.config import ExportConfig
from curation.exports.export import export
from curation.frames.frame import ReadError
from curation.frames.ingest import ingest
from curation.store.directory import RunDirectory
from training.loader.subset import decode_rows, read_subset

Settings = Callable[..., pipeline.RunConfig]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]

# Equal files by name: the original first. With parts of 4, those of a group lie in several parts.
GROUPS = {"vanished": "bfn", "changed": "cgo", "all_gone": "dh", "last_left": "eip", "untouched": "jq"}


def draw(folder: Path) -> Path:
    """Files a.png to t.png: 5 groups of equal ones (13 files), and 7 others."""
    folder.mkdir(exist_ok=True)
    leader = {name: names[0] for names in GROUPS.values() for name in names}
    for name in "abcdefghijklmnopqrst":
        seed = ord(leader.get(name, name))
        pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return draw(tmp_path / "source")


def disturb(folder: Path) -> None:
    """What befalls the groups after ingest: see GROUPS."""
    (folder / "b.png").unlink()
    shutil.copyfile(folder / "a.png", folder / "c.png")
    for name in "dh":
        (folder / f"{name}.png").unlink()
    (folder / "e.png").unlink()
    (folder / "e.png").mkdir()
    (folder / "i.png").unlink()
    (folder / "i.png").symlink_to("nowhere")


def configured(settings: Settings, run_dir: Path, source: Path, **changes: Any) -> pipeline.RunConfig:
    values = {"ingest": {"part_rows": 4}, "embed": {"max_rejected": 0.5, "image_size": 32}, "cluster": {"clusters": 2}}
    values["select"] = {"d": 1.0, "epsilon": 2.0}
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change
    values["ingest"]["lineage_pattern"] = None
    values["embed"]["encoder"], values["embed"]["pooling"] = "test_vit", "cls"
    return settings(run_dir, (f"s={source}",), **values)


@pytest.fixture
def disturbed(local_ray: None, settings: Settings, source: Path, tmp_path: Path) -> pipeline.RunConfig:
    """The config of a run whose sources were disturbed after ingest."""
    config = configured(settings, tmp_path / "run", source)
    assert ingest(config.ingest)["copies"] == 8
    disturb(source)
    return config


EMBEDDED = set("afg") | {"p"} | set("jklmrst")  # f, g and p are copies that took the place of b, c and e
REJECTED = {"b": "missing", "c": "changed since ingest", "d": "missing", "h": "missing", "e": "unreadable"}
REJECTED |= {"i": "missing"}
BECAUSE = {"n": "f", "o": "g", "q": "j"}


def names_of(table: pa.Table) -> dict[str, str]:
    """The file's letter of each frame."""
    return {row["frame_id"]: row["path"][0] for row in table.select(["frame_id", "path"]).to_pylist()}


def test_a_copy_takes_the_place_of_an_original_that_has_gone(
    disturbed: pipeline.RunConfig, rows: Rows, by_id: ById, tmp_path: Path
) -> None:
    run_dir = Path(disturbed.ingest.run_dir)
    steps = (embed(disturbed.embed), cluster(disturbed.cluster), pipeline.select(disturbed.select))
    markers = {marker["step"]: marker for marker in (*steps, export(disturbed.export))}
    letter = names_of(rows(run_dir, "frames"))
    assert {letter[frame] for frame in rows(run_dir, "embeddings")["frame_id"].to_pylist()} == EMBEDDED
    rejected = by_id(pa.concat_tables(map(pq.read_table, sorted(run_dir.glob("rejected/*.parquet")))))
    assert {letter[frame]: row["reason"] for frame, row in rejected.items()} == REJECTED
    replacements = {letter[frame]: letter.get(row["replaced_by"]) for frame, row in rejected.items()}
    assert replacements == {"b": "f", "c": "g", "d": None, "h": None, "e": "p", "i": "p"}
    assert [markers["embed"][key] for key in ("rows_in", "rows_out", "rejected", "copies")] == [20, 11, 6, 3]
    decisions = by_id(pq.read_table(run_dir / "subsets/curated/decisions.parquet"))
    assert {letter[frame] for frame, row in decisions.items() if row["kept"]} == EMBEDDED
    copies = {letter[f]: letter[row["because_of"]] for f, row in decisions.items() if row["reason"] == "exact copy"}
    assert copies == BECAUSE
    assert {letter[frame] for frame, row in decisions.items() if row["reason"] == "rejected"} == REJECTED.keys()
    subset = json.loads((run_dir / "subsets/curated/subset.json").read_text())
    assert (subset["pool"], subset["kept"]) == (14, 11)
    target = tmp_path / "files"
    export(ExportConfig(run_dir=str(run_dir), output=str(target), format="folder"))
    assert {file.name[0] for file in target.rglob("*.png")} == EMBEDDED


def test_parts_and_chunks_do_not_show(
    local_ray: None, settings: Settings, source: Path, tmp_path: Path, rows: Rows, by_id: ById
) -> None:
    """Whatever part or chunk a copy is in, the same frames are embedded, with the same pixels, and rejected."""
    found = []
    for number, (part_rows, chunk_rows) in enumerate([(4, 4), (20, 3), (3, 1)]):
        folder = shutil.copytree(source, tmp_path / str(number) / "source")
        run_dir = tmp_path / str(number) / "run"
        config = configured(
            settings, run_dir, folder, ingest={"part_rows": part_rows}, embed={"chunk_rows": chunk_rows}
        )
        ingest(config.ingest)
        disturb(folder)
        run, embedded, rejected = RunDirectory(str(run_dir)), {}, {}
        decoder = DecodePart(run, config.embed)
        for part in run.parts("frames"):
            for table in decoder(pa.table({"part": [part]})):
                [row] = table.to_pylist()
                pixels = np.frombuffer(row["pixels"], np.uint8).reshape(len(row["frame_ids"]), 32 * 32 * 3)
                embedded |= {name: one.tobytes() for name, one in zip(row["frame_ids"], pixels, strict=True)}
                rejected |= {one["frame_id"]: (one["reason"], one["replaced_by"]) for one in row["rejected"]}
        letter = names_of(rows(run_dir, "frames"))
        assert {letter[name] for name in embedded} == EMBEDDED
        found.append((embedded, rejected))
    assert found[0] == found[1] == found[2]


def test_frames_that_were_away_are_tried_again_until_the_step_is_done(
    disturbed: pipeline.RunConfig, flags: Callable[..., list[str]], source: Path, rows: Rows, tmp_path: Path
) -> None:
    """As when a disk is away for the while of a step, and is back at the rerun."""
    run_dir, away = Path(disturbed.ingest.run_dir), tmp_path / "away"
    source.rename(away)
    assert main(["embed", *flags(disturbed.embed), "--max-rejected", "0.1"]) == 2
    assert not (run_dir / "embeddings/_SUCCESS.json").exists()
    away.rename(source)
    assert main(["embed", *flags(disturbed.embed)]) == 0
    letter = names_of(rows(run_dir, "frames"))
    assert {letter[frame] for frame in rows(run_dir, "embeddings")["frame_id"].to_pylist()} == EMBEDDED
    rejected = pa.concat_tables(map(pq.read_table, sorted(run_dir.glob("rejected/*.parquet"))))
    assert sorted(letter[frame] for frame in rejected["frame_id"].to_pylist()) == sorted(REJECTED)


def test_a_failure_that_may_pass_commits_nothing_of_its_part(
    local_ray: None, settings: Settings, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error of one file, in the process that decodes."""
    config = configured(settings, tmp_path / "run", source)
    ingest(config.ingest)
    run = RunDirectory(config.ingest.run_dir)

    def read(uri: str, _: str) -> bytes:
        if uri.endswith("k.png"):
            raise ReadError(f"{uri} could not be read: rerun the same command")
        return Path(uri).read_bytes()

    monkeypatch.setattr("curation.embeddings.chunks.read_unchanged", read)
    decoder = DecodePart(run, config.embed)
    assert len(list(decoder(pa.table({"part": [0]})))) == 1
    chunks = decoder(pa.table({"part": [2]}))
    with pytest.raises(ReadError, match="rerun the same command"):
        list(chunks)


@pytest.fixture(scope="module")
def finished(local_ray: None, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of all steps, and its undisturbed source."""
    folder = tmp_path_factory.mktemp("finished")
    pipeline.run(configured(settings, folder / "run", draw(folder / "source")))
    return folder


@pytest.fixture
def selected(finished: Path) -> Iterator[Path]:
    """The run directory of that; its source is as it was again after each test."""
    yield finished / "run"
    shutil.rmtree(finished / "source")
    draw(finished / "source")


def test_export_and_training_read_an_exact_copy(selected: Path, tmp_path: Path) -> None:
    source = selected.parent / "source"
    folder = selected / "subsets/curated"
    whole = read_subset(str(folder))
    expected, failed = decode_rows(whole, np.arange(len(whole.table)), 16)
    assert failed == []
    content = {name: (source / f"{name}.png").read_bytes() for name in "bce"}
    (source / "b.png").unlink()
    (source / "f.png").unlink()  # so that the second copy is read
    (source / "c.png").write_bytes(b"other")
    found, failed = decode_rows(whole, np.arange(len(whole.table)), 16)
    assert failed == []
    assert np.array_equal(found, expected)
    for link in ("copy", "hard", "symbolic"):
        target = tmp_path / link
        export(ExportConfig(run_dir=str(selected), output=str(target), format="folder", link=link))
        assert {name: (target / f"images/s/{name}.png").read_bytes() for name in "bce"} == content
    assert (tmp_path / "symbolic/images/s/b.png").resolve() == source / "n.png"
    target = tmp_path / "table"
    export(ExportConfig(run_dir=str(selected), output=str(target), with_images=True))
    table = {row["path"][0]: row["image"] for row in pq.read_table(target / "kept.parquet").to_pylist()}
    assert {name: table[name] for name in "bce"} == content


@pytest.mark.parametrize(
    ("form", "change", "reason"),
    [
        ({"with_images": True}, "gone", "missing"),
        ({"format": "folder"}, "other", "changed since ingest"),
        ({"format": "folder", "link": "hard"}, "other", "changed since ingest"),
    ],
)
def test_a_kept_frame_without_its_bytes_is_named(
    selected: Path, tmp_path: Path, form: dict[str, Any], change: str, reason: str
) -> None:
    source = selected.parent / "source"
    data = (source / "a.png").read_bytes()
    if change == "gone":
        (source / "a.png").unlink()
    else:
        (source / "a.png").write_bytes(data[:-1] + b"x")
    [row] = [
        row for row in pq.read_table(selected / "subsets/curated/kept.parquet").to_pylist() if row["path"] == "a.png"
    ]
    config = ExportConfig(run_dir=str(selected), output=str(tmp_path / "out"), **form)
    with pytest.raises(ValueError, match=reason) as caught:
        export(config)
    assert row["frame_id"] in str(caught.value)
    assert str(source / "a.png") in str(caught.value)
    subset = read_subset(str(selected / "subsets/curated"))
    _, [failed] = decode_rows(subset, np.arange(len(subset.table)), 16)
    assert all(word in failed for word in (row["frame_id"], str(source / "a.png"), reason))
    (source / "a.png").write_bytes(data)
    assert export(config)["rows_out"] == 12, "put back, the same command finishes"


def test_images_in_a_table_are_compared_too(selected: Path, tmp_path: Path) -> None:
    export(ExportConfig(run_dir=str(selected), output=str(tmp_path / "out"), with_images=True))
    subset = read_subset(str(tmp_path / "out"))
    images = subset.table["image"].to_pylist()
    images[3] = images[4]
    place = subset.table.schema.get_field_index("image")
    damaged = subset.table.set_column(place, subset.table.schema.field("image"), pa.array(images, pa.large_binary()))
    _, [failed] = decode_rows(type(subset)(subset.path, damaged, subset.about), np.arange(len(damaged)), 16)
    assert f"frame {subset.ids[3]}" in failed
    assert "changed since ingest" in failed
