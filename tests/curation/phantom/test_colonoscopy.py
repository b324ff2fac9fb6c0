from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.phantom import colonoscopy, invalid, scene

SMALL = {"procedures": 3, "scenes": 6, "frames_per_scene": 4, "width": 160, "height": 128}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    output = tmp_path_factory.mktemp("phantom")
    config = colonoscopy.PhantomConfig(output=str(output), invalid_share=0.2, copy_share=0.2, **SMALL)
    return output, colonoscopy.draw(config)


def files(output: Path) -> dict[str, bytes]:
    found = [file for file in output.rglob("*") if file.is_file()]
    return {file.relative_to(output).as_posix(): file.read_bytes() for file in found}


def picture(output: Path, path: str) -> npt.NDArray[np.float64]:
    with Image.open(output / "frames" / path) as image:
        return np.asarray(image, np.float64) / 255


def thumbnail(output: Path, path: str) -> npt.NDArray[np.float64]:
    """Return 32 x 32 gray values, flat, with mean 0 and length 1: their dot product is a correlation."""
    with Image.open(output / "frames" / path) as image:
        gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64).ravel()
    return (gray - gray.mean()) / np.linalg.norm(gray - gray.mean())


def rows_of(truth: pa.Table, *kinds: str) -> list[dict[str, object]]:
    return [row for row in truth.to_pylist() if row["kind"] in kinds]


def test_default_config_plans_672_files() -> None:
    shots = colonoscopy.plan(colonoscopy.PhantomConfig(output="unused"))
    assert Counter(shot.kind for shot in shots) == {
        "distinct": 120,  # 6 procedures of 20 scenes
        "near_duplicate": 480,  # the other 4 of 5 frames
        "exact_copy": 18,  # half of 6 % of 600
        "reencoded_copy": 18,
        "blurred": 9,  # a quarter of 6 % of 600
        "black": 9,
        "white": 9,
        "out_of_body": 9,
    }
    assert len({shot.lineage[1] for shot in shots}) == 3
    assert len({shot.lineage[0] for shot in shots}) == 2


