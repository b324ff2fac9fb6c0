"""Masks of every coding, read by what all of a set hold together, through the preparation that evaluate does."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from PIL import Image

from curation.store.directory import RunDirectory
from training.datasets import codings, folders, prepared
from training.datasets.masks import resize_mask
from training.datasets.near_copies import near_pairs, small_copies
from training.datasets.prepared import PreparedSet, copy_notes, load_array, pairs, prepare_set, with_near_copies
from training.metrics import iou
from training.segmentation import finetune, model, probes
from training.segmentation.config import FinetuneConfig
from training.segmentation.tokens import load_encoder

Pixels = npt.NDArray[Any]
SIDE, NUMBER = 32, 12
DATA = os.environ.get("ENDOSIEVE_DATA")
CLASS = {number: 1 + number % 6 for number in range(NUMBER)}


def disc(number: int = 0, radius: float = 9.0, size: int = SIDE) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:size, :size]
    return (rows - 14 - number % 4) ** 2 + (columns - 12 - number % 5) ** 2 < radius**2


def ring(number: int) -> npt.NDArray[np.bool_]:
    return disc(number, 11.0) & ~disc(number)


def picture(number: int, size: int = SIDE) -> Image.Image:
    low = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC)


def drawn(folder: Path, write: Callable[[Path, int], Path | None]) -> Path:
    """A set of pictures with the masks that `write` puts at a path without suffix."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(NUMBER):
        picture(number).save(folder / "images" / f"{number:02d}.png")
        write(folder / "masks" / f"{number:02d}", number)
    return folder


def made(folder: Path, run: Path, size: int = SIDE, **asked: Any) -> tuple[PreparedSet, Pixels]:
    """The set as prepared, all of it test, and its masks."""
    found = RunDirectory(str(run))
    choice = (asked.get("coding", "auto"), asked.get("ignore"))
    one = prepare_set(found, "set", folders.find_dataset("generic", str(folder)), size, None, choice)
    return one, np.asarray(load_array(found, f"{one.stem}.masks.npy"))


def gray(*, inside: Any = 255, outside: Any = 0, around: Any = None, kind: Any = np.uint8, suffix: str = "png") -> Any:
    """Write gray masks: values inside the disc (by number where a dict), outside, and in the ring."""

    def write(path: Path, number: int) -> None:
        value = inside[number] if isinstance(inside, dict) else inside
        values = np.where(disc(number), value, outside).astype(kind)
        if around is not None:
            values[ring(number)] = around
        if suffix == "tif":
            tifffile.imwrite(path.with_suffix(".tif"), values, photometric="minisblack")
        else:
            Image.fromarray(values).save(path.with_suffix(f".{suffix}"), quality=90)

    return write


def rgba(path: Path, number: int) -> None:
    values = np.full((SIDE, SIDE, 4), 255, np.uint8)
    values[:, :, 3] = disc(number) * 255
    Image.fromarray(values).save(path.with_suffix(".png"))


def colours(path: Path, number: int, border: bool = False) -> None:
    palette = [(64, 0, 0), (0, 64, 0), (0, 0, 128)]
    values = np.zeros((SIDE, SIDE, 3), np.uint8)
    values[disc(number)] = palette[number % 3]
    if border:
        values[ring(number)] = codings.BORDER
    Image.fromarray(values).save(path.with_suffix(".png"))


def halved(path: Path, number: int) -> None:
    """Drawn at twice the size and shrunk: edges of 64, 128 and 191."""
    large = Image.fromarray(disc(number, 18.0, 2 * SIDE).astype(np.uint8) * 255)
    large.resize((SIDE, SIDE), Image.Resampling.BOX).save(path.with_suffix(".png"))


