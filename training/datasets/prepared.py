"""A segmentation set prepared once: hashed, split and decoded to arrays on disk. It knows no model and no engine.

Legend: rows are indices of a set's examples, sorted by name.
"""

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.frames.frame import content_hash
from curation.options import digest, require
from curation.store.directory import RunDirectory
from training.datasets import splits
from training.datasets.codings import IGNORED, Kind, UInt8
from training.datasets.folders import GENERIC, Dataset, first_names
from training.datasets.masks import READING_VERSION, coding_of, read_mask, square_image
from training.datasets.near_copies import near_pairs, small_copies

RowNumbers = tuple[int, ...]

MAX_FAULTS = 0.1  # share of a set's images that may be left out


@dataclass(frozen=True)
class Pairs:
    """Images uint8 [N, S0, S0, 3] and their masks uint8 [N, S0, S0]: 0 for background, classes from 1, IGNORED."""

    images: UInt8
    masks: UInt8

    def __post_init__(self) -> None:
        shape = self.images.shape
        require(
            len(shape) == 4 and shape[0] > 0 and shape[1] == shape[2] and shape[3] == 3,
            f"images are {shape}; expected square colour images, [N, S0, S0, 3]; scale them to one size",
        )
        require(
            self.masks.shape == shape[:3],
            f"masks are {self.masks.shape} for images {shape}; expected {shape[:3]}, one mask of that size each",
        )
        types = str(self.images.dtype), str(self.masks.dtype)
        require(types == ("uint8", "uint8"), f"images are {types[0]}, masks {types[1]}; expected uint8")


@dataclass(frozen=True)
class PreparedSet:
    """A set that was read, split and decoded."""

    name: str
    size: int  # side in pixels of the decoded squares
    names: tuple[str, ...]
    contents: tuple[str, ...]  # hash of each image's bytes
    fingerprints: tuple[str, ...]  # hash of each example: name, image and masks
    parts: dict[str, RowNumbers]  # train, validation and test
    left_out: RowNumbers  # in no part; see splits.split
    stem: str  # path of the decoded arrays, without their ending
    split: str  # how it was split, in words
    coding: str = ""  # how its masks were read, in words
    faults: tuple[str, ...] = ()  # images that cannot be used, and why
    near_copies: tuple[tuple[str, ...], ...] = ()  # contents of the near copies of each row, in any set

    def notes(self) -> list[str]:
        """How masks were read, and which images are in no part of the split, one sentence each."""
        lines = [f"{self.name}: masks: {self.coding}"] if self.coding else []
        lines += [
            f"{self.name}: left out of {len(self.names) + len(self.faults)} images: {first_names(self.faults)}"
        ] * bool(self.faults)
        if self.left_out:
            names = [self.names[row] for row in self.left_out]
            lines.append(
                f"{self.name}: {first_names(names)} of {len(self.names)} images are in no part, since a copy, or their "
                "sequence, patient or centre, is in the test or validation part"
            )
        return lines

    def test_rows(self, trained: "PreparedSet") -> RowNumbers:
        """Rows of the test part, without copies, exact or near, of training and validation images."""
        return tuple(row for row in self.parts["test"] if not self.copied_from(row, trained.training_contents()))

    def training_contents(self) -> set[str]:
        """The contents of the training and validation images."""
        return {self.contents[row] for part in ("train", "validation") for row in self.parts[part]}

    def copied_from(self, row: int, contents: set[str]) -> bool:
        """Whether an image, or a near copy of it, is among `contents`."""
        return self.contents[row] in contents or bool(self.near_copies and contents.intersection(self.near_copies[row]))

    def fingerprint(self, rows: RowNumbers) -> str:
        """The hash of the content and names of some rows, in their order."""
        return digest([self.name, self.size, *(self.fingerprints[row] for row in rows)])


def prepare_set(
    run: RunDirectory,
    label: str,
    dataset: Dataset,
    size: int,
    split_seed: int | None,
    mask_coding: tuple[Kind, int | None] = ("auto", None),
) -> PreparedSet:
    """Hash every file of a set, keep it decoded to squares of `size` pixels below cache/, and split it.

    What is decoded already stays. `mask_coding` says how masks are coded and which value is ignored; it applies to sets
    that are not known by name. An image is left out where it or its mask cannot be read, the two do not fit, or all of
    it is ignored. Without a split seed the whole set is its test part. ValueError: ambiguous masks, more than
    MAX_FAULTS of the images left out, or a set too small to split.
    """
    if dataset.name != GENERIC:
        mask_coding = ("known", None)
    hashes = [[hashed(path) for path in (example.image, *example.masks)] for example in dataset.examples]
    fingerprints = [
        digest([example.name, *of_files]) for example, of_files in zip(dataset.examples, hashes, strict=True)
    ]
    stem = f"cache/{dataset.name}-{size}px-{digest([READING_VERSION, *mask_coding, *fingerprints])[:16]}"
    if not run.exists(f"{stem}.json"):
        decode_into(run, stem, dataset, size, mask_coding)
    record = run.read_json(f"{stem}.json")
    faults: dict[str, str] = record["faults"]
    check_faults(label, faults, len(fingerprints))
    kept = [row for row, example in enumerate(dataset.examples) if example.name not in faults]
    dataset = replace(dataset, examples=tuple(dataset.examples[row] for row in kept))
    names = tuple(example.name for example in dataset.examples)
    split_text = "all of it is test" if split_seed is None else dataset.layout.split
    parts: dict[str, RowNumbers] = dict.fromkeys((*splits.PARTS, splits.LEFT_OUT), ())
    if split_seed is None:
        parts["test"] = tuple(range(len(names)))
    else:
        place = {name: row for row, name in enumerate(names)}
        by_part = splits.split(dataset, split_seed)
        parts = {part: tuple(place[example.name] for example in examples) for part, examples in by_part.items()}
    left_out = parts.pop(splits.LEFT_OUT)
    return PreparedSet(
        label,
        size,
        names,
        contents=tuple(hashes[row][0] for row in kept),
        fingerprints=tuple(digest([fingerprints[row], record["coding"]]) for row in kept),
        parts=parts,
        left_out=left_out,
        stem=stem,
        split=split_text,
        coding=record["coding"],
        faults=tuple(f"{name}: {why}" for name, why in sorted(faults.items())),
    )


