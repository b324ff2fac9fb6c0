"""A segmentation set made ready once: hashed, split and decoded to arrays on disk. It knows no model and no engine.

Legend: rows are places among a set's examples, sorted by name.
"""

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.options import digest, require
from curation.sources.reader import content_hash
from curation.store.directory import RunDirectory
from training.datasets import splits
from training.datasets.codings import IGNORED, Kind, UInt8
from training.datasets.folders import GENERIC, Dataset, first_names
from training.datasets.masks import READING, coding_of, read_mask, square_image
from training.datasets.near_copies import near_pairs, small_copies

Rows = tuple[int, ...]

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
            f"images are {shape}; expected some squares in colour, [N, S0, S0, 3]; scale them to one size",
        )
        require(
            self.masks.shape == shape[:3],
            f"masks are {self.masks.shape} for images {shape}; expected {shape[:3]}, a mask of its size each",
        )
        types = str(self.images.dtype), str(self.masks.dtype)
        require(types == ("uint8", "uint8"), f"images are {types[0]}, masks {types[1]}; expected uint8")


@dataclass(frozen=True)
class PreparedSet:
    """A set that was read, split and decoded."""

    name: str
    size: int  # pixels a side of what was decoded
    names: tuple[str, ...]
    contents: tuple[str, ...]  # hash of each image's bytes
    marks: tuple[str, ...]  # hash of each example: name, image and masks
    parts: dict[str, Rows]  # train, validation and test
    left_out: Rows  # in no part; see splits.split
    stem: str  # path of the decoded arrays, without their ending
    split: str  # how it was split, in words
    coding: str = ""  # how its masks were read, in words
    faults: tuple[str, ...] = ()  # images that cannot be used, and why
    alike: tuple[tuple[str, ...], ...] = ()  # contents of the near copies of each row, in any set

    def notes(self) -> list[str]:
        """How masks were read, and which images are in no part of the split, a sentence each."""
        lines = [f"{self.name}: masks: {self.coding}"] if self.coding else []
        lines += [
            f"{self.name}: left out of {len(self.names) + len(self.faults)} images: {first_names(self.faults)}"
        ] * bool(self.faults)
        if self.left_out:
            names = [self.names[row] for row in self.left_out]
            lines.append(
                f"{self.name}: {first_names(names)} of {len(self.names)} images are in no part, as a copy, or their "
                "sequence, patient or centre, is in the test or validation part"
            )
        return lines

    def test_rows(self, trained: "PreparedSet") -> Rows:
        """Rows of the test part, without copies, exact or near, of what is trained on or stopped by."""
        return tuple(row for row in self.parts["test"] if not self.met(row, trained.taught()))

    def taught(self) -> set[str]:
        """The contents of what is trained on or stopped by."""
        return {self.contents[row] for part in ("train", "validation") for row in self.parts[part]}

    def met(self, row: int, known: set[str]) -> bool:
        """Whether an image, or a near copy of it, is among the contents `known`."""
        return self.contents[row] in known or bool(self.alike and known.intersection(self.alike[row]))

    def mark(self, rows: Rows) -> str:
        """The hash of what some rows hold and are called, in their order."""
        return digest([self.name, self.size, *(self.marks[row] for row in rows)])