CODED = {
    "white": gray(),
    "0 and 1": gray(inside=1),
    "0 and 100": gray(inside=100),
    "0 and 10": gray(inside=10),
    "truth values": gray(kind=np.bool_),
    "floats": gray(inside=1, kind=np.float32, suffix="tif"),
    "white floats": gray(kind=np.float32, suffix="tif"),
    "16 bits": gray(inside=65535, kind=np.uint16),
    "16 bits, one value": gray(inside=4000, kind=np.uint16, suffix="tif"),
    "classes": gray(inside=CLASS),
    "classes to 50": gray(inside={number: 6 + 4 * number for number in range(NUMBER)}),
    "16-bit classes": gray(inside=CLASS, kind=np.uint16),
    "32-bit classes": gray(inside=CLASS, kind=np.int32, suffix="tif"),
    "float classes": gray(inside=CLASS, kind=np.float32, suffix="tif"),
    "transparency": rgba,
    "dark colours": colours,
    "jpeg": gray(suffix="jpg"),
}
OPEN = {
    "classes and 255": gray(inside=CLASS, around=255),
    "classes of 11 to 22 and 255": gray(inside={n: 11 + n for n in range(NUMBER)}, around=255),
    "16-bit classes and 65535": gray(inside=CLASS, around=65535, kind=np.uint16),
    "one class and 255": gray(inside=1, around=255),
    "colours and a border": lambda path, number: colours(path, number, border=True),
}
DOUBTFUL = {
    "1 and 2": (gray(inside=2, outside=1), "the values 1, 2"),
    "100 and 200": (gray(inside=200, outside=100), "the values 100, 200"),
    "three grays": (gray(inside=128, around=255), "the values 0, 128, 255"),
    "nothing bright": (gray(inside={n: 60 + n for n in range(NUMBER)}), "the values 0, 60, 61"),
    "many numbers": (gray(inside={n: 10 * n + 1 for n in range(NUMBER)}, around=255), "the values 0, 1, 11"),
    "two codings": (
        gray(inside={n: 255 if n % 2 else 1 for n in range(NUMBER)}),
        "no file holds 255 together with another",
    ),
    "dark jpegs": (gray(inside=6, suffix="jpg"), "lossy files with no value above"),
    "white alone": (gray(outside=255), "the values 255"),
    "16-bit numbers": (gray(inside=1000, around=2000, kind=np.uint16), "the values 0, 1000, 2000"),
}


@pytest.mark.parametrize("name", CODED)
def test_the_disc_is_foreground_in_every_coding(name: str, tmp_path: Path) -> None:
    one, masks = made(drawn(tmp_path / "set", CODED[name]), tmp_path / "run")
    expected = np.stack([disc(number) for number in range(NUMBER)]).astype(np.uint8)
    if name == "jpeg":
        assert (masks != expected).mean() < 0.01
    else:
        assert np.array_equal(masks, expected)
    assert one.coding
    assert one.faults == ()


def test_gray_edges_are_not_classes(tmp_path: Path) -> None:
    _, masks = made(drawn(tmp_path / "set", halved), tmp_path / "run")
    expected = np.stack([np.asarray(Image.open(p)) > 127 for p in sorted((tmp_path / "set/masks").iterdir())])
    assert np.array_equal(masks, expected)
    assert 150 < masks[0].sum() < 300


@pytest.mark.parametrize("name", OPEN)
def test_what_is_left_open_is_ignored_and_never_foreground(name: str, tmp_path: Path) -> None:
    one, masks = made(drawn(tmp_path / "set", OPEN[name]), tmp_path / "run")
    for number in range(NUMBER):
        assert np.array_equal(masks[number] == 1, disc(number))
        assert np.array_equal(masks[number] == codings.IGNORED, ring(number))
    assert "foreground" in one.coding


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_cannot_be_told_is_refused_with_its_values(name: str, tmp_path: Path) -> None:
    write, found = DOUBTFUL[name]
    with pytest.raises(ValueError, match=found) as caught:
        made(drawn(tmp_path / "set", write), tmp_path / "run")
    assert "--mask-coding" in str(caught.value)
    assert "--ignore-value" in str(caught.value)


def test_the_flags_decide(tmp_path: Path) -> None:
    folder, run = drawn(tmp_path / "set", gray(inside=128, around=255)), tmp_path / "run"
    both = np.stack([disc(number) | ring(number) for number in range(NUMBER)]).astype(np.uint8)
    assert np.array_equal(made(folder, run, coding="classes")[1], both)
    assert np.array_equal(made(folder, run, coding="binary")[1], both)
    _, masks = made(folder, run, coding="binary", ignore=255)
    assert np.array_equal(masks == codings.IGNORED, both - np.stack([disc(n) for n in range(NUMBER)]))
    assert np.array_equal(made(folder, run, ignore=255)[1], masks)  # 0 and 128 are left
    assert len({made(folder, run, **asked)[0].stem for asked in ({"ignore": 255}, {"coding": "classes"})}) == 2


