"""Near copies of a run: against brute force, never embedded, each accounted for, and resumed after a kill."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import pipeline
from curation.clusters.cluster import cluster
from curation.embeddings.embed import embed
from curation.exports.export import export
from curation.frames import copies, ingest, near_copies, settling
from curation.status import status
from curation.store.config import StatusConfig
from curation.store.directory import RunDirectory

DISTANCE = 10
Settings = Callable[..., pipeline.RunConfig]
Rows = Callable[[Path, str], pa.Table]
ById = Callable[[pa.Table], dict[str, dict[str, Any]]]
Tables = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def thinned(
    local_ray: None, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run of the phantom without near copies, not to be changed, and its markers by step."""
    run_dir = tmp_path_factory.mktemp("thinned")
    markers = pipeline.run(settings(run_dir, ingest={"near_copies": DISTANCE}))
    return run_dir, {marker["step"]: marker for marker in markers}


def one_pass(frames: list[dict[str, Any]]) -> dict[str, tuple[str, int]]:
    """Frame by frame: the first earlier one that stays and is near."""
    kept, found = list[dict[str, Any]](), dict[str, tuple[str, int]]()
    for row in frames:
        if row["copy_of"] is not None:
            continue
        value = int(row["perceptual_hash"], 16)
        bits = [(value ^ int(other["perceptual_hash"], 16)).bit_count() for other in kept]
        near = next((place for place, count in enumerate(bits) if count <= DISTANCE), None)
        if near is None:
            kept.append(row)
        else:
            found[row["frame_id"]] = kept[near]["frame_id"], bits[near]
    return found


def test_near_copies_are_those_of_one_pass_and_are_not_embedded(
    thinned: tuple[Path, dict[str, dict[str, Any]]], rows: Rows, by_id: ById
) -> None:
    run_dir, markers = thinned
    frames = rows(run_dir, "frames").to_pylist()
    expected = one_pass(frames)
    assert len(expected) > 20
    found = {row["frame_id"]: (row["near_copy_of"], row["near_distance"]) for row in frames if row["near_copy_of"]}
    assert found == expected
    exact = [row["frame_id"] for row in frames if row["copy_of"]]
    embedded = set(rows(run_dir, "embeddings")["frame_id"].to_pylist())
    assert embedded == {row["frame_id"] for row in frames} - set(exact) - expected.keys()
    assert markers["ingest"]["copies"] == markers["embed"]["copies"] == len(exact) + len(expected)
    assert markers["embed"]["rows_in"] == len(frames) == len(embedded) + markers["embed"]["copies"]
    spared = f"{len(expected)} near copies within {DISTANCE} of 64 bits marked, "
    assert spared + f"{len(expected) / (len(frames) - len(exact)):.1%} less to embed" in markers["ingest"]["note"]


def test_decisions_name_near_copies(thinned: tuple[Path, dict[str, dict[str, Any]]], rows: Rows, by_id: ById) -> None:
    run_dir, markers = thinned
    frames = by_id(rows(run_dir, "frames"))
    decisions = by_id(pq.read_table(run_dir / "subsets/curated/decisions.parquet"))
    assert decisions.keys() == frames.keys()
    reasons = Counter(row["reason"] for row in decisions.values())
    assert reasons["near copy"] > 20
    assert reasons["exact copy"] == 9
    for name, row in decisions.items():
        if row["reason"] == "near copy":
            assert not row["kept"]
            assert row["because_of"] == frames[name]["near_copy_of"]
            assert row["similarity"] == 1 - frames[name]["near_distance"] / 64
    subset = json.loads((run_dir / "subsets/curated/subset.json").read_text())
    assert subset["counts"] == {reason: reasons[reason] for reason in subset["counts"]}
    assert subset["pool"] == len(frames)
    assert markers["select"]["copies"] == reasons["near copy"] + reasons["exact copy"]
    kept = pq.read_table(run_dir / "subsets/curated/kept.parquet")
    assert set(kept["frame_id"].to_pylist()) == {name for name, row in decisions.items() if row["kept"]}
    assert kept["near_copy_of"].null_count == len(kept)
    assert "ingest" in status(StatusConfig(run_dir=str(run_dir)))


