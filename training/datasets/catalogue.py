"""How each segmentation set is laid out on disk, coded, split, licensed and cited. It reads no file.

training/datasets/patterns.py describes how patterns are read. Every mask is read in the same way
(training/datasets/masks.py), so no set states a threshold.
"""

import re
from itertools import pairwise

from training.datasets.patterns import (
    ANY,
    IMAGES_PATTERN,
    KVASIR_KEY,
    MASK_FOLDER,
    MASKS_PATTERN,
    NUMBER,
    OF,
    PART,
    TRUTH_PATTERN,
    GroupValues,
    Layout,
    Pair,
    Tree,
    folder_trees,
    one,
    pranet,
)

# First frame of each sequence of CVC-ClinicDB, and one past the last frame: 29 sequences, 612 frames.
CLINICDB_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592, 613),
)
CLINICDB_SEQUENCES = tuple((first, after - 1) for first, after in pairwise(CLINICDB_STARTS))
ON_REQUEST = "see the publisher"
STRETCHES = "one stretch of consecutive numbers per part, starting at a number that the seed draws"
CUT = "No confirmed list of its sequences was found: each border of two parts, three at most, may cut one."


def clinicdb_sequence(fields: GroupValues) -> tuple[str, ...]:
    """The sequence of a frame of CVC-ClinicDB. ValueError for a number that it does not have."""
    number = int(fields["key"])
    for sequence, (first, last) in enumerate(CLINICDB_SEQUENCES, start=1):
        if first <= number <= last:
            return (f"sequence {sequence}",)
    raise ValueError(f"CVC-ClinicDB has frames 1 to 612; found frame {number}; is this another set?")


def polypgen_groups(fields: GroupValues) -> tuple[str, ...]:
    """Centre or sequence of a frame, and the series and centre in its name: frames that share one stay together."""
    sequence = f"sequence {fields.get('sequence', '').lower()}"
    place = f"centre {fields['center'].upper()}" if "center" in fields else sequence
    series = re.match(r"(\d+)_endocv2021_", fields["key"], re.IGNORECASE)
    centre = re.search(r"(?:^|_)(C[1-6])_", fields["key"], re.IGNORECASE)
    named = (f"series {series[1]}",) if series else ()
    return (place, *named, *((f"centre {centre[1].upper()}",) if centre else ()))


