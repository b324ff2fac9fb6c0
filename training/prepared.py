"""A segmentation set made ready once: hashed, split and decoded to arrays on disk. It knows no model and no engine.

Legend: rows are places among a set's examples, sorted by name.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.options import digest
from curation.sources import content_hash
from curation.store import RunDirectory
from training import splits
from training.datasets import Dataset, shown
from training.masks import READING, arrays
from training.segment import Pairs

Rows = tuple[int, ...]


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

    def note(self) -> str:
        """Which images are in no part of the split, as a sentence."""
        names = [self.names[row] for row in self.left_out]
        return (
            f"{self.name}: {shown(names)} of {len(self.names)} images are in no part, as a copy, or their sequence, "
            "patient or centre, is in the test or validation part"
        )

    def test_rows(self, trained: "PreparedSet") -> Rows:
        """Rows of the test part, without exact copies of what is trained on or stopped by."""
        known = {trained.contents[row] for part in ("train", "validation") for row in trained.parts[part]}
        return tuple(row for row in self.parts["test"] if self.contents[row] not in known)

    def mark(self, rows: Rows) -> str:
        """The hash of what some rows hold and are called, in their order."""
        return digest([self.name, self.size, *(self.marks[row] for row in rows)])


def prepare(run: RunDirectory, label: str, dataset: Dataset, size: int, split_seed: int | None) -> PreparedSet:
    """Hash every file of a set, split it, and keep it decoded to squares of `size` pixels below cache/.

    What is decoded already stays. Without a seed of the split all of the set is its test part. ValueError for a file
    that cannot be read, or a set too small to split.
    """
    names = tuple(example.name for example in dataset.examples)
    hashes = [
        [content_hash(Path(path).read_bytes()) for path in (example.image, *example.masks)]
        for example in dataset.examples
    ]
    marks = tuple(digest([name, *of_files]) for name, of_files in zip(names, hashes, strict=True))
    told = "all of it is test" if split_seed is None else dataset.layout.split
    parts: dict[str, Rows] = dict.fromkeys((*splits.PARTS, splits.LEFT_OUT), ())
    if split_seed is None:
        parts["test"] = tuple(range(len(names)))
    else:
        place = {name: row for row, name in enumerate(names)}
        dealt = splits.split(dataset, split_seed)
        parts = {part: tuple(place[example.name] for example in examples) for part, examples in dealt.items()}
    left_out = parts.pop(splits.LEFT_OUT)
    stem = f"cache/{dataset.name}-{size}px-{digest([READING, *marks])[:16]}"
    if not run.exists(f"{stem}.masks.npy"):
        images, masks = arrays(dataset.examples, size)
        save(run, f"{stem}.images.npy", images)
        save(run, f"{stem}.masks.npy", masks)  # the last, so that it stands for both
    contents = tuple(of_files[0] for of_files in hashes)
    return PreparedSet(label, size, names, contents, marks, parts, left_out, stem, told)


def pairs(run: RunDirectory, one: PreparedSet, rows: Sequence[int]) -> Pairs:
    """Images and masks of some rows of a set."""
    chosen = np.asarray(rows, np.int64)
    return Pairs(load(run, f"{one.stem}.images.npy")[chosen], load(run, f"{one.stem}.masks.npy")[chosen])


def save(run: RunDirectory, path: str, array: Any) -> None:
    """Put an array at `path`, whole or not at all."""
    sink = io.BytesIO()
    np.save(sink, array)
    run.write_bytes(path, sink.getvalue())


def load(run: RunDirectory, path: str) -> Any:
    """An array that was saved; of a local file only what is used is read."""
    if run.filesystem.type_name == "local":
        return np.load(f"{run.root}/{path}", mmap_mode="r")
    return np.load(io.BytesIO(run.read_bytes(path)))