def test_truth_counts_by_kind(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn
    # 3 x 6 scenes, 72 clean frames, 20 % = 14 of each: 7 + 7 copies, 4 + 4 + 3 + 3 invalid frames.
    assert Counter(truth["kind"].to_pylist()) == {
        "distinct": 18,
        "near_duplicate": 54,
        "exact_copy": 7,
        "reencoded_copy": 7,
        "blurred": 4,
        "black": 4,
        "white": 3,
        "out_of_body": 3,
    }
    assert pq.read_table(output / "truth.parquet").equals(truth)
    assert truth.schema.equals(colonoscopy.TRUTH)


def test_truth_lists_exactly_the_files(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn
    frames = {"frames/" + path for path in truth["path"].to_pylist()}
    masked = truth.filter(truth["polyp"])["path"].to_pylist()
    masks = {"masks/" + path.replace(".jpg", ".png") for path in masked}
    assert len(masks) > 0
    assert set(files(output)) == frames | masks | {"truth.parquet"}
    for row in truth.to_pylist():
        assert row["path"].split("/")[:3] == [row["center"], row["patient"], row["procedure"]]
        assert row["path"].endswith(f"/frame_{row['frame_index']:05d}.jpg")


def test_scenes_are_runs_of_frames_that_begin_with_the_distinct_one(drawn: tuple[Path, pa.Table]) -> None:
    _, truth = drawn
    by_scene: dict[str, list[dict[str, object]]] = {}
    for row in rows_of(truth, "distinct", "near_duplicate"):
        by_scene.setdefault(str(row["scene"]), []).append(row)
    assert len(by_scene) == 18
    for members in by_scene.values():
        indices = [int(str(row["frame_index"])) for row in members]
        assert indices == list(range(indices[0], indices[0] + len(members)))
        assert [row["kind"] for row in members] == ["distinct"] + ["near_duplicate"] * (len(members) - 1)
    assert {row["scene"] for row in rows_of(truth, *invalid.INVALID_KINDS)} == {None}


def test_copies_of_valid_frames_carry_their_scene(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn
    by_path = {row["path"]: row for row in truth.to_pylist()}
    for row in rows_of(truth, *colonoscopy.COPY_KINDS):
        original = by_path[row["copy_of"]]
        assert original["kind"] in ("distinct", "near_duplicate")
        assert (original["scene"], original["polyp"]) == (row["scene"], row["polyp"])
        assert Path(row["path"]).parent != Path(original["path"]).parent
        mine, theirs = ((output / "frames" / path).read_bytes() for path in (row["path"], row["copy_of"]))
        assert (mine == theirs) == (row["kind"] == "exact_copy")
        assert thumbnail(output, row["path"]) @ thumbnail(output, original["path"]) > 0.995
    assert all(row["copy_of"] is None for row in rows_of(truth, "distinct", *invalid.INVALID_KINDS))


def test_masks_are_binary_fit_their_frame_and_lie_in_the_field_of_view(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn
    fields = {center: scene.field_of_view(center, 160, 128) for center in scene.CENTERS}
    for row in truth.filter(truth["polyp"]).to_pylist():
        with Image.open((output / "masks" / row["path"]).with_suffix(".png")) as image:
            mask = np.asarray(image)
        assert mask.shape == picture(output, row["path"]).shape[:2]
        assert set(np.unique(mask)) == {0, 255}
        if row["copy_of"] is None:
            assert 20 < np.count_nonzero(mask) < 0.4 * mask.size
            assert not np.any(mask[~fields[row["center"]]])


def test_a_polyp_changes_the_picture_on_its_mask_and_hardly_elsewhere() -> None:
    rng = np.random.default_rng
    wall = scene.mucosa(rng(0), rng(1), "center_a", 160, 128)
    (with_polyp, mask_HW), (without, empty_HW) = (
        scene.render_view(wall, scene.view(rng(2), (0.9, 0.4), polyps), scene.Camera()) for polyps in (1, 0)
    )
    change_HW = np.abs(with_polyp - without).max(axis=0)
    assert not empty_HW.any()
    assert np.mean(change_HW[mask_HW] > 0.01) > 0.95
    rows, columns = np.nonzero(mask_HW)
    far_HW = np.ones_like(mask_HW)  # a shadow falls next to the polyp, but not further than its own size
    reach = max(np.ptp(rows), np.ptp(columns))
    top, left = max(0, rows.min() - reach), max(0, columns.min() - reach)
    far_HW[top : rows.max() + reach, left : columns.max() + reach] = False
    assert far_HW.any()
    assert not change_HW[far_HW].any()


def test_frames_look_like_their_kind(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn

    def measure(row: dict[str, object]) -> tuple[float, float, float]:
        field = scene.field_of_view(str(row["center"]), 160, 128)
        inside = picture(output, str(row["path"]))[field]
        gray = picture(output, str(row["path"])).mean(axis=2)[32:96, 48:112]  # the middle: no border in it
        return inside.mean(), np.abs(np.diff(gray)).mean(), (inside[:, 0] - inside[:, 2]).mean()

    clean = [measure(row) for row in rows_of(truth, "distinct", "near_duplicate")]
    assert all(0.15 < light < 0.8 and redness > 0.1 for light, _, redness in clean)
    assert max(measure(row)[0] for row in rows_of(truth, "black")) < 0.03
    assert min(measure(row)[0] for row in rows_of(truth, "white")) > 0.9
    assert max(measure(row)[2] for row in rows_of(truth, "out_of_body")) < min(clean, key=lambda m: m[2])[2]
    blurred = [measure(row)[1] for row in rows_of(truth, "blurred")]
    assert max(blurred) < 0.7 * min(sharpness for _, sharpness, _ in clean)


def test_near_duplicates_are_nearest_to_the_first_frame_of_their_scene(drawn: tuple[Path, pa.Table]) -> None:
    output, truth = drawn
    firsts = rows_of(truth, "distinct")
    scenes = [row["scene"] for row in firsts]
    firsts_SD = np.stack([thumbnail(output, str(row["path"])) for row in firsts])
    seen = {(output / "frames" / str(row["path"])).read_bytes() for row in firsts}
    for row in rows_of(truth, "near_duplicate"):
        seen.add((output / "frames" / str(row["path"])).read_bytes())
        similarity_S = firsts_SD @ thumbnail(output, str(row["path"]))
        own = scenes.index(row["scene"])
        assert similarity_S[own] > 0.93
        assert np.argmax(similarity_S) == own
    assert len(seen) == 72  # near, not equal: the camera moves


def test_same_config_same_bytes_and_redrawing_is_harmless(tmp_path: Path) -> None:
    tiny = {"procedures": 2, "scenes": 2, "frames_per_scene": 2, "width": 64, "height": 64}
    shares = {"invalid_share": 0.5, "copy_share": 0.5}
    one, other, seeded = (
        colonoscopy.PhantomConfig(output=str(tmp_path / name), seed=seed, **tiny, **shares)
        for name, seed in (("one", 7), ("other", 7), ("seeded", 8))
    )
    for config in (one, other, seeded, one):
        colonoscopy.draw(config)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    first = "frames/center_a/patient_00/procedure_00/frame_00000.jpg"
    assert files(tmp_path / "one")[first] != files(tmp_path / "seeded")[first]
    assert not files(tmp_path / "one").keys() & {"truth.parquet.part"}
    with pytest.raises(ValueError, match=r"the truth of another config.*choose another output"):
        colonoscopy.draw(colonoscopy.PhantomConfig(output=str(tmp_path / "one"), seed=8, **tiny, **shares))
    (tmp_path / "one/truth.parquet").unlink()  # as if a draw had been killed
    (tmp_path / "one/frames/foreign.jpg").touch()
    with pytest.raises(ValueError, match=r"foreign\.jpg, which this config does not draw"):
        colonoscopy.draw(one)


def test_frames_do_not_depend_on_how_many_procedures_there_are(tmp_path: Path) -> None:
    tiny = {
        "scenes": 2,
        "frames_per_scene": 2,
        "width": 64,
        "height": 64,
        "invalid_share": 0,
        "copy_share": 0,
    }
    few = colonoscopy.draw(colonoscopy.PhantomConfig(output=str(tmp_path / "few"), procedures=1, **tiny))
    colonoscopy.draw(colonoscopy.PhantomConfig(output=str(tmp_path / "many"), procedures=2, **tiny))
    many = files(tmp_path / "many")
    for path in few["path"].to_pylist():
        assert (tmp_path / "few/frames" / path).read_bytes() == many["frames/" + path]


def test_kinds_of_invalid_frames_are_chosen_in_turn() -> None:
    few = {"procedures": 2, "scenes": 4, "frames_per_scene": 3}
    config = colonoscopy.PhantomConfig(output="x", invalid_share=2.0, invalid_kinds=("white", "black"), **few)
    kinds = Counter(shot.kind for shot in colonoscopy.plan(config) if shot.scene is None)
    assert kinds == {"white": 24, "black": 24}


def test_static_is_noise_about_a_colour_of_its_own(tmp_path: Path) -> None:
    small = {"procedures": 2, "scenes": 2, "frames_per_scene": 3, "width": 160, "height": 128, "copy_share": 0.0}
    config = colonoscopy.PhantomConfig(output=str(tmp_path), invalid_share=1.0, invalid_kinds=("static",), **small)
    truth = colonoscopy.draw(config)
    middle = np.s_[44:84, 60:100]  # within the field of view
    static = [picture(tmp_path, str(row["path"]))[middle] for row in rows_of(truth, "static")]
    assert len(static) == 12

    def likeness(image: npt.NDArray[np.float64]) -> float:
        """The correlation of brightness with that eight pixels to the right."""
        gray = image.mean(axis=2)
        return float(np.corrcoef(gray[:, :-8].ravel(), gray[:, 8:].ravel())[0, 1])

    assert np.abs(list(map(likeness, static))).mean() < 0.2
    assert min(image.mean(axis=2).std() for image in static) > 0.02
    assert np.std([image.mean(axis=(0, 1)) for image in static], axis=0).min() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": ""}, "output is empty"),
        ({"procedures": 0}, "procedures is 0; expected a whole number from 1"),
        ({"scenes": -1}, "scenes is -1"),
        ({"frames_per_scene": 2.5}, r"frames_per_scene is 2\.5"),
        ({"height": 63}, "height is 63; expected a whole number from 64"),
        ({"width": 128, "height": 256}, "width 128 is below height 256"),
        ({"copy_share": 1.5}, r"copy_share is 1\.5; expected a share from 0 to 1"),
        ({"invalid_share": 11}, "invalid_share is 11; expected a share from 0 to 10"),
        ({"invalid_kinds": ("black", "gray")}, "invalid_kinds is .*; expected some of blurred, black, white"),
        ({"copy_share": float("nan")}, "copy_share is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_config(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colonoscopy.PhantomConfig(**{"output": "somewhere", **change})
