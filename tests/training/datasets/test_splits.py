"""Parts that share no sequence, patient, centre or exact copy, for every set and whatever the order."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from training.datasets import folders, splits
from training.datasets.catalogue import CLINICDB_SEQUENCES, LAYOUTS
from training.datasets.folders import Dataset, Example

Plan = Callable[[int], list[tuple[str, str]]]  # image and mask files of frame number N, as the set names them


def center_or_sequence(number: int) -> list[tuple[str, str]]:
    """PolypGen: every other frame in one of nine sequences, two of whose series single frames of C4 share."""
    sequence = number % 9
    if number % 2:
        name, place = f"{sequence}_endocv2021_positive_{number}", f"sequenceData/positive/seq{sequence}"
        return [(f"{place}/images_seq{sequence}/{name}", f"{place}/masks_seq{sequence}/{name}_mask")]
    center = f"C{number // 2 % 6 + 1}"
    name = f"{sequence % 2}_endocv2021_positive_{number}" if center == "C4" else f"EndoCV2021_{number:06d}"
    return [(f"data_{center}/images_{center}/{name}", f"data_{center}/masks_{center}/{name}_mask")]


PLANS: dict[str, Plan] = {
    "kvasir-seg": lambda n: [(f"images/{('train', 'test', 'validation')[n % 3]}_{n}",) * 2],
    "imageclefmed": lambda n: [(f"images/cl{n}", f"masks/cl{n}{'_mask' * (n % 2)}")],
    "etis-larib": lambda n: [(f"ETIS-LaribPolypDB/{n}", f"Ground Truth/p{n}")],
    "polypgen2021": center_or_sequence,
    "cvc-clinicdb": lambda n: [(f"Original/{n * 37 % 612 + 1}", f"Ground Truth/{n * 37 % 612 + 1}")],
    "ead2019": lambda n: [(f"original_images/{n}", f"masks/{n}_mask")],
    "edd2020": lambda n: [(f"originalImages/A{n}", f"masks/A{n}_BE"), (f"originalImages/A{n}", f"masks/A{n}_polyp")],
}


def plain(number: int) -> list[tuple[str, str]]:
    return [(f"images/{number}",) * 2]


def patient(name: str, example: Example) -> str:
    """What must not be cut, worked out apart from the layouts: sequence or centre."""
    last = example.name.rpartition("/")[2]
    if name == "cvc-clinicdb":
        return str(next(first for first, after in CLINICDB_SEQUENCES if first <= int(last) <= after))
    if name == "polypgen2021":
        return example.name.split("/")[0]
    return example.name


def plant(name: str, root: Path, contents: Sequence[int]) -> Dataset:
    """A set of one frame for each entry of `contents`, which says what is in its image."""
    for number, content in enumerate(contents):
        for image, mask in PLANS.get(name, plain)(number):
            for path in (image, mask.replace("images/", "masks/")):
                file = root / f"{path}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"%03d" % content)
    return folders.find_dataset(name, str(root), partial=True)


def parts_of(found: Dataset, seed: int = 0) -> dict[str, list[Example]]:
    return splits.split(found, seed)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_no_set_is_cut_through_a_sequence_patient_centre_or_copy(name: str, data: st.DataObject) -> None:
    contents = list(range(50))
    for copy, original in data.draw(st.lists(st.tuples(st.integers(0, 49), st.integers(0, 49)), max_size=6)):
        contents[copy] = contents[original]
    seed = data.draw(st.integers(0, 99))
    with tempfile.TemporaryDirectory() as folder:
        found = plant(name, Path(folder), contents)
        try:
            parts = parts_of(found, seed)
        except ValueError:
            reject()  # all frames hang together: nothing to split
        names = [example.name for part in parts.values() for example in part]
        assert sorted(names) == sorted(example.name for example in found.examples)  # each in one part, once
        assert list(parts) == ["train", "validation", "test", "left_out"]
        seen: dict[str, set[str]] = {}
        for part in ("train", "validation", "test"):
            for example in parts[part]:
                marks = [f"patient {patient(name, example)}", f"bytes {Path(example.image).read_bytes()!r}"]
                marks += [f"group {group}" for group in example.groups]
                for mark in marks:
                    seen.setdefault(mark, set()).add(part)
        assert {mark: where for mark, where in seen.items() if len(where) > 1} == {}
        order = data.draw(st.permutations(found.examples))
        assert parts_of(replace(found, examples=tuple(order)), seed) == parts


def examples(root: Path, sizes: Sequence[int], part: str = "") -> tuple[Example, ...]:
    """Groups of these sizes, every image of other bytes."""
    rows = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    result = []
    for group, row in rows:
        file = root / f"{part}{group}-{row}.png"
        file.write_bytes(file.name.encode())
        result.append(Example(file.stem, str(file), (str(file),), (f"sequence {part}{group}",), part))
    return tuple(result)


def dataset(*parts: tuple[Example, ...]) -> Dataset:
    return Dataset("generic", tuple(example for part in parts for example in part), LAYOUTS["generic"])


def sizes(parts: dict[str, list[Example]]) -> tuple[int, ...]:
    return tuple(len(parts[part]) for part in ("train", "validation", "test", "left_out"))


def test_frames_on_their_own_are_dealt_exactly_and_by_seed(tmp_path: Path) -> None:
    found = dataset(examples(tmp_path, [1] * 200))
    parts = parts_of(found, 1)
    assert sizes(parts) == (160, 20, 20, 0)
    assert parts_of(found, 1) == parts
    again = parts_of(found, 2)
    assert sizes(again) == (160, 20, 20, 0)
    shared = {one.name for one in parts["test"]} & {one.name for one in again["test"]}
    assert len(shared) < 10
    assert sizes(splits.split(found, 0, (0.5, 0.0, 0.5))) == (100, 0, 100, 0)
    assert sizes(splits.split(found, 0, (1.0, 0.0, 0.0))) == (200, 0, 0, 0)


ORDERED = {"etis-larib": range(1, 197), "cvc-300": range(149, 209), "cvc-colondb": range(1, 381)}


def numbered(name: str, root: Path) -> Dataset:
    """A whole set of numbered frames, all of other bytes."""
    for number in ORDERED[name]:
        for kind in ("images", "masks"):
            (root / kind).mkdir(exist_ok=True)
            (root / kind / f"{number}.png").write_bytes(f"{kind}{number:03d}".encode())
    return folders.find_dataset(name, str(root))


def test_the_sets_in_order_are_those_whose_sequences_nobody_lists() -> None:
    assert {name for name, layout in LAYOUTS.items() if layout.ordered} == set(ORDERED)
    assert all(LAYOUTS[name].split.startswith("one stretch of consecutive numbers per part") for name in ORDERED)


@pytest.mark.parametrize("name", ORDERED)
def test_frames_in_order_are_dealt_as_stretches_that_cut_three_sequences_at_most(name: str, tmp_path: Path) -> None:
    found, total, starts = numbered(name, tmp_path), len(ORDERED[name]), set()
    for seed in range(20):
        parts = parts_of(found, seed)
        train, validation, test, left_out = sizes(parts)
        assert (train + validation + test, left_out) == (total, 0)
        assert max(abs(train - 0.8 * total), abs(validation - 0.1 * total), abs(test - 0.1 * total)) < 1
        of = {int(example.name): part for part, dealt in parts.items() for example in dealt}
        around = [of[number] for number in sorted(of)]
        assert sum(before != after for before, after in zip(around, [*around[1:], around[0]], strict=True)) == 3
        for length in (7, 25, 40):  # frames of a sequence, wherever the first one begins
            for shift in range(length):
                met: dict[int, set[str]] = {}
                for number, part in of.items():
                    met.setdefault((number + shift) // length, set()).add(part)
                assert sum(len(where) > 1 for where in met.values()) <= 3
        order = replace(found, examples=tuple(reversed(found.examples)))
        assert parts_of(order, seed) == parts
        starts.add(parts["test"][0].name)
    assert len(starts) > 8


def test_a_copy_in_another_stretch_is_left_out(tmp_path: Path) -> None:
    found = numbered("cvc-colondb", tmp_path)
    before = parts_of(found, 5)
    one, two, three = before["test"][0], before["train"][0], before["validation"][0]
    Path(two.image).write_bytes(Path(one.image).read_bytes())
    Path(before["train"][1].image).write_bytes(Path(three.image).read_bytes())
    after = parts_of(found, 5)
    assert after["left_out"] == before["train"][:2]
    assert after["train"] == before["train"][2:]
    assert (after["test"], after["validation"]) == (before["test"], before["validation"])


def test_stretches_of_two_parts_and_of_few_frames(tmp_path: Path) -> None:
    found = numbered("cvc-300", tmp_path)
    assert sizes(splits.split(found, 0, (0.5, 0.0, 0.5))) == (30, 0, 30, 0)
    assert sizes(splits.split(found, 0, (1.0, 0.0, 0.0))) == (60, 0, 0, 0)
    few = replace(found, examples=found.examples[:3])
    assert sizes(parts_of(few)) == (1, 1, 1, 0)
    with pytest.raises(ValueError, match=r"cvc-300 is too small for train \+ validation \+ test: 2 images"):
        parts_of(replace(few, examples=few.examples[:2]))


def test_unlike_sequences_come_close_to_their_shares(tmp_path: Path) -> None:
    """The sizes of CVC-ClinicDB's sequences: no part is off by more than a sequence, and every seed differs."""
    found = dataset(examples(tmp_path, [last - first + 1 for first, last in CLINICDB_SEQUENCES]))
    tests = set()
    for seed in range(20):
        train, validation, test, left_out = sizes(parts := parts_of(found, seed))
        assert train + validation + test == 612
        assert left_out == 0
        assert abs(train - 489.6) <= 26
        assert 61.2 - 26 <= validation <= 61.2 + 26
        assert 61.2 - 26 <= test <= 61.2 + 26
        tests.add(tuple({example.groups for example in parts["test"]}))
    assert len(tests) > 10


