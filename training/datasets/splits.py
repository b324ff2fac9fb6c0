"""Train, validation and test parts of a set of examples with no group or exact copy in common. It reads bytes only."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curation.frames.frame import content_hash
from curation.options import require
from training.datasets.folders import Dataset, Example

PARTS = ("train", "validation", "test")
LEFT_OUT = "left_out"

Split = dict[str, list[Example]]


def split(dataset: Dataset, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Examples by part: train, validation, test, and left_out, each sorted by name.

    Examples that share a group (sequence, patient, centre) or all bytes of their image are one block, which is never
    cut. Where the set has an official test part, it is kept as it is, validation is taken from the rest by `shares`
    unless it is official too, and examples outside the test part whose block reaches into it are left_out; so are
    train examples whose block reaches into an official validation part. An external set is all test. In a set whose
    frames are only known to be in order, the parts are stretches of them and count as official ones. Else blocks are
    assigned by seed: in random order, blocks larger than the smallest part first, each to the part that lacks most.
    Depends on names, contents and seed only, not on order or location. ValueError where shares are invalid, or there
    are fewer blocks than parts to fill.
    """
    check_shares(shares)
    by_part = dict(zip(PARTS, shares, strict=True))
    found = blocks(dataset.examples)
    part_of = {example.name: example.split for example in dataset.examples}
    if dataset.layout.ordered:
        part_of = stretches(dataset, by_part, seed)
    given = set(part_of.values()) - {""}
    if not given:
        assigned = assign_blocks(dataset.name, found, by_part, seed)
        return {part: by_name(assigned[part]) for part in PARTS} | {LEFT_OUT: []}
    result: Split = {part: [] for part in (*PARTS, LEFT_OUT)}
    free: list[list[Example]] = []
    for block in found:
        fixed = {part_of[example.name] for example in block}
        strongest = next((part for part in ("test", "validation") if part in fixed), "")
        for example in block:
            if strongest:
                result[strongest if part_of[example.name] == strongest else LEFT_OUT].append(example)
        if not strongest:
            free.append(block)
    if "validation" in given or not free:
        result["train"] = [example for block in free for example in block]
    else:
        result |= assign_blocks(dataset.name, free, {"train": shares[0], "validation": shares[1]}, seed)
    return {part: by_name(examples) for part, examples in result.items()}


def check_shares(shares: Sequence[float]) -> None:
    """Raise ValueError unless three shares, none negative, the first above 0, sum to 1."""
    fits = len(shares) == len(PARTS) and min(shares) >= 0 and shares[0] > 0 and abs(sum(shares) - 1) < 1e-6
    require(fits, f"shares are {tuple(shares)}; give one for train, validation and test each, with the sum 1")


def by_name(examples: Iterable[Example]) -> list[Example]:
    """The examples sorted by name."""
    return sorted(examples, key=lambda example: example.name)


def blocks(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples connected by a shared group or by equal image bytes, each block and their list sorted by name."""
    keys = copy_keys(examples)
    shared: dict[str, int] = {}  # a number for each group and image hash
    pairs = [
        (row, shared.setdefault(key, len(shared)))
        for row, example in enumerate(examples)
        for key in (*(f"group {group}" for group in example.groups), *keys.get(example.image, ()))
    ]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    size = len(examples) + len(shared)
    graph = coo_array((np.ones(len(rows)), (rows, len(examples) + columns)), (size, size))
    labels = connected_components(graph, directed=False)[1].tolist()
    result: dict[int, list[Example]] = defaultdict(list)
    for label, example in sorted(zip(labels, examples, strict=False), key=lambda pair: pair[1].name):
        result[label].append(example)
    return list(result.values())


def copy_keys(examples: Sequence[Example]) -> dict[str, tuple[str]]:
    """The hash of each image whose file size another image has too; no other image can have an exact copy."""
    sizes = {example.image: os.path.getsize(example.image) for example in examples}
    counts = Counter(sizes.values())
    shared = (image for image, size in sizes.items() if counts[size] > 1)
    return {image: (f"content {content_hash(Path(image).read_bytes())}",) for image in shared}


def stretches(dataset: Dataset, shares: dict[str, float], seed: int) -> dict[str, str]:
    """The part of each example, by name: one stretch of consecutive examples per part with a share above 0.

    The stretches follow each other on the circle of the examples in order, starting where the seed says; their sizes
    match the shares to within one. So at most as many sequences are cut as there are parts. ValueError where there
    are fewer examples than such parts.
    """
    filled = [part for part, share in shares.items() if share > 0]
    ordered = sorted(dataset.examples, key=lambda example: (example.order, example.name))
    total = len(ordered)
    require(
        total >= len(filled),
        f"{dataset.name} is too small for {' + '.join(filled)}: {total} images; add images, or set a share to 0",
    )
    sizes = dict.fromkeys(filled, 1)
    for _ in range(total - len(filled)):
        sizes[max(filled, key=lambda part: total * shares[part] - sizes[part])] += 1
    key = hashlib.blake2b(f"{seed}\0{dataset.name}".encode(), digest_size=8).digest()
    start = int.from_bytes(key, "big") % total
    parts = (part for part in filled for _ in range(sizes[part]))
    return {example.name: part for example, part in zip(ordered[start:] + ordered[:start], parts, strict=True)}


def assign_blocks(name: str, found: list[list[Example]], shares: dict[str, float], seed: int) -> Split:
    """Assign blocks to the parts with a share above 0. ValueError where there are fewer blocks than such parts."""
    filled = [part for part, share in shares.items() if share > 0]
    total = sum(map(len, found))
    require(
        len(found) >= len(filled),
        f"{name} is too small for {' + '.join(filled)}: {total} images in {len(found)} blocks that must stay together "
        "(sequence, patient, centre or exact copies); add images, or set a share to 0",
    )
    goal = {part: total * shares[part] / sum(shares.values()) for part in filled}
    least = min(goal.values())

    def visit_order(block: list[Example]) -> tuple[bool, bytes]:
        return len(block) <= least, hashlib.blake2b(f"{seed}\0{block[0].name}".encode()).digest()

    result: Split = {part: [] for part in shares}
    for left, block in zip(range(len(found), 0, -1), sorted(found, key=visit_order), strict=True):
        empty = [part for part in filled if not result[part]]
        open_parts = empty if left <= len(empty) else filled
        chosen = max(open_parts, key=lambda part: goal[part] - len(result[part]))
        result[chosen] += block
    return result
