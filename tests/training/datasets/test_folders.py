"""Loading by name: what is told of a wrong or partial folder, official lists, names, and the real sets."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from training.datasets import catalogue, folders, masks, splits
from training.datasets.catalogue import LAYOUTS

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
    found = folders.find_dataset("kvasir-sessile", str(inner))
    again = folders.find_dataset("Kvasir_Sessile", str(tmp_path / "outer"))
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
    with pytest.raises(ValueError, match=r"kvasir-sessile in .* is incomplete") as caught:
        folders.find_dataset("kvasir-sessile", str(folder))
    text = str(caught.value)
    assert "images without a mask: 1 (images/7.jpg)" in text
    assert "masks without an image: 1 (masks/8.jpg)" in text
    assert "193 of 196 images with masks" in text
    assert "images/NAME.jpg + masks/NAME.jpg" in text
    assert "generic=DIR" in text
    found = folders.find_dataset("kvasir-sessile", str(folder), partial=True)
    assert len(found.examples) == 193
    assert found.skipped == ("images/7.jpg",)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_folder_is_shown_the_expected_tree(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").touch()
    for partial in (False, True):
        with pytest.raises(ValueError, match="no image with its mask where one is expected") as caught:
            folders.find_dataset(name, str(tmp_path), partial=partial)
        assert all(pair.shown in str(caught.value) for tree in LAYOUTS[name].trees for pair in tree.pairs)
    with pytest.raises(ValueError, match="is not a folder") as caught:
        folders.find_dataset(name, str(tmp_path / "nowhere"))
    assert LAYOUTS[name].trees[0].pairs[0].shown in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "wrong", "told"),
    [
        ("cvc-300", 60, 380, "380, not 60, images with masks"),
        ("cvc-colondb", 380, 381, "381, not 380, images with masks"),
        ("etis-larib", 196, 197, "197, not 196, images with masks"),
        ("kvasir-sessile", 196, 1000, "1000, not 196, images with masks"),
        ("kvasir-instrument", 590, 591, "591, not 590, images with masks"),
        ("endotect", 200, 201, "201, not 200, images with masks"),
    ],
)
def test_more_than_the_set_has_is_another_set(name: str, count: int, wrong: int, told: str, tmp_path: Path) -> None:
    assert len(folders.find_dataset(name, str(pairs(count, tmp_path))).examples) == count
    pairs(wrong, tmp_path)
    with pytest.raises(ValueError, match=told) as caught:
        folders.find_dataset(name, str(tmp_path))
    assert folders.expected(LAYOUTS[name]) in str(caught.value)
    assert len(folders.find_dataset(name, str(tmp_path), partial=True).examples) == wrong


@pytest.mark.parametrize("count", [299, 300, 301, 380, 381])
def test_the_count_may_differ_by_packing(count: int, tmp_path: Path) -> None:
    """CVC-ColonDB is published as bitmaps, of 300 frames."""
    for number in range(count):
        for letter in ("", "p", "c"):
            (tmp_path / f"{letter}{number}.bmp").touch()
    if count in (300, 380):
        assert len(folders.find_dataset("cvc-colondb", str(tmp_path)).examples) == count
        return
    told = "381, not 300 or 380, images" if count == 381 else f"{count} of 300 or 380 images"
    with pytest.raises(ValueError, match=told):
        folders.find_dataset("cvc-colondb", str(tmp_path))


def test_edd2020_has_380_or_386_images(tmp_path: Path) -> None:
    for count in (380, 386):
        for number in range(count):
            for path in (f"originalImages/A{number}.jpg", f"masks/A{number}_polyp.tif"):
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).touch()
        assert len(folders.find_dataset("edd2020", str(tmp_path)).examples) == count


def pranet(root: Path, sets: dict[str, Sequence[object]], train: Sequence[object] = ()) -> Path:
    """PraNet's folders: names of frames by set below TestDataset, and those of TrainDataset."""
    places = {f"TestDataset/{name}/{kind}s": names for name, names in sets.items() for kind in ("image", "mask")}
    for place, names in {**places, "TrainDataset/image": train, "TrainDataset/mask": train}.items():
        (root / place).mkdir(parents=True)
        for name in names:
            (root / place / f"{name}.png").touch()
    return root


def test_a_name_in_both_of_pranets_folders_is_an_error(tmp_path: Path) -> None:
    """Names tell examples apart: two of one name would be one."""
    root = pranet(tmp_path, {"CVC-ClinicDB": range(1, 63)}, range(62, 613))
    for partial in (False, True):
        with pytest.raises(ValueError, match=re.escape("another file: 1 (TrainDataset/image/62.png)")):
            folders.find_dataset("cvc-clinicdb", str(root), partial=partial)
    for kind in ("image", "mask"):
        (root / f"TrainDataset/{kind}/62.png").unlink()
    names = [example.name for example in folders.find_dataset("cvc-clinicdb", str(root)).examples]
    assert sorted(map(int, names)) == list(range(1, 613))


def test_pranets_parts_of_one_frame_have_names_of_their_own(tmp_path: Path) -> None:
    frames = [f"cju{number:020d}" for number in range(1000)]
    found = folders.find_dataset(
        "kvasir-seg", str(pranet(tmp_path, {"Kvasir": frames[:100]}, [*frames[101:], frames[0]]))
    )
    assert {example.name for example in found.examples} >= {f"Test/{frames[0]}", f"Train/{frames[0]}"}
    assert len({example.name for example in found.examples}) == 1000


