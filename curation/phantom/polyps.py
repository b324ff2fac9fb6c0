"""The phantom's polyps as a segmentation set, split by patient: a benchmark whose masks are known to be true."""

import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa

from curation.options import require

SPLIT = ("train", "test", "validation", "train", "train")  # of five patients, those with most polyps first


def lay_out(truth: pa.Table, phantom: str, output: str) -> None:
    """Copy the frames with a polyp, and their masks, to OUTPUT/PART/images and /masks, readable as `generic=OUTPUT`.

    `truth` and `phantom` are the table that `draw` of curation/phantom/colonoscopy.py returned, and the folder it drew
    into. ValueError: fewer than three patients with a polyp.
    """
    shown = truth.filter(truth["polyp"])
    counts = Counter(shown["patient"].to_pylist())
    require(len(counts) >= 3, f"{len(counts)} patients have polyps; draw at least 3, one for each part")
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    part_of = {name: SPLIT[place % len(SPLIT)] for place, name in enumerate(ordered)}
    for path, patient in zip(shown["path"].to_pylist(), shown["patient"].to_pylist(), strict=True):
        for kind, folder in (("images", "frames"), ("masks", "masks")):
            source = Path(phantom, folder, path)
            source = source if kind == "images" else source.with_suffix(".png")
            target = Path(output, part_of[patient], kind, path.replace("/", "_")).with_suffix(source.suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