def test_a_known_set_states_its_coding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = drawn(tmp_path / "set", gray(inside=128, around=255))
    found = folders.replace(folders.find_dataset("generic", str(folder)), name="kvasir-seg")
    one = prepare_set(RunDirectory(str(tmp_path / "run")), "set", found, SIDE, None)
    assert one.coding == "as the set states"


def test_open_pixels_shrink_by_area() -> None:
    mask = np.array([[1, 255, 255, 255], [1, 0, 0, 255], [1, 1, 1, 255], [255, 0, 0, 0]], np.uint8)
    # three quarters of what is told is foreground; three of four open; two of three told; one of three told
    assert resize_mask(mask, (2, 2)).tolist() == [[1, 255], [1, 0]]


def test_one_missing_mask_is_told_and_many_are_refused(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", gray())
    (folder / "masks/03.png").unlink()
    Image.fromarray(disc()).save(folder / "masks/extra.png")
    found = folders.find_dataset("generic", str(folder))
    assert len(found.examples) == NUMBER - 1
    assert found.notes() == [
        "generic: images without a mask are skipped: 1 (images/03.png)",
        "generic: masks without an image are skipped: 1 (masks/extra.png)",
    ]
    (folder / "masks/04.png").unlink()
    with pytest.raises(ValueError, match=r"images without a mask: 2 \(images/03.png, images/04.png\)"):
        folders.find_dataset("generic", str(folder))


@pytest.mark.parametrize("what", ["images", "masks"])
def test_one_bad_file_is_left_out_and_many_are_refused(what: str, tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", gray())
    (folder / what / "03.png").write_bytes(b"not a picture")
    one, masks = made(folder, tmp_path / "run")
    assert len(one.names) == len(masks) == NUMBER - 1
    assert "03" not in one.names
    assert any(line.startswith("set: left out of 12 images: 1 (03: ") for line in one.notes())
    assert made(folder, tmp_path / "run")[0] == one  # what was decoded before tells the same
    (folder / what / "04.png").write_bytes(b"nor this")
    with pytest.raises(ValueError, match="2 of 12 images cannot be used, more than 10%"):
        made(folder, tmp_path / "run")


def test_an_image_that_is_all_open_is_left_out(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", gray(inside=CLASS, around=255))
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(folder / "masks/05.png")
    one, masks = made(folder, tmp_path / "run")
    assert one.faults == ("05: all of its mask is ignored",)
    assert len(masks) == NUMBER - 1


def test_loss_gradient_and_scores_are_blind_to_open_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    for outputs in (1, 3):
        logits = torch.randn(2, outputs, 8, 8, generator=generator, requires_grad=True)
        masks = torch.randint(0, max(2, outputs), (2, 8, 8), generator=generator).to(torch.uint8)
        masks[:, :, 5:] = codings.IGNORED
        loss = model.segmentation_loss(logits, masks)
        torch.autograd.backward(loss)
        assert logits.grad is not None
        assert not logits.grad[..., 5:].any()
        assert logits.grad[..., :5].abs().min() > 0
        torch.testing.assert_close(loss, model.segmentation_loss(logits[..., :5], masks[..., :5]))
        nothing = model.segmentation_loss(logits, torch.full_like(masks, codings.IGNORED))
        assert float(nothing.detach()) == 0
    found = np.random.default_rng(0).integers(0, 2, (2, 8, 8)).astype(np.uint8)
    truth = masks.numpy().clip(0, 1) + 254 * (masks.numpy() == codings.IGNORED).astype(np.uint8)
    assert np.array_equal(
        iou.confusion_counts(found, truth, ignored=255), iou.confusion_counts(found[..., :5], truth[..., :5])
    )
    assert np.array_equal(iou.image_ious(found, truth), iou.image_ious(found[..., :5], truth[..., :5]))
    with pytest.raises(ValueError, match="prediction holds values 0 to 255"):
        iou.confusion_counts(truth, found, ignored=255)


def test_probes_are_blind_to_open_pixels() -> None:
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 2, (3, 8, 8)).astype(np.uint8)
    masks[:, :, 6:] = codings.IGNORED  # the last patches of each row
    masks[:, :1, :2] = codings.IGNORED
    shares = probes.patch_shares(masks, 4, 2).reshape(3, 4, 4, 2)
    assert not shares[:, :, 3].any()
    assert torch.allclose(shares[:, :, :3].sum(dim=3), torch.ones(3, 4, 3))
    assert shares[0, 0, 0, 1] == pytest.approx(masks[0, 1, :2].mean())
    tokens = torch.from_numpy(rng.normal(size=(3, 16, 5))).float()
    other = tokens.clone().reshape(3, 4, 4, 5)
    other[:, :, 3] += 100
    for found in (probes.linear_probe, probes.neighbour_probe):
        first, second = (found(each, masks, tokens, 8) for each in (tokens, other.reshape(3, 16, 5)))
        assert np.array_equal(first, second)


def test_a_fine_tuned_model_does_not_see_what_is_open() -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.stack([disc(number) for number in range(4)]).astype(np.uint8)
    masks[:, :, 20:] = codings.IGNORED
    config = FinetuneConfig(epochs=2, batch_size=4, image_size=SIDE, head_width=8, precision="float32")
    encoder = load_encoder("random", SIDE, "test_vit")
    epochs = list(finetune.finetune(encoder, prepared.Pairs(images, masks), prepared.Pairs(images, masks), config))
    assert epochs[-1].model.outputs == 1  # 255 is no class
    found = model.predict(epochs[-1].model, images)
    expected = iou.image_ious(found[:, :, :20], masks[:, :, :20]).mean()
    assert epochs[0].metrics["validation_iou"] <= expected
    assert np.isfinite(epochs[-1].metrics["loss"])


def test_test_images_that_are_trained_ones_at_another_size_are_left_out(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    first, other = (drawn(tmp_path / name, gray()) for name in ("first", "other"))
    for number in range(NUMBER):
        image = picture(number if number < 4 else 100 + number, 3 * SIDE)
        image.resize((2 * SIDE, 2 * SIDE)).save(other / f"images/{number:02d}.jpg", quality=85)
        (other / f"images/{number:02d}.png").unlink()
        Image.fromarray(disc(0, 18, 2 * SIDE)).save(other / f"masks/{number:02d}.png")
    trained = prepare_set(run, "first", folders.find_dataset("generic", str(first)), SIDE, 0)
    tested = prepare_set(run, "other", folders.find_dataset("generic", str(other)), SIDE, None)
    sets = with_near_copies(run, [trained, tested])
    known = {int(trained.names[row]) for part in ("train", "validation") for row in trained.parts[part]}
    copies = {number for number in range(4) if number in known}
    assert len(copies) >= 2
    left = {int(sets[1].names[row]) for row in sets[1].test_rows(sets[0])}
    assert left == set(range(NUMBER)) - copies
    assert len(tested.test_rows(trained)) == NUMBER  # bytes alone do not tell
    [line] = copy_notes(sets)
    assert line.startswith(f"other: {len(copies)} (")
    assert "of training or validation images of first" in line
    assert len(pairs(run, sets[1], sets[1].test_rows(sets[0])).images) == len(left)


def test_originals_in_full_size_are_found_and_no_other_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images = np.stack([np.asarray(picture(int(seed), 96)) for seed in rng.integers(0, 9999, 20)])
    smaller = np.stack([np.asarray(Image.fromarray(image).resize((48, 48)).resize((96, 96))) for image in images])
    found = list(near_pairs(small_copies(smaller), small_copies(images)))
    assert found == [(row, row) for row in range(20)]
    darker = (images * 0.7 + 20).astype(np.uint8)
    assert len(list(near_pairs(small_copies(darker), small_copies(images)))) == 20
    flat = np.full((2, 48, 48, 3), 9, np.uint8)
    assert list(near_pairs(small_copies(flat), small_copies(flat))) == []
    assert small_copies(images[:0]).shape == (0, 1024)


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/")
def test_real_originals_are_found_in_a_set_of_smaller_frames(tmp_path: Path) -> None:
    def small(folder: str) -> npt.NDArray[np.float32]:
        found = sorted(Path(f"{DATA}/data/{folder}/images").rglob("*.jpg"))
        squares = [np.asarray(Image.open(path).convert("RGB").resize((128, 128))) for path in found]
        return small_copies(np.stack(squares))

    frames, originals = small("kvasir_seg_352"), small("kvasir_seg_orig30")
    assert (len(frames), len(originals)) == (1000, 30)
    pairs_found = list(near_pairs(originals, frames))
    assert sorted({row for row, _ in pairs_found}) == list(range(30))
    assert len({other for _, other in pairs_found}) == len(pairs_found) <= 31
    own = [(row, other) for row, other in near_pairs(frames, frames) if row < other]
    assert len(own) == 3  # published twice
    assert list(near_pairs(small("endotect2020_512"), frames)) == []
