"""Folders of images and masks, found by a set's name. It reads names and lists of names, and no pixels."""

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curation.options import require
from curation.sources.listing import IMAGE_SUFFIXES
from training.datasets.catalogue import LAYOUTS
from training.datasets.patterns import Layout, Pair, Tree

PART_NAMES = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
MAX_SHOWN = 3  # names that a message lists
MAX_MASKLESS = 0.1  # share of a generic set's images that may lack a mask
GENERIC = "generic"
READ = """\
Segmentation sets, as NAME=DIR for --dataset and --external of evaluate and benchmark. Masks of sets known by name are
read in one way: above 127 in the brightest channel is foreground; in a lossless file that numbers classes (no value
above 9, or a palette of which at most ten colours are used) all but 0, or black, is foreground. Masks of generic sets
are read by the values of all of them together, as --mask-coding and --ignore-value of evaluate and benchmark say.
"""


@dataclass(frozen=True)
class Example:
    """One image and its masks. Examples that share a group (a sequence, patient or centre) stay in one part."""

    name: str  # the same wherever the set is stored and, splits aside, however it is packed
    image: str
    masks: tuple[str, ...]
    groups: tuple[str, ...] = ()
    split: str = ""  # the official part: train, validation or test; empty where there is none
    order: int = 0  # its number in a set whose frames are in order


@dataclass(frozen=True)
class Dataset:
    """A set as found on disk: examples sorted by name, and the names of images left out because they have no mask."""

    name: str
    examples: tuple[Example, ...]
    layout: Layout
    skipped: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()  # masks without an image

    def notes(self) -> list[str]:
        """Which images and masks are skipped, one sentence each."""
        kinds = {"images without a mask": self.skipped, "masks without an image": self.orphans}
        return [f"{self.name}: {kind} are skipped: {first_names(names)}" for kind, names in kinds.items() if names]


@dataclass(frozen=True)
class FoundFiles:
    """What one tree makes of a folder: examples, images without a mask, masks without an image, duplicates."""

    tree: Tree
    base: str
    examples: tuple[Example, ...]
    maskless: tuple[str, ...]
    orphans: tuple[str, ...]
    duplicates: tuple[str, ...]


def parse_dataset(text: str) -> tuple[str, str]:
    """The set's name and its folder from NAME=DIR. ValueError, with the nearest name, for a set that is not known."""
    name, equals, folder = text.partition("=")
    require(bool(equals and folder), f"dataset {text!r} is not NAME=DIR; write for example kvasir-seg=/data/Kvasir-SEG")
    return layout_of(name)[0], folder


def layout_of(name: str) -> tuple[str, Layout]:
    """The set's name as listed, in any case, and its layout. ValueError as in `parse_dataset`."""
    known = name.strip().lower().replace("_", "-")
    if known not in LAYOUTS:
        near = difflib.get_close_matches(known, LAYOUTS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"no segmentation set is named {name!r}; {hint}Known: {', '.join(LAYOUTS)}. "
            "Any folder of images and masks can be read as generic=DIR"
        )
    return known, LAYOUTS[known]


def find_dataset(name: str, folder: str, partial: bool = False) -> Dataset:
    """Find the images and masks of the set `name` in `folder`, which holds it or holds one folder that does.

    Reads names only. `partial` accepts an incomplete set. ValueError, with the expected tree, where the folder is
    missing or packed in no known way, two images share a name, or (unless partial) masks, images or frames are
    missing, or there are more than the set has.
    """
    name, layout = layout_of(name)
    require(os.path.isdir(folder), f"{name}: {folder} is not a folder; give the one that holds\n{expected(layout)}")
    files = list_images(folder)
    candidates = [match(layout, tree, folder, base, files) for base in bases(files) for tree in layout.trees]
    found = max(candidates, key=lambda one: (len(one.examples), len(one.maskless)))  # the first of equals
    check_dataset(name, folder, layout, found, partial)
    examples = official(layout, found.examples, os.path.join(folder, found.base), partial)
    return Dataset(name, examples, layout, found.maskless, found.orphans)


def expected(layout: Layout) -> str:
    """The trees of a layout, one line each."""
    return "\n".join("  " + ", ".join(pair.shown for pair in tree.pairs) for tree in layout.trees)


def first_names(names: Sequence[str]) -> str:
    """The count of `names` and the first few of them."""
    return f"{len(names)} ({', '.join(names[:MAX_SHOWN])}{', ...' if len(names) > MAX_SHOWN else ''})"


def check_dataset(name: str, folder: str, layout: Layout, found: FoundFiles, partial: bool) -> None:
    """Raise ValueError, with what is wrong and the expected tree, unless exactly the whole set was found."""
    faults = []
    if not found.examples:
        faults.append("no image with its mask where one is expected")
    if found.duplicates:
        faults.append(f"images with the same name as another file: {first_names(found.duplicates)}")
    if not partial or not found.examples:
        allowed = MAX_MASKLESS * (len(found.examples) + len(found.maskless)) if name == GENERIC else 0
        if len(found.maskless) > allowed and not layout.maskless:
            faults.append(f"images without a mask: {first_names(found.maskless)}")
        if found.orphans and name != GENERIC:
            faults.append(f"masks without an image: {first_names(found.orphans)}")
        counts = found.tree.counts or (() if layout.count is None else (layout.count,))
        number = len(found.examples)
        if counts and number not in counts:
            whole = " or ".join(map(str, counts))
            amount = f"{number} of {whole}" if number < max(counts) else f"{number}, not {whole},"
            faults.append(f"{amount} images with masks")
    require(
        not faults,
        f"{name} in {folder} is incomplete, is another set, or is packed in another way: {'; '.join(faults)}. "
        f"Expected one of\n{expected(layout)}\nAdd what is missing, or use what is there as generic=DIR",
    )