def test_a_set_too_small_says_so_and_the_smallest_one_fills_every_part(tmp_path: Path) -> None:
    few = dataset(examples(tmp_path, [30, 30]))
    with pytest.raises(ValueError, match=r"too small for train \+ validation \+ test: 60 images in 2 blocks"):
        parts_of(few)
    assert sizes(splits.split(few, 0, (0.8, 0.2, 0.0))) == (30, 30, 0, 0)
    assert sorted(sizes(parts_of(dataset(examples(tmp_path, [30, 20, 10]))))) == [0, 10, 20, 30]


def test_copies_join_the_sequences_that_they_are_in(tmp_path: Path) -> None:
    found = dataset(examples(tmp_path, [5] * 20))
    first = [Path(found.examples[group * 5].image) for group in range(3)]
    for image in first[1:]:
        image.write_bytes(first[0].read_bytes())  # sequences 0, 1 and 2 share a frame
    blocks = Counter(len(block) for block in splits.blocks(found.examples))
    assert blocks == {15: 1, 5: 17}
    first[1].write_bytes(b"x" * len(first[0].read_bytes()))  # as long, but another frame
    assert Counter(len(block) for block in splits.blocks(found.examples)) == {10: 1, 5: 18}


def test_an_official_test_part_stays_and_what_reaches_into_it_is_left_out(tmp_path: Path) -> None:
    train, test = examples(tmp_path, [4] * 10, "train"), examples(tmp_path, [3, 3], "test")
    Path(train[0].image).write_bytes(Path(test[0].image).read_bytes())
    parts = parts_of(dataset(train, test))
    assert sizes(parts) == (32, 4, 6, 4)
    assert parts["test"] == sorted(test, key=lambda example: example.name)
    assert {example.groups for example in parts["left_out"]} == {("sequence train0",)}