def prepare_set(
    run: RunDirectory,
    label: str,
    dataset: Dataset,
    size: int,
    split_seed: int | None,
    asked: tuple[Kind, int | None] = ("auto", None),
) -> PreparedSet:
    """Hash every file of a set, keep it decoded to squares of `size` pixels below cache/, and split it.

    What is decoded already stays. `asked` says how masks are coded and which value is ignored; it is for sets that are
    not known by name. An image is left out where it or its mask cannot be read or fit, or all of it is ignored. Without
    a seed of the split all of the set is its test part. ValueError: masks whose coding cannot be told, more than
    MAX_FAULTS of the images left out, or a set too small to split.
    """
    if dataset.name != GENERIC:
        asked = ("known", None)
    hashes = [[hashed(path) for path in (example.image, *example.masks)] for example in dataset.examples]
    marks = [digest([example.name, *of_files]) for example, of_files in zip(dataset.examples, hashes, strict=True)]
    stem = f"cache/{dataset.name}-{size}px-{digest([READING, *asked, *marks])[:16]}"
    if not run.exists(f"{stem}.json"):
        decode_into(run, stem, dataset, size, asked)
    record = run.read_json(f"{stem}.json")
    faults: dict[str, str] = record["faults"]
    check_faults(label, faults, len(marks))
    kept = [row for row, example in enumerate(dataset.examples) if example.name not in faults]
    dataset = replace(dataset, examples=tuple(dataset.examples[row] for row in kept))
    names = tuple(example.name for example in dataset.examples)
    told = "all of it is test" if split_seed is None else dataset.layout.split
    parts: dict[str, Rows] = dict.fromkeys((*splits.PARTS, splits.LEFT_OUT), ())
    if split_seed is None:
        parts["test"] = tuple(range(len(names)))
    else:
        place = {name: row for row, name in enumerate(names)}
        dealt = splits.split(dataset, split_seed)
        parts = {part: tuple(place[example.name] for example in examples) for part, examples in dealt.items()}
    left_out = parts.pop(splits.LEFT_OUT)
    return PreparedSet(
        label,
        size,
        names,
        contents=tuple(hashes[row][0] for row in kept),
        marks=tuple(digest([marks[row], record["coding"]]) for row in kept),
        parts=parts,
        left_out=left_out,
        stem=stem,
        split=told,
        coding=record["coding"],
        faults=tuple(f"{name}: {why}" for name, why in sorted(faults.items())),
    )


def hashed(path: str) -> str:
    """The hash of a file's bytes; a word where there are none to read, which is told when it is decoded."""
    try:
        return content_hash(Path(path).read_bytes())
    except OSError:
        return "unreadable"


def decode_into(run: RunDirectory, stem: str, dataset: Dataset, size: int, asked: tuple[Kind, int | None]) -> None:
    """Decode what can be used of a set to arrays, and record what cannot."""
    coding = coding_of(dataset.examples, *asked, dataset.name)
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
    run.write_json(f"{stem}.json", {"faults": faults, "coding": coding.told})  # the last: it stands for all


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
    """The sets, each image of a test part with the contents of its near copies that any set trains on or stops by."""
    taught = [tuple(row for part in ("train", "validation") for row in one.parts[part]) for one in sets]
    known = [load_array(run, f"{one.stem}.small.npy")[list(rows)] for one, rows in zip(sets, taught, strict=True)]
    result = []
    for one in sets:
        found: dict[int, set[str]] = defaultdict(set)
        tested = one.parts["test"]
        asked = load_array(run, f"{one.stem}.small.npy")[list(tested)]
        for other, rows, small in zip(sets, taught, known, strict=True):
            for row, match in near_pairs(asked, small):
                found[tested[row]].add(other.contents[rows[match]])
        alike = tuple(tuple(sorted(found[row])) if row in found else () for row in range(len(one.names)))
        result.append(replace(one, alike=alike))
    return result


def copy_notes(sets: Sequence[PreparedSet]) -> list[str]:
    """Which test images are copies of trained ones, a sentence for each pair of sets that has such."""
    lines = []
    for trained in (one for one in sets if one.parts["train"]):
        taught = trained.taught()
        for one in sets:
            names = [one.names[row] for row in one.parts["test"] if one.met(row, taught)]
            if names:
                lines.append(
                    f"{one.name}: {first_names(names)} of {len(one.parts['test'])} test images are copies, exact or at "
                    f"another size, of images that {trained.name} trains on or stops by; they are not tested on there"
                )
    return lines


def pairs(run: RunDirectory, one: PreparedSet, rows: Sequence[int]) -> Pairs:
    """Images and masks of some rows of a set."""
    chosen = np.asarray(rows, np.int64)
    return Pairs(load_array(run, f"{one.stem}.images.npy")[chosen], load_array(run, f"{one.stem}.masks.npy")[chosen])


def save_array(run: RunDirectory, path: str, array: Any) -> None:
    """Put an array at `path`, whole or not at all."""
    sink = io.BytesIO()
    np.save(sink, array)
    run.write_bytes(path, sink.getvalue())


def load_array(run: RunDirectory, path: str) -> Any:
    """An array that was saved; of a local file only what is used is read."""
    if run.filesystem.type_name == "local":
        return np.load(f"{run.root}/{path}", mmap_mode="r")
    return np.load(io.BytesIO(run.read_bytes(path)))