def list_images(folder: str) -> list[str]:
    """Image files below `folder`, as sorted relative paths with `/`; hidden files and __MACOSX are skipped."""
    paths = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        within = Path(place).relative_to(folder)
        paths += [
            (within / name).as_posix()
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(paths)


def bases(files: Sequence[str]) -> list[str]:
    """The folder itself, then each folder that holds all files: where a set's own folder may be."""
    common = os.path.commonpath(files).split("/")[:3] if len(files) > 1 else []
    return ["", *("/".join(common[: depth + 1]) for depth in range(len(common)) if common[depth])]


def match(layout: Layout, tree: Tree, folder: str, base: str, files: Sequence[str]) -> FoundFiles:
    """Pair images with masks as `tree` says, with paths taken below `base`."""
    names = [file.removeprefix(base).lstrip("/") for file in files]
    root = os.path.join(folder, base)
    examples: dict[str, Example] = {}
    maskless, orphans, duplicates = [], [], []
    for pair in tree.pairs:
        images, masks = keyed(pair.images, pair, names), keyed(pair.masks, pair, names)
        orphans += [place for key, places in masks.items() if key not in images for place, _ in places]
        for key, [(path, fields), *copies] in images.items():
            duplicates += [copy for copy, _ in copies]
            if key not in masks:
                maskless.append(path)
                continue
            part = fields.get("split", "").lower().removesuffix("dataset")
            name = "/".join(fields[group] for group in shared_groups(pair))
            if name in examples:
                duplicates.append(path)  # in another pair of folders
                continue
            examples[name] = Example(
                name=name,
                image=os.path.join(root, path),
                masks=tuple(os.path.join(root, mask) for mask, _ in masks[key]),
                groups=layout.groups(fields),
                split=layout.part or PART_NAMES.get(part, part),
                order=int(fields["key"]) if layout.ordered else 0,
            )
    listed = tuple(examples[name] for name in sorted(examples))
    return FoundFiles(tree, base, listed, tuple(sorted(maskless)), tuple(sorted(orphans)), tuple(sorted(duplicates)))


def shared_groups(pair: Pair) -> list[str]:
    """The groups that both patterns name, which identify an image; `key` last."""
    shared = set(re.compile(pair.images).groupindex) & set(re.compile(pair.masks).groupindex)
    return sorted(shared, key=lambda group: (group == "key", group))


Keyed = dict[tuple[str, ...], list[tuple[str, dict[str, str]]]]


def keyed(pattern: str, pair: Pair, names: Sequence[str]) -> Keyed:
    """Files that match `pattern`, with its groups, by the values (lower case) of the groups that `pair` shares."""
    compiled = re.compile(pattern, re.IGNORECASE)
    shared = shared_groups(pair)
    result: Keyed = defaultdict(list)
    for name in names:
        if match := compiled.fullmatch(os.path.splitext(name)[0]):
            fields = {group: value for group, value in match.groupdict().items() if value is not None}
            result[tuple(fields[group].lower() for group in shared)].append((name, fields))
    return result


def official(layout: Layout, examples: tuple[Example, ...], root: str, partial: bool) -> tuple[Example, ...]:
    """The examples with the part that the set's lists give, where all the lists exist.

    ValueError (unless partial) where a list names a missing image, or an image is in no list.
    """
    paths = [(os.path.join(root, file), part) for file, part in layout.lists]
    if not paths or not all(os.path.isfile(path) for path, _ in paths):
        return examples
    parts: dict[str, str] = {}
    for path, part in paths:
        lines = Path(path).read_text(encoding="utf-8").split()
        names = [os.path.splitext(line)[0] if line.lower().endswith(IMAGE_SUFFIXES) else line for line in lines]
        twice = sorted(name for name in names if parts.setdefault(name, part) != part)
        require(not twice, f"{path} names images that another list names too: {first_names(twice)}")
    known = {os.path.basename(example.name) for example in examples}
    missing, unlisted = sorted(set(parts) - known), sorted(known - set(parts))
    require(partial or not missing, f"the lists in {root} name images that do not exist: {first_names(missing)}")
    require(partial or not unlisted, f"no list in {root} names these images: {first_names(unlisted)}")
    return tuple(replace(example, split=parts.get(os.path.basename(example.name), "")) for example in examples)


def catalogue_table() -> str:
    """How masks are read, and all that is known of the known sets, one paragraph each."""
    texts = [READ]
    for name, layout in LAYOUTS.items():
        count = "count unknown" if layout.count is None else f"{layout.count:,} images"
        lines = [
            f"{name}: {count}",
            "layout, one of:" if layout.trees[1:] else "layout:",
            *expected(layout).splitlines(),
        ]
        facts = {"masks": layout.masks, "split": layout.split, "licence": layout.licence, "cite": layout.citation}
        lines += [f"{key}: {text}" for key, text in {**facts, "note": layout.note}.items() if text]
        texts.append("\n  ".join(lines))
    return "\n".join(texts)
