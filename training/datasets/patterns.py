"""How segmentation sets are packed: patterns of paths, and what a set's layout describes. It knows no set.

A pattern is matched, whole and without regard to case, against an image file's path below the set's folder, without
its suffix. A mask belongs to an image where the groups that both patterns name are equal. The group `split` is
train, validation or test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

GroupValues = Mapping[str, str]

IMAGES_PATTERN, MASKS_PATTERN = r"images?/", r"masks?/"
NUMBER, ANY, OF = r"(?P<key>\d+)", "(?P<key>.+)", "(?P<key>.+?)(?:_mask)?"
TRUTH_PATTERN = "Ground ?Truth/"
KVASIR_KEY = r"(?P<key>[a-z]\w{20,})"  # PraNet's TrainDataset mixes these with the numbers of CVC-ClinicDB
MASK_FOLDER = "[^/]*(?:mask|truth|label|annotation|(?<![a-z])gt(?![a-z]))[^/]*"
PART = r"(?P<split>train|training|val|valid|validation|test|testing)"


@dataclass(frozen=True)
class Pair:
    """Where images are and where their masks are: two patterns with the group `key`, and how to show them."""

    images: str
    masks: str
    shown: str


@dataclass(frozen=True)
class Tree:
    """One way a set is packed: pairs that together are the set, and image counts where not the layout's."""

    pairs: tuple[Pair, ...]
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known of a set. `count` is None where it is not known; `lists` are files of names by part."""

    trees: tuple[Tree, ...]
    count: int | None
    split: str
    licence: str
    citation: str
    masks: str = "white on black"  # how they are coded
    groups: Callable[[GroupValues], tuple[str, ...]] = lambda _: ()
    lists: tuple[tuple[str, str], ...] = ()
    part: str = ""  # the part that all of it belongs to
    ordered: bool = False  # keys are frame numbers; the sequences are not listed anywhere
    maskless: bool = False  # images without a mask are left out, not reported as missing
    note: str = ""


def one(images: str, masks: str, shown: str, *counts: int) -> Tree:
    """A tree of one pair."""
    return Tree((Pair(images, masks, shown),), counts)


def folder_trees(key: str = ANY, shown: str = "NAME.jpg") -> Tree:
    """images/ and masks/ with equal names."""
    return one(IMAGES_PATTERN + key, MASKS_PATTERN + key, f"images/{shown} + masks/{shown}")


def pranet(name: str, key: str, split: bool, train: bool) -> Tree:
    """PraNet's TestDataset/NAME and, where the set is in it, TrainDataset; `split` takes them as the split.

    A set that is not in TrainDataset is also found by its own folder alone.
    """
    test, rest = ("(?P<split>Test)", "(?P<split>Train)") if split else ("Test", "Train")
    start = f"{test}Dataset/{name}/" if train else f"(?:{test}Dataset/)?{name}/"
    top = "TestDataset/" if train else "[TestDataset/]"
    shown = f"{top}{name}/images/NAME.png + {top}{name}/masks/NAME.png"
    pairs = [Pair(f"{start}{IMAGES_PATTERN}{key}", f"{start}{MASKS_PATTERN}{key}", shown)]
    if train:
        start = f"{rest}Dataset/(?:{name}/)?"
        shown = "TrainDataset/image/NAME.png + TrainDataset/mask/NAME.png"
        pairs.append(Pair(f"{start}{IMAGES_PATTERN}{key}", f"{start}{MASKS_PATTERN}{key}", shown))
    return Tree(tuple(pairs))