@pytest.mark.parametrize("below", ["", "TestDataset", "TestDataset/CVC-300"])
def test_pranets_test_folder_may_be_given_itself(below: str, tmp_path: Path) -> None:
    root = pranet(tmp_path, {"CVC-300": range(149, 209), "CVC-ColonDB": range(1, 381), "ETIS-LaribPolypDB": [1]}, [7])
    found = folders.find_dataset("cvc-300", str(root / below))
    assert [example.name for example in found.examples] == [str(number) for number in range(149, 209)]
    assert found.examples[0].masks == (str(tmp_path / "TestDataset/CVC-300/masks/149.png"),)
    with pytest.raises(ValueError, match=r"380, not 60, images with masks"):
        folders.find_dataset("cvc-300", str(root / "TestDataset/CVC-ColonDB"))


def test_images_without_any_masks(tmp_path: Path) -> None:
    folder = pairs(5, tmp_path)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    with pytest.raises(
        ValueError, match=re.escape("without a mask: 5 (images/0.jpg, images/1.jpg, images/2.jpg, ...)")
    ):
        folders.find_dataset("generic", str(folder))


def test_two_formats_of_one_image_are_an_error(tmp_path: Path) -> None:
    folder = pairs(2, tmp_path)
    (folder / "images" / "1.png").touch()
    for partial in (False, True):
        with pytest.raises(ValueError, match=re.escape("the same name as another file: 1 (images/1.png)")):
            folders.find_dataset("generic", str(folder), partial=partial)


def test_another_set_under_a_sets_name(tmp_path: Path) -> None:
    folder = pairs(700, tmp_path)
    with pytest.raises(ValueError, match="frames 1 to 612"):
        folders.find_dataset("cvc-clinicdb", str(folder))


def test_images_without_masks_are_left_out_where_the_set_has_such(tmp_path: Path) -> None:
    folder = pairs(4, tmp_path)
    (folder / "masks" / "2.jpg").rename(folder / "masks" / "1_mask.jpg")
    found = folders.find_dataset("imageclefmed", str(folder))
    assert {example.name: len(example.masks) for example in found.examples} == {"0": 1, "1": 2, "3": 1}
    assert found.skipped == ("images/2.jpg",)


def test_the_official_lists_are_the_split(tmp_path: Path) -> None:
    folder = pairs(590, tmp_path / "kvasir-instrument")
    (folder / "train.txt").write_text("\n".join(str(number) for number in range(472)))
    with_suffix = "\n".join(f"{number}.jpg" for number in range(472, 590))
    assert {example.split for example in folders.find_dataset("kvasir-instrument", str(tmp_path)).examples} == {""}
    (folder / "test.txt").write_text(with_suffix + "\n")  # both lists are there only now
    found = folders.find_dataset("kvasir-instrument", str(tmp_path))
    assert Counter(example.split for example in found.examples) == {"train": 472, "test": 118}
    assert all((example.split == "test") == (int(example.name) >= 472) for example in found.examples)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("0 1 2", "3 9", r"images that do not exist: 1 \(9\)"),
        ("0 1", "3", r"no list in .* names these images: 1 \(2\)"),
        ("0 1 2 3", "3", r"test.txt names images that another list names too: 1 \(3\)"),
    ],
)
def test_lists_that_do_not_fit_are_an_error(
    train: str, test: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.LAYOUTS, "kvasir-instrument", replace(LAYOUTS["kvasir-instrument"], count=4))
    folder = pairs(4, tmp_path)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    with pytest.raises(ValueError, match=message):
        folders.find_dataset("kvasir-instrument", str(folder))


def test_flags_are_parsed() -> None:
    assert folders.parse_dataset("kvasir-seg=/data/a=b") == ("kvasir-seg", "/data/a=b")
    assert folders.parse_dataset("CVC_ClinicDB=x") == ("cvc-clinicdb", "x")
    with pytest.raises(ValueError, match=r"'/data/Kvasir-SEG' is not NAME=DIR; write for example kvasir-seg="):
        folders.parse_dataset("/data/Kvasir-SEG")
    with pytest.raises(ValueError, match="is not NAME=DIR"):
        folders.parse_dataset("kvasir-seg=")
    with pytest.raises(ValueError, match=r"named 'kvasir-segg'; did you mean kvasir-seg\?.*generic=DIR"):
        folders.parse_dataset("kvasir-segg=x")
    with pytest.raises(ValueError, match=r"did you mean etis-larib\?"):
        folders.parse_dataset("ETIS-LaribPolypDB=x")
    with pytest.raises(ValueError, match=r"named 'xyzzy'; Known: kvasir-seg, "):
        folders.parse_dataset("xyzzy=x")


def test_the_table_tells_every_set() -> None:
    table = folders.catalogue_table()
    for name, layout in LAYOUTS.items():
        assert f"\n{name}: " in f"\n{table}"
        for text in (layout.masks, layout.split, layout.licence, layout.citation, layout.note):
            assert text in table
        for tree in layout.trees:
            assert "\n    " + ", ".join(pair.shown for pair in tree.pairs) + "\n" in table
    assert f"above {masks.THRESHOLD} in" in table
    assert f"value\nabove {masks.CODES - 1}," in table
    assert "\n  masks: one plane per artefact class, five in all" in table
    assert "polypgen2021: 3,762 images" in table
    assert "generic: count unknown" in table


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/")
def test_the_real_sets() -> None:
    kvasir = folders.find_dataset("kvasir-seg", f"{DATA}/data/kvasir_seg_352")
    endotect = folders.find_dataset("endotect", f"{DATA}/data/endotect2020_512")
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