@pytest.mark.parametrize("sizes", [(7, 1), (7, 50), (1000, 50)])
def test_parts_and_blocks_do_not_show(
    thinned: tuple[Path, Any], settings: Settings, rows: Rows, tmp_path: Path, sizes: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    part_rows, block_rows = sizes
    monkeypatch.setattr(settling, "BLOCK_ROWS", block_rows)
    run_dir = tmp_path / "run"
    ingest.ingest(settings(run_dir, ingest={"near_copies": DISTANCE, "part_rows": part_rows}).ingest)
    assert rows(run_dir, "frames").equals(rows(thinned[0], "frames"))


class KilledError(RuntimeError):
    """As if the process had been killed."""


@pytest.mark.parametrize("where", ["before", "amidst", "after"])
def test_a_killed_search_is_done_again_to_the_same_bytes(
    thinned: tuple[Path, Any], settings: Settings, tables: Tables, tmp_path: Path, where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_dir = tmp_path / "run"
    config = settings(run_dir, ingest={"near_copies": DISTANCE})
    marked = settling.mark_near_copies

    def killed(run: RunDirectory, distance: int, part_rows: int) -> Any:
        if where == "after":
            marked(run, distance, part_rows)
        if where == "amidst":
            paths = list(run.parts("frames").values())[:1]
            hashes, fates = near_copies.load(run, paths)
            near_copies.write(run, paths, near_copies.decide(run, paths, hashes, fates, distance)[0])
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(settling, "mark_near_copies", killed)
        with pytest.raises(KilledError):
            ingest.ingest(config.ingest)
    ingest.ingest(config.ingest)
    whole = {name: digest for name, digest in tables(thinned[0]).items() if name.startswith("frames/")}
    assert tables(run_dir) == whole
    assert ingest.ingest(config.ingest)["reused"]


def test_another_distance_is_another_run(thinned: tuple[Path, Any], settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"near_copies was 10, now 4.*delete frames/, embeddings/, clusters/, scores/"):
        ingest.ingest(settings(thinned[0], ingest={"near_copies": 4}).ingest)
    with pytest.raises(ValueError, match="near_copies was 10, now None"):
        ingest.ingest(settings(thinned[0]).ingest)


def draw(folder: Path) -> None:
    """a: a picture; b: the same a little darker; c: an exact copy of a; d: another; e: damaged in the middle."""
    folder.mkdir()
    first, other = (Image.linear_gradient("L").rotate(turn).resize((64, 64)) for turn in (0, 60))
    first.save(folder / "a.jpg", quality=95)
    first.point(lambda value: value * 0.9).save(folder / "b.jpg", quality=95)
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes())
    other.save(folder / "d.jpg", quality=95)
    Image.effect_noise((200, 200), 90).save(folder / "e.png")
    data = bytearray((folder / "e.png").read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "e.png").write_bytes(bytes(data))


@pytest.mark.slow
def test_a_frame_that_cannot_be_decoded_is_found_on_ingest_and_a_lost_one_keeps_its_near_copies_out(
    local_ray: None, settings: Settings, rows: Rows, by_id: ById, tmp_path: Path
) -> None:
    source, run_dir = tmp_path / "source", tmp_path / "run"
    draw(source)
    config = settings(
        run_dir,
        (f"s={source}",),
        ingest={"near_copies": 4, "max_rejected": 0.5, "lineage_pattern": None, "part_rows": 2},
        embed={"encoder": "test_vit", "pooling": "cls", "image_size": 32, "max_rejected": 0.5},
        cluster={"clusters": 1},
        select={"d": 1.0, "epsilon": 2.0},
    )
    marker = ingest.ingest(config.ingest)
    assert [marker[key] for key in ("rows_in", "rows_out", "rejected", "copies")] == [5, 4, 1, 2]
    assert ingest.ingest(config.ingest)["reused"]
    (source / "a.jpg").touch()
    (source / "e.png").touch()  # read again, and rejected for the same reason
    assert ingest.ingest(config.ingest)["reused"]
    name = {row["path"][0]: row["frame_id"] for row in rows(run_dir, "frames").to_pylist()}
    (source / "a.jpg").unlink()
    marker = embed(config.embed)
    assert [marker[key] for key in ("rows_in", "rows_out", "rejected", "copies")] == [4, 2, 1, 1]
    cluster(config.cluster)
    pipeline.select(config.select)
    decisions = by_id(pq.read_table(run_dir / "subsets/curated/decisions.parquet"))
    reasons = {letter: decisions[frame]["reason"] for letter, frame in name.items()}
    assert reasons == {"a": "rejected", "b": "near copy", "c": "kept", "d": "kept"}
    assert decisions[name["b"]]["because_of"] == name["c"]
    assert export(config.export)["rows_out"] == 2
    assert copies.read_replacements(RunDirectory(str(run_dir))).replaced_by.to_pylist() == [name["c"]]