def test_official_validation_and_external_sets(tmp_path: Path) -> None:
    train, test = examples(tmp_path, [4] * 10, "train"), examples(tmp_path, [3, 3], "test")
    validation = examples(tmp_path, [2], "validation")
    joined = replace(validation[0], groups=(*validation[0].groups, "sequence train9"))
    parts = parts_of(dataset(train, test, (joined, validation[1])))
    assert sizes(parts) == (36, 2, 6, 4)
    assert {example.groups for example in parts["left_out"]} == {("sequence train9",)}
    assert sizes(parts_of(dataset(test))) == (0, 0, 6, 0)


def test_the_split_does_not_depend_on_where_the_set_lies(tmp_path: Path) -> None:
    here = plant("cvc-clinicdb", tmp_path / "a", range(200))
    there = plant("cvc-clinicdb", tmp_path / "b" / "CVC-ClinicDB", range(200))
    there = folders.find_dataset("cvc-clinicdb", str(tmp_path / "b"), partial=True)

    def names(found: Dataset) -> dict[str, list[str]]:
        return {part: [example.name for example in parts] for part, parts in parts_of(found).items()}

    assert names(here) == names(there)
    assert names(here)["test"] != []


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5)])
def test_shares_that_are_none(shares: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one for train, validation and test each, with the sum 1"):
        splits.split(dataset(examples(tmp_path, [1] * 10)), 0, shares)  # type: ignore[arg-type]