LAYOUTS: dict[str, Layout] = {
    "kvasir-seg": Layout(
        trees=(
            one(
                rf"{IMAGES_PATTERN}{PART}_(?P<key>\d+)",
                rf"{MASKS_PATTERN}{PART}_(?P<key>\d+)",
                "images/PART_NUMBER.jpg + masks/PART_NUMBER.png",
            ),
            folder_trees(),
            pranet("Kvasir", KVASIR_KEY, split=True, train=True),
        ),
        count=1000,
        split="train.txt and val.txt (880 / 120; val is the test), or PraNet's 900 / 100; else seeded",
        lists=(("train.txt", "train"), ("val.txt", "test")),
        licence="research and education free, else ask (its page); CC BY 4.0 as part of HyperKvasir",
        citation="Jha et al., Kvasir-SEG, MMM 2020",
        masks="white on black; JPEGs have gray edges",
        note="Patients are not published.",
    ),
    "kvasir-instrument": Layout(
        trees=(folder_trees(),),
        count=590,
        split="train.txt and test.txt (472 / 118), else seeded",
        lists=(("train.txt", "train"), ("test.txt", "test")),
        licence=ON_REQUEST,
        citation="Jha et al., Kvasir-Instrument, MMM 2021",
        masks="white or coloured on black",
    ),
    "imageclefmed": Layout(
        trees=(
            one(
                f"{IMAGES_PATTERN}(?P<key>[^_/]+)",
                rf"{MASKS_PATTERN}(?P<key>[^_/]+)(?:_\w+)?",
                "images/ID.jpg + masks/ID.jpg and masks/ID_mask.jpg",
            ),
        ),
        count=None,
        split="seeded",
        maskless=True,
        licence=ON_REQUEST,
        citation="Hicks et al., ImageCLEFmedical 2023 MEDVQA-GI, CLEF 2023",
        masks="white on black; all masks of an image (polyp, instrument) are joined",
        note="Development set: 2,000 images; how many have masks is not confirmed. Drawn from HyperKvasir and "
        "Kvasir-Instrument, so it shares frames with other sets.",
    ),
    "etis-larib": Layout(
        trees=(
            one(
                f"ETIS-LaribPolypDB/{NUMBER}",
                f"{TRUTH_PATTERN}p{NUMBER}",
                "ETIS-LaribPolypDB/N.tif + Ground Truth/pN.tif",
            ),
            folder_trees(NUMBER, "N.png"),
            pranet("ETIS-LaribPolypDB", NUMBER, split=False, train=False),
        ),
        count=196,
        split=STRETCHES,
        ordered=True,
        licence=ON_REQUEST,
        citation="Silva et al., IJCARS 2014",
        note=CUT,
    ),
    "polypgen2021": Layout(
        trees=(
            Tree(
                (
                    Pair(
                        r"data_(?P<center>C[1-6])/images_(?P=center)/(?P<key>.+?)_?",
                        r"data_(?P<center>C[1-6])/masks_(?P=center)/(?P<key>.+?)_?_mask",
                        "data_C1/images_C1/NAME.jpg + data_C1/masks_C1/NAME_mask.jpg (C1 to C6)",
                    ),
                    Pair(
                        r"sequenceData/positive/(?P<sequence>seq\d+)/images_(?P=sequence)/(?P<key>.+)",
                        r"sequenceData/positive/(?P<sequence>seq\d+)/masks_(?P=sequence)/(?P<key>.+)_mask",
                        "sequenceData/positive/seq1/images_seq1/NAME.jpg + .../masks_seq1/NAME_mask.jpg (1 to 23)",
                    ),
                )
            ),
        ),
        count=3762,
        split="by centre (single frames) and sequence, seeded",
        groups=polypgen_groups,
        licence=f"CC BY 4.0 as its license.txt is reported to say; {ON_REQUEST}",
        citation="Ali et al., PolypGen, Scientific Data 2023",
        note="1,537 single frames of six centres and 2,225 frames of 23 sequences; negative frames are not read. "
        "Which centre a sequence is from is not confirmed: names N_endocv2021_... are taken as one series N, and "
        "..._C6_... as centre 6, in single frames and sequences alike.",
    ),
    "cvc-300": Layout(
        trees=(folder_trees(NUMBER, "N.png"), pranet("CVC-300", NUMBER, split=False, train=False)),
        count=60,
        split=STRETCHES,
        ordered=True,
        licence=ON_REQUEST,
        citation="Vazquez et al., EndoScene, J. Healthcare Eng. 2017",
        note=f"The 60 frames that PraNet tests on. {CUT}",
    ),
    "cvc-clinicdb": Layout(
        trees=(
            one(f"Original/{NUMBER}", f"{TRUTH_PATTERN}{NUMBER}", "Original/N.tif + Ground Truth/N.tif"),
            one(
                f"PNG/Original/{NUMBER}", f"PNG/{TRUTH_PATTERN}{NUMBER}", "PNG/Original/N.png + PNG/Ground Truth/N.png"
            ),
            one(
                f"TIFF?/Original/{NUMBER}",
                f"TIFF?/{TRUTH_PATTERN}{NUMBER}",
                "TIF/Original/N.tif + TIF/Ground Truth/N.tif",
            ),
            folder_trees(NUMBER, "N.png"),
            pranet("CVC-ClinicDB", NUMBER, split=False, train=True),
        ),
        count=612,
        split="by sequence (29), seeded; PraNet's 550 / 62 cuts sequences and is not used",
        groups=clinicdb_sequence,
        licence=ON_REQUEST,
        citation="Bernal et al., WM-DOVA maps, CMIG 2015",
        note="Its documentation counts frames from 1. The TIFFs are planar RGB under a wrong photometric tag.",
    ),
    "cvc-colondb": Layout(
        trees=(
            folder_trees(NUMBER, "N.png"),
            pranet("CVC-ColonDB", NUMBER, split=False, train=False),
            one(f"(?:.*/)?{NUMBER}", f"(?:.*/)?p{NUMBER}", "N.bmp + pN.bmp", 300, 380),
        ),
        count=380,
        split=STRETCHES,
        ordered=True,
        licence=ON_REQUEST,
        citation="Bernal et al., Pattern Recognition 2012",
        note=f"15 sequences; published with 300 frames, redistributed with 380. {CUT}",
    ),
    "ead2019": Layout(
        trees=(
            one(
                r"(?:\d_)?original_?images/(?P<key>.+)",
                r"(?:[^/]*masks?[^/]*/)?(?P<key>[^/]+?)(?:_mask)?",
                "original_images/NAME.jpg + masks/NAME_mask.tif",
            ),
            folder_trees(),
        ),
        count=None,
        split="seeded",
        licence=ON_REQUEST,
        citation="Ali et al., EAD2019, Scientific Reports 2020",
        masks="one plane per artefact class, five in all; they are joined",
        note="2,991 frames in all; how many have masks, and the folder of the masks, are not confirmed.",
    ),
    "edd2020": Layout(
        trees=(
            one(
                "original_?images/(?P<key>.+)",
                r"masks/(?P<key>.+)_(?:BE|suspicious|HGD|cancer|polyp)(?:_\d+|_mask)*",
                "originalImages/NAME.jpg + masks/NAME_CLASS.tif (BE, suspicious, HGD, cancer, polyp)",
                *(380, 386),
            ),
        ),
        count=380,
        split="seeded",
        licence=f"CC BY-NC 4.0 as its download script says; {ON_REQUEST}",
        citation="Ali et al., EDD2020, IEEE DataPort 2020; Medical Image Analysis 2021",
        masks="one file per class; they are joined",
        note="386 images in the release that could be checked, 380 in others.",
    ),
    "kvasir-sessile": Layout(
        trees=(folder_trees(),),
        count=196,
        split="train.txt and val.txt (val is the test) where they exist, else seeded",
        lists=(("train.txt", "train"), ("val.txt", "test")),
        licence=ON_REQUEST,
        citation="Jha et al., IEEE JBHI 2021",
        masks="white on black; JPEGs have gray edges",
        note="A part of Kvasir-SEG: never test on one a model trained on the other.",
    ),
    "endotect": Layout(
        trees=(folder_trees(),),
        count=200,
        split="all of it is test",
        part="test",
        licence=ON_REQUEST,
        citation="Hicks et al., EndoTect 2020, ICPR Workshops 2021",
        note="An external test set.",
    ),
    "generic": Layout(
        trees=(
            one(
                f"{PART}/{IMAGES_PATTERN}{ANY}",
                f"{PART}/{MASKS_PATTERN}{OF}",
                "train/images/NAME.* + train/masks/NAME.* (and so on)",
            ),
            one(
                f"{IMAGES_PATTERN}{PART}/{ANY}",
                f"{MASKS_PATTERN}{PART}/{OF}",
                "images/train/NAME.* + masks/train/NAME.* (and so on)",
            ),
            one(
                rf"(?!{MASK_FOLDER}/)[^/]+/{ANY}",
                rf"{MASK_FOLDER}/{OF}",
                "images/NAME.* + masks/NAME.* (the second folder named for mask, gt, truth, label or annotation)",
            ),
        ),
        count=None,
        split="folders train, validation and test, else seeded",
        licence="your own",
        citation="-",
        masks="white or coloured on black, or classes numbered from 0",
        note="Any folder of images and masks with equal names; a mask may also be called NAME_mask.",
    ),
}
