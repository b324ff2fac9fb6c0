"""Loading by name: what is told of a wrong or partial folder, official lists, names, and the real sets."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from training import datasets, layouts, masks, splits
from training.layouts import LAYOUTS

DATA = os.environ.get("ENDOSIEVE_DATA")


def pairs(count: int, root: Path, images: str = "images", masks_in: str = "masks") -> Path:
    """`count` pairs of empty files 0.jpg, 1.jpg, ... below `root`."""
    for folder in (images, masks_in):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number}.jpg").touch()
    return root


def test_a_whole_set_is_taken_and_named_alike_wherever_it_lies(tmp_path: Path) -> None:
    inner = pairs(196, tmp_path / "outer" / "sessile-main-Kvasir-SEG")
    (tmp_path / "outer" / "__MACOSX" / "images").mkdir(parents=True)
    (tmp_path / "outer" / "__MACOSX" / "images" / "._0.jpg").touch()
    (inner / "images" / ".hidden.jpg").touch()
    found = datasets.load("kvasir-sessile", str(inner))
    again = datasets.load("Kvasir_Sessile", str(tmp_path / "outer"))
    assert (found.name, again.name, found.layout) == ("kvasir-sessile", "kvasir-sessile", LAYOUTS["kvasir-sessile"])
    assert found.examples == again.examples
    assert [example.name for example in found.examples] == sorted(map(str, range(196)))
    first = found.examples[0]
    assert (first.image, first.masks) == (str(inner / "images/0.jpg"), (str(inner / "masks/0.jpg"),))
    assert found.skipped == ()


def test_a_partial_set_is_told_what_is_missing(tmp_path: Path) -> None:
    folder = pairs(195, tmp_path)
    (folder / "masks" / "7.jpg").unlink()
    (folder / "images" / "8.jpg").unlink()
    with pytest.raises(ValueError, match=r"kvasir-sessile in .* is not whole") as caught:
        datasets.load("kvasir-sessile", str(folder))
    text = str(caught.value)
    assert "images without a mask: 1 (images/7.jpg)" in text
    assert "masks without an image: 1 (masks/8.jpg)" in text
    assert "193 of 196 images with masks" in text
    assert "images/NAME.jpg + masks/NAME.jpg" in text
    assert "generic=DIR" in text
    found = datasets.load("kvasir-sessile", str(folder), partial=True)
    assert len(found.examples) == 193
    assert found.skipped == ("images/7.jpg",)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_folder_is_shown_the_expected_tree(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").touch()
    for partial in (False, True):
        with pytest.raises(ValueError, match="no image with its mask where one is expected") as caught:
            datasets.load(name, str(tmp_path), partial=partial)
        assert all(pair.shown in str(caught.value) for tree in LAYOUTS[name].trees for pair in tree.pairs)
    with pytest.raises(ValueError, match="is no folder") as caught:
        datasets.load(name, str(tmp_path / "nowhere"))
    assert LAYOUTS[name].trees[0].pairs[0].shown in str(caught.value)


def test_images_without_any_masks(tmp_path: Path) -> None:
    folder = pairs(5, tmp_path)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    with pytest.raises(
        ValueError, match=re.escape("without a mask: 5 (images/0.jpg, images/1.jpg, images/2.jpg, ...)")
    ):
        datasets.load("generic", str(folder))


def test_two_formats_of_one_image_are_an_error(tmp_path: Path) -> None:
    folder = pairs(2, tmp_path)
    (folder / "images" / "1.png").touch()
    for partial in (False, True):
        with pytest.raises(ValueError, match=re.escape("the same name doubles: 1 (images/1.png)")):
            datasets.load("generic", str(folder), partial=partial)


def test_another_set_under_a_sets_name(tmp_path: Path) -> None:
    folder = pairs(700, tmp_path)
    with pytest.raises(ValueError, match="frames 1 to 612"):
        datasets.load("cvc-clinicdb", str(folder))


def test_images_without_masks_are_left_out_where_the_set_has_such(tmp_path: Path) -> None:
    folder = pairs(4, tmp_path)
    (folder / "masks" / "2.jpg").rename(folder / "masks" / "1_mask.jpg")
    found = datasets.load("imageclefmed", str(folder))
    assert {example.name: len(example.masks) for example in found.examples} == {"0": 1, "1": 2, "3": 1}
    assert found.skipped == ("images/2.jpg",)


def test_the_official_lists_are_the_split(tmp_path: Path) -> None:
    folder = pairs(590, tmp_path / "kvasir-instrument")
    (folder / "train.txt").write_text("\n".join(str(number) for number in range(472)))
    with_suffix = "\n".join(f"{number}.jpg" for number in range(472, 590))
    assert {example.split for example in datasets.load("kvasir-instrument", str(tmp_path)).examples} == {""}
    (folder / "test.txt").write_text(with_suffix + "\n")  # both lists are there only now
    found = datasets.load("kvasir-instrument", str(tmp_path))
    assert Counter(example.split for example in found.examples) == {"train": 472, "test": 118}
    assert all((example.split == "test") == (int(example.name) >= 472) for example in found.examples)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("0 1 2", "3 9", r"images that are not there: 1 \(9\)"),
        ("0 1", "3", r"no list in .* names these images: 1 \(2\)"),
        ("0 1 2 3", "3", r"test.txt names what another list names too: 1 \(3\)"),
    ],
)
def test_lists_that_do_not_fit_are_an_error(
    train: str, test: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layouts.LAYOUTS, "kvasir-instrument", replace(LAYOUTS["kvasir-instrument"], count=4))
    folder = pairs(4, tmp_path)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    with pytest.raises(ValueError, match=message):
        datasets.load("kvasir-instrument", str(folder))


def test_flags_are_parsed() -> None:
    assert datasets.parse("kvasir-seg=/data/a=b") == ("kvasir-seg", "/data/a=b")
    assert datasets.parse("CVC_ClinicDB=x") == ("cvc-clinicdb", "x")
    with pytest.raises(ValueError, match=r"'/data/Kvasir-SEG' is no NAME=DIR; write for example kvasir-seg="):
        datasets.parse("/data/Kvasir-SEG")
    with pytest.raises(ValueError, match="is no NAME=DIR"):
        datasets.parse("kvasir-seg=")
    with pytest.raises(ValueError, match=r"named 'kvasir-segg'; did you mean kvasir-seg\?.*generic=DIR"):
        datasets.parse("kvasir-segg=x")
    with pytest.raises(ValueError, match=r"did you mean etis-larib\?"):
        datasets.parse("ETIS-LaribPolypDB=x")
    with pytest.raises(ValueError, match=r"named 'xyzzy'; Known: kvasir-seg, "):
        datasets.parse("xyzzy=x")


def test_the_table_tells_every_set() -> None:
    table = datasets.table()
    for name, layout in LAYOUTS.items():
        assert f"\n{name}: " in f"\n{table}"
        for text in (layout.split, layout.licence, layout.citation, layout.note):
            assert text in table
    assert "polypgen2021: 3,762 images" in table
    assert "generic: count unknown" in table


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/")
def test_the_real_sets() -> None:
    kvasir = datasets.load("kvasir-seg", f"{DATA}/data/kvasir_seg_352")
    endotect = datasets.load("endotect", f"{DATA}/data/endotect2020_512")
    assert (len(kvasir.examples), len(endotect.examples)) == (1000, 200)
    parts = splits.split(kvasir, seed=0)
    assert {part: len(examples) for part, examples in parts.items()} == {
        "train": 800,
        "validation": 100,
        "test": 100,
        "left_out": 0,
    }
    assert {example.name.split("/")[0] for example in parts["test"]} == {"test"}
    external = splits.split(endotect, seed=0)
    assert {part: len(examples) for part, examples in external.items() if examples} == {"test": 200}
    some = [*parts["test"][:3], *external["test"][:3]]
    images, lesions = masks.arrays(some, 64)
    assert (images.shape, lesions.shape) == ((6, 64, 64, 3), (6, 64, 64))
    assert all(0.001 < share < 0.9 for share in lesions.mean(axis=(1, 2)))
    inside, outside = images[lesions == 1].mean(axis=0), images[lesions == 0].mean(axis=0)
    assert inside[0] > outside[0] > 20  # a lesion is lit, the rim is dark
