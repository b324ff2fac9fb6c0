"""Each set in the folders and under the names it is published or passed on with. Only names are read, so files are
empty.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from training.datasets import catalogue, folders

CJU = "cju0qkwl35piu0993l0dewei2"
CJV = "cju0sr5ghl0nd08789uzf1raf"
UUID = "003ab8b5-cf6d-442a-849d-80ddf0d1edaf"

# set, files, and what comes of them: name -> masks, groups, official part
Expected = dict[str, tuple[tuple[str, ...], tuple[str, ...], str]]
CASES: list[tuple[str, tuple[str, ...], Expected]] = [
    (
        "kvasir-seg",
        (f"Kvasir-SEG/images/{CJU}.jpg", f"Kvasir-SEG/masks/{CJU}.jpg", "Kvasir-SEG/kavsir_bboxes.json"),
        {CJU: ((f"masks/{CJU}.jpg",), (), "")},
    ),
    (
        "kvasir-seg",  # the segmentation part of HyperKvasir
        (f"segmented-images/images/{UUID}.jpg", f"segmented-images/masks/{UUID}.jpg"),
        {UUID: ((f"masks/{UUID}.jpg",), (), "")},
    ),
    (
        "kvasir-seg",  # PraNet: the numbered frames are CVC-ClinicDB's
        (
            *(f"TrainDataset/{folder}/{name}.png" for folder in ("image", "mask") for name in (CJU, "12")),
            *(f"TestDataset/{one}/{folder}/{name}.png" for folder in ("images", "masks") for one, name in
              (("Kvasir", CJV), ("CVC-ClinicDB", "13"), ("CVC-300", "149"))),
        ),
        {
            f"Test/{CJV}": ((f"TestDataset/Kvasir/masks/{CJV}.png",), (), "test"),
            f"Train/{CJU}": ((f"TrainDataset/mask/{CJU}.png",), (), "train"),
        },
    ),
    (
        "kvasir-seg",  # parts in the names
        tuple(f"{kind}/{part}_0.{suffix}" for kind, suffix in (("images", "jpg"), ("masks", "png"))
              for part in ("train", "validation", "test")),
        {f"{part}/0": ((f"masks/{part}_0.png",), (), part) for part in ("test", "train", "validation")},
    ),
    (
        "kvasir-instrument",
        ("images/ckcu8ty6z00063b5yzfko8h5d.jpg", "masks/ckcu8ty6z00063b5yzfko8h5d.png", "bboxes.json"),
        {"ckcu8ty6z00063b5yzfko8h5d": (("masks/ckcu8ty6z00063b5yzfko8h5d.png",), (), "")},
    ),
    (
        "imageclefmed",  # both kinds of mask; the last image has none and is left out
        tuple(f"ImageCLEFmed-MEDVQA-GI-2023-Development-Dataset/{path}" for path in
              ("images/cl8k1.jpg", "images/cl8k2.jpg", "images/cl8k3.jpg", "masks/cl8k1.jpg", "masks/cl8k1_mask.jpg",
               "masks/cl8k2_mask.jpg", "gt.json")),
        {
            "cl8k1": (("masks/cl8k1.jpg", "masks/cl8k1_mask.jpg"), (), ""),
            "cl8k2": (("masks/cl8k2_mask.jpg",), (), ""),
        },
    ),
    (
        "etis-larib",
        ("E/ETIS-LaribPolypDB/9.tif", "E/ETIS-LaribPolypDB/10.tif", "E/Ground Truth/p9.tif", "E/Ground Truth/p10.tif"),
        {
            "10": (("Ground Truth/p10.tif",), (), ""),
            "9": (("Ground Truth/p9.tif",), (), ""),
        },
    ),
    (
        "etis-larib",
        tuple(f"TestDataset/ETIS-LaribPolypDB/{kind}/{name}.png" for kind in ("images", "masks") for name in (1, 25)),
        {f"{n}": ((f"masks/{n}.png",), (), "") for n in (1, 25)},
    ),
    (
        "polypgen2021",
        tuple(f"PolypGen2021_MultiCenterData_v3/{path}" for path in (
            "data_C1/images_C1/100H0050.jpg",
            "data_C1/masks_C1/100H0050_mask.jpg",
            "data_C1/bbox_image_C1/100H0050_mask_bbox.jpg",
            "data_C3/images_C3/C3_EndoCV2021_00489_.jpg",  # the trailing _ is the publisher's
            "data_C3/masks_C3/C3_EndoCV2021_00489_mask.jpg",
            "data_C4/images_C4/4_endocv2021_positive_34.jpg",
            "data_C4/masks_C4/4_endocv2021_positive_34_mask.jpg",
            "imagesAll_positive/100H0050.jpg",
            "sequenceData/negativeOnly/seq1_neg/1.jpg",
            "sequenceData/positive/seq1/images_seq1/0_endocv2021_positive_167.jpg",
            "sequenceData/positive/seq1/masks_seq1/0_endocv2021_positive_167_mask.jpg",
            "sequenceData/positive/seq16/images_seq16/seq1_C6_10.jpg",
            "sequenceData/positive/seq16/masks_seq16/seq1_C6_10_mask.jpg",
        )),
        {
            "C1/100H0050": (("data_C1/masks_C1/100H0050_mask.jpg",), ("centre C1",), ""),
            "C3/C3_EndoCV2021_00489": (
                ("data_C3/masks_C3/C3_EndoCV2021_00489_mask.jpg",), ("centre C3", "centre C3"), ""),
            "C4/4_endocv2021_positive_34": (
                ("data_C4/masks_C4/4_endocv2021_positive_34_mask.jpg",), ("centre C4", "series 4"), ""),
            "seq1/0_endocv2021_positive_167": (
                ("sequenceData/positive/seq1/masks_seq1/0_endocv2021_positive_167_mask.jpg",),
                ("sequence seq1", "series 0"), ""),
            "seq16/seq1_C6_10": (
                ("sequenceData/positive/seq16/masks_seq16/seq1_C6_10_mask.jpg",),
                ("sequence seq16", "centre C6"), ""),
        },
    ),
    (
        "cvc-300",
        tuple(f"CVC-300/{kind}/{name}.png" for kind in ("images", "masks") for name in (149, 208)),
        {f"{n}": ((f"masks/{n}.png",), (), "") for n in (149, 208)},
    ),
    (
        "cvc-clinicdb",
        tuple(f"CVC-ClinicDB/{kind}/{name}.tif" for kind in ("Original", "Ground Truth") for name in (25, 26, 612)),
        {
            f"{n}": ((f"Ground Truth/{n}.tif",), (f"sequence {sequence}",), "")
            for n, sequence in ((25, 1), (26, 2), (612, 29))
        },
    ),
    (
        "cvc-clinicdb",  # both formats side by side: one is taken
        tuple(f"{top}/{kind}/{n}.{suffix}" for top, suffix in (("PNG", "png"), ("TIF", "tif"))
              for kind in ("Original", "Ground Truth") for n in (200, 206)),
        {f"{n}": ((f"PNG/Ground Truth/{n}.png",), (f"sequence {s}",), "") for n, s in ((200, 10), (206, 11))},
    ),
    (
        "cvc-clinicdb",  # PraNet's split cuts sequences: it is no official one
        (
            *(f"TrainDataset/{folder}/{name}.png" for folder in ("images", "masks") for name in (CJU, "12")),
            *(f"TestDataset/CVC-ClinicDB/{folder}/13.png" for folder in ("images", "masks")),
        ),
        {
            "13": (("TestDataset/CVC-ClinicDB/masks/13.png",), ("sequence 1",), ""),
            "12": (("TrainDataset/masks/12.png",), ("sequence 1",), ""),
        },
    ),
    (
        "cvc-colondb",
        tuple(f"CVC-ColonDB/{kind}/{name}.png" for kind in ("images", "masks") for name in (1, 380)),
        {f"{n}": ((f"masks/{n}.png",), (), "") for n in (1, 380)},
    ),
    (
        "cvc-colondb",  # the publisher's: frame, polyp, what says nothing, contour
        tuple(f"CVC-ColonDB/{letter}{n}.bmp" for letter in ("", "p", "s", "c") for n in (1, 300)),
        {f"{n}": ((f"p{n}.bmp",), (), "") for n in (1, 300)},
    ),
    (
        "ead2019",
        ("original_images/00000.jpg", "masks/00000_mask.tif", "original_images/00001.jpg", "masks/00001.tif"),
        {
            "00000": (("masks/00000_mask.tif",), (), ""),
            "00001": (("masks/00001.tif",), (), ""),
        },
    ),
    (
        "edd2020",
        tuple(f"EDD2020_release-I_2020-01-15/{path}" for path in (
            "originalImages/EDD2020_ACB0001.jpg", "originalImages/EDD2020_ACB0002.jpg", "bbox/EDD2020_ACB0001.txt",
            "masks/EDD2020_ACB0001_BE.tif", "masks/EDD2020_ACB0001_suspicious.tif", "masks/EDD2020_ACB0002_polyp_1.tif",
        )),
        {
            "EDD2020_ACB0001": (
                ("masks/EDD2020_ACB0001_BE.tif", "masks/EDD2020_ACB0001_suspicious.tif"), (), ""),
            "EDD2020_ACB0002": (("masks/EDD2020_ACB0002_polyp_1.tif",), (), ""),
        },
    ),
    (
        "kvasir-sessile",
        (f"sessile-main-Kvasir-SEG/images/{CJU}.jpg", f"sessile-main-Kvasir-SEG/masks/{CJU}.jpg"),
        {CJU: ((f"masks/{CJU}.jpg",), (), "")},
    ),
    (
        "endotect",
        (f"EndoTect_2020_Segmentation_Test_Dataset/images/{UUID}.jpg",
         f"EndoTect_2020_Segmentation_Test_Dataset/masks/{UUID}.jpg"),
        {UUID: ((f"masks/{UUID}.jpg",), (), "test")},
    ),
    (
        "generic",
        ("frames/lengthy/a.jpg", "GT/lengthy/a.png", "frames/b.jpg", "GT/b_mask.png"),
        {"b": (("GT/b_mask.png",), (), ""), "lengthy/a": (("GT/lengthy/a.png",), (), "")},
    ),
    (
        "generic",
        tuple(f"{part}/{kind}/a.png" for part in ("train", "val", "test") for kind in ("images", "masks")),
        {
            f"{folder}/a": ((f"{folder}/masks/a.png",), (), part)
            for folder, part in (("test", "test"), ("train", "train"), ("val", "validation"))
        },
    ),
    (
        "generic",
        tuple(f"{kind}/{part}/a.png" for part in ("train", "test") for kind in ("images", "masks")),
        {f"{part}/a": ((f"masks/{part}/a.png",), (), part) for part in ("test", "train")},
    ),
]  # fmt: skip


def plant(root: Path, paths: tuple[str, ...]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(("name", "files", "expected"), CASES, ids=[case[0] for case in CASES])
def test_a_set_is_found_as_it_is_packed(name: str, files: tuple[str, ...], expected: Expected, tmp_path: Path) -> None:
    found = folders.find_dataset(name, str(plant(tmp_path, files)), partial=True)
    assert {example.name: (example.masks, example.groups, example.split) for example in found.examples} == {
        key: (tuple(str(root_of(tmp_path, files, mask)) for mask in masks), groups, part)
        for key, (masks, groups, part) in expected.items()
    }
    assert [example.name for example in found.examples] == sorted(expected)
    for example in found.examples:
        image = Path(example.image)
        assert image.is_file()
        assert image.stem.strip("_").endswith(example.name.rpartition("/")[2])
        assert image.as_posix() not in example.masks


def root_of(root: Path, files: tuple[str, ...], mask: str) -> Path:
    """Where the one file is whose path ends with `mask`."""
    [file] = [file for file in files if file == mask or file.endswith(f"/{mask}")]
    return root / file


def test_every_set_is_tested() -> None:
    assert {case[0] for case in CASES} == set(catalogue.LAYOUTS)
    wanted = "kvasir-instrument kvasir-seg imageclefmed etis-larib polypgen2021 cvc-300 cvc-clinicdb cvc-colondb"
    assert set(catalogue.LAYOUTS) == {
        *wanted.split(), "ead2019", "edd2020", "kvasir-sessile", "endotect", "generic"
    }  # fmt: skip


def test_clinicdb_has_29_sequences_and_612_frames() -> None:
    sequences = [catalogue.clinicdb_sequence({"key": str(number)}) for number in range(1, 613)]
    sizes = Counter(sequences)
    assert len(sizes) == 29
    assert sequences == sorted(sequences, key=lambda name: int(name[0].split()[1]))
    lengths = [25, 25, 17, 11, 25, 23, 25, 26, 22, 6, 22, 25, 25, 20, 20]
    lengths += [25, 21, 20, 25, 20, 19, 19, 12, 25, 25, 18, 25, 20, 21]
    assert list(sizes.values()) == lengths
    assert catalogue.CLINICDB_SEQUENCES[:3] == ((1, 25), (26, 50), (51, 67))
    assert catalogue.CLINICDB_SEQUENCES[-1] == (592, 612)
    with pytest.raises(ValueError, match="frames 1 to 612; found frame 613"):
        catalogue.clinicdb_sequence({"key": "613"})


def test_expected_counts_are_those_of_the_benchmark() -> None:
    counts = {name: layout.count for name, layout in catalogue.LAYOUTS.items()}
    assert counts == {
        "kvasir-seg": 1000, "kvasir-instrument": 590, "imageclefmed": None, "etis-larib": 196, "polypgen2021": 3762,
        "cvc-300": 60, "cvc-clinicdb": 612, "cvc-colondb": 380, "ead2019": None, "edd2020": 380,
        "kvasir-sessile": 196, "endotect": 200, "generic": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", catalogue.LAYOUTS)
def test_a_layout_is_whole(name: str) -> None:
    layout = catalogue.LAYOUTS[name]
    for pair in (pair for tree in layout.trees for pair in tree.pairs):
        images, masks = (set(re.compile(pattern).groupindex) for pattern in (pair.images, pair.masks))
        assert "key" in images & masks
        assert images == masks  # else a mask could belong to images of two centres or sequences
        assert " + " in pair.shown
    assert layout.licence
    assert layout.citation
    assert layout.split