def hashed(path: str) -> str:
    """The hash of a file's bytes; `unreadable` where it cannot be read, which is reported when it is decoded."""
    try:
        return content_hash(Path(path).read_bytes())
    except OSError:
        return "unreadable"


def decode_into(
    run: RunDirectory, stem: str, dataset: Dataset, size: int, mask_coding: tuple[Kind, int | None]
) -> None:
    """Decode the usable images of a set to arrays, and record the others."""
    coding = coding_of(dataset.examples, *mask_coding, dataset.name)
    faults: dict[str, str] = {}
    images, masks = [], []
    for example in dataset.examples:
        try:
            image, mask = square_image(example.image, size), read_mask(example, size, coding)
        except ValueError as error:
            faults[example.name] = str(error)
            continue
        if (mask == IGNORED).all():
            faults[example.name] = "all of its mask is ignored"
            continue
        images.append(image)
        masks.append(mask)
    decoded = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    save_array(run, f"{stem}.images.npy", decoded)
    save_array(run, f"{stem}.masks.npy", np.stack(masks) if masks else np.empty((0, size, size), np.uint8))
    save_array(run, f"{stem}.small.npy", small_copies(decoded))
    run.write_json(f"{stem}.json", {"faults": faults, "coding": coding.description})  # last: marks all as whole


def check_faults(label: str, faults: dict[str, str], total: int) -> None:
    """ValueError where more than MAX_FAULTS of a set's images cannot be used."""
    if len(faults) <= MAX_FAULTS * total and len(faults) < total:
        return
    name, why = next(iter(faults.items()))
    raise ValueError(
        f"{label}: {len(faults)} of {total} images cannot be used, more than {MAX_FAULTS:.0%}; the first is {name}: "
        f"{why}"
    )


def with_near_copies(run: RunDirectory, sets: Sequence[PreparedSet]) -> list[PreparedSet]:
    """The sets, each test image with the contents of its near copies in any set's training and validation parts."""
    trained = [tuple(row for part in ("train", "validation") for row in one.parts[part]) for one in sets]
    known = [load_array(run, f"{one.stem}.small.npy")[list(rows)] for one, rows in zip(sets, trained, strict=True)]
    result = []
    for one in sets:
        found: dict[int, set[str]] = defaultdict(set)
        tested = one.parts["test"]
        queries = load_array(run, f"{one.stem}.small.npy")[list(tested)]
        for other, rows, small in zip(sets, trained, known, strict=True):
            for row, match in near_pairs(queries, small):
                found[tested[row]].add(other.contents[rows[match]])
        near_copies = tuple(tuple(sorted(found[row])) if row in found else () for row in range(len(one.names)))
        result.append(replace(one, near_copies=near_copies))
    return result


def copy_notes(sets: Sequence[PreparedSet]) -> list[str]:
    """Which test images are copies of training or validation images, one sentence per pair of sets that has any."""
    lines = []
    for trained in (one for one in sets if one.parts["train"]):
        contents = trained.training_contents()
        for one in sets:
            names = [one.names[row] for row in one.parts["test"] if one.copied_from(row, contents)]
            if names:
                lines.append(
                    f"{one.name}: {first_names(names)} of {len(one.parts['test'])} test images are copies, exact or at "
                    f"another size, of training or validation images of {trained.name}; a model trained on it is not "
                    "tested on them"
                )
    return lines


def pairs(run: RunDirectory, one: PreparedSet, rows: Sequence[int]) -> Pairs:
    """Images and masks of some rows of a set."""
    chosen = np.asarray(rows, np.int64)
    return Pairs(load_array(run, f"{one.stem}.images.npy")[chosen], load_array(run, f"{one.stem}.masks.npy")[chosen])


def save_array(run: RunDirectory, path: str, array: Any) -> None:
    """Write an array to `path`, whole or not at all."""
    sink = io.BytesIO()
    np.save(sink, array)
    run.write_bytes(path, sink.getvalue())


def load_array(run: RunDirectory, path: str) -> Any:
    """Load a saved array; a local file is mapped, so only what is used is read."""
    if run.filesystem.type_name == "local":
        return np.load(f"{run.root}/{path}", mmap_mode="r")
    return np.load(io.BytesIO(run.read_bytes(path)))
