"""Masks of every coding, read by what all of a set hold together, through the preparation that evaluate does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from curation.store.directory import RunDirectory
from training.datasets import codings, folders
from training.datasets.prepared import PreparedSet, prepare_set

Pixels = npt.NDArray[Any]
Truth = Callable[..., npt.NDArray[np.bool_]]
Write = Callable[[Path, int], None]
Made = Callable[..., tuple[PreparedSet, Pixels]]
SIDE, NUMBER = 32, 12
CLASS = {number: 1 + number % 6 for number in range(NUMBER)}


CODINGS: dict[str, Callable[[Any], Write]] = {
    "white": lambda draw: draw.gray(),
    "0 and 1": lambda draw: draw.gray(inside=1),
    "0 and 100": lambda draw: draw.gray(inside=100),
    "0 and 10": lambda draw: draw.gray(inside=10),
    "truth values": lambda draw: draw.gray(kind=np.bool_),
    "floats": lambda draw: draw.gray(inside=1, kind=np.float32, suffix="tif"),
    "white floats": lambda draw: draw.gray(kind=np.float32, suffix="tif"),
    "16 bits": lambda draw: draw.gray(inside=65535, kind=np.uint16),
    "16 bits, one value": lambda draw: draw.gray(inside=4000, kind=np.uint16, suffix="tif"),
    "classes": lambda draw: draw.gray(inside=CLASS),
    "classes to 50": lambda draw: draw.gray(inside={number: 6 + 4 * number for number in range(NUMBER)}),
    "16-bit classes": lambda draw: draw.gray(inside=CLASS, kind=np.uint16),
    "32-bit classes": lambda draw: draw.gray(inside=CLASS, kind=np.int32, suffix="tif"),
    "float classes": lambda draw: draw.gray(inside=CLASS, kind=np.float32, suffix="tif"),
    "transparency": lambda draw: draw.rgba,
    "dark colours": lambda draw: draw.colours,
    "jpeg": lambda draw: draw.gray(suffix="jpg"),
}


LEFT_OPEN: dict[str, Callable[[Any], Write]] = {
    "classes and 255": lambda draw: draw.gray(inside=CLASS, around=255),
    "classes of 11 to 22 and 255": lambda draw: draw.gray(inside={n: 11 + n for n in range(NUMBER)}, around=255),
    "16-bit classes and 65535": lambda draw: draw.gray(inside=CLASS, around=65535, kind=np.uint16),
    "one class and 255": lambda draw: draw.gray(inside=1, around=255),
    "colours and a border": lambda draw: partial(draw.colours, border=True),
}


UNTOLD: dict[str, tuple[Callable[[Any], Write], str]] = {
    "1 and 2": (lambda draw: draw.gray(inside=2, outside=1), "the values 1, 2"),
    "100 and 200": (lambda draw: draw.gray(inside=200, outside=100), "the values 100, 200"),
    "three grays": (lambda draw: draw.gray(inside=128, around=255), "the values 0, 128, 255"),
    "nothing bright": (lambda draw: draw.gray(inside={n: 60 + n for n in range(NUMBER)}), "the values 0, 60, 61"),
    "many numbers": (
        lambda draw: draw.gray(inside={n: 10 * n + 1 for n in range(NUMBER)}, around=255),
        "the values 0, 1, 11",
    ),
    "two codings": (
        lambda draw: draw.gray(inside={n: 255 if n % 2 else 1 for n in range(NUMBER)}),
        "no file holds 255 together with another",
    ),
    "dark jpegs": (lambda draw: draw.gray(inside=6, suffix="jpg"), "lossy files with no value above"),
    "white alone": (lambda draw: draw.gray(outside=255), "the values 255"),
    "16-bit numbers": (lambda draw: draw.gray(inside=1000, around=2000, kind=np.uint16), "the values 0, 1000, 2000"),
}


@pytest.fixture(scope="module", name="CODED")
def bound_codings(drawing: Any) -> dict[str, Write]:
    return {name: write(drawing) for name, write in CODINGS.items()}


@pytest.fixture(scope="module", name="OPEN")
def bound_left_open(drawing: Any) -> dict[str, Write]:
    return {name: write(drawing) for name, write in LEFT_OPEN.items()}


@pytest.fixture(scope="module", name="DOUBTFUL")
def bound_untold(drawing: Any) -> dict[str, tuple[Write, str]]:
    return {name: (write(drawing), found) for name, (write, found) in UNTOLD.items()}


@pytest.fixture(scope="module")
def halved(disc: Truth) -> Write:
    """Drawn at twice the size and shrunk: edges of 64, 128 and 191."""

    def write(path: Path, number: int) -> None:
        large = Image.fromarray(disc(number, 18.0, 2 * SIDE).astype(np.uint8) * 255)
        large.resize((SIDE, SIDE), Image.Resampling.BOX).save(path.with_suffix(".png"))

    return write


@pytest.mark.parametrize("name", CODINGS)
def test_the_disc_is_foreground_in_every_coding(
    disc: Truth, drawn: Callable[..., Path], made: Made, CODED: dict[str, Write], name: str, tmp_path: Path
) -> None:
    one, masks = made(drawn(tmp_path / "set", CODED[name]), tmp_path / "run")
    expected = np.stack([disc(number) for number in range(NUMBER)]).astype(np.uint8)
    if name == "jpeg":
        assert (masks != expected).mean() < 0.01
    else:
        assert np.array_equal(masks, expected)
    assert one.coding
    assert one.faults == ()


def test_gray_edges_are_not_classes(drawn: Callable[..., Path], made: Made, halved: Write, tmp_path: Path) -> None:
    _, masks = made(drawn(tmp_path / "set", halved), tmp_path / "run")
    expected = np.stack([np.asarray(Image.open(p)) > 127 for p in sorted((tmp_path / "set/masks").iterdir())])
    assert np.array_equal(masks, expected)
    assert 150 < masks[0].sum() < 300


@pytest.mark.parametrize("name", LEFT_OPEN)
def test_what_is_left_open_is_ignored_and_never_foreground(
    *,
    disc: Truth,
    ring: Truth,
    drawn: Callable[..., Path],
    made: Made,
    OPEN: dict[str, Write],
    name: str,
    tmp_path: Path,
) -> None:
    one, masks = made(drawn(tmp_path / "set", OPEN[name]), tmp_path / "run")
    for number in range(NUMBER):
        assert np.array_equal(masks[number] == 1, disc(number))
        assert np.array_equal(masks[number] == codings.IGNORED, ring(number))
    assert "foreground" in one.coding


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_is_refused_with_its_values(
    drawn: Callable[..., Path], made: Made, DOUBTFUL: dict[str, tuple[Write, str]], name: str, tmp_path: Path
) -> None:
    write, found = DOUBTFUL[name]
    with pytest.raises(ValueError, match=found) as caught:
        made(drawn(tmp_path / "set", write), tmp_path / "run")
    assert "--mask-coding" in str(caught.value)
    assert "--ignore-value" in str(caught.value)


def test_the_flags_decide(
    disc: Truth, ring: Truth, drawn: Callable[..., Path], made: Made, gray: Callable[..., Write], tmp_path: Path
) -> None:
    folder, run = drawn(tmp_path / "set", gray(inside=128, around=255)), tmp_path / "run"
    both = np.stack([disc(number) | ring(number) for number in range(NUMBER)]).astype(np.uint8)
    assert np.array_equal(made(folder, run, coding="classes")[1], both)
    assert np.array_equal(made(folder, run, coding="binary")[1], both)
    _, masks = made(folder, run, coding="binary", ignore=255)
    assert np.array_equal(masks == codings.IGNORED, both - np.stack([disc(n) for n in range(NUMBER)]))
    assert np.array_equal(made(folder, run, ignore=255)[1], masks)  # 0 and 128 are left
    assert len({made(folder, run, **asked)[0].stem for asked in ({"ignore": 255}, {"coding": "classes"})}) == 2


def test_a_known_set_states_its_coding(
    drawn: Callable[..., Path], gray: Callable[..., Write], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drawn(tmp_path / "set", gray(inside=128, around=255))
    found = folders.replace(folders.find_dataset("generic", str(folder)), name="kvasir-seg")
    one = prepare_set(RunDirectory(str(tmp_path / "run")), "set", found, SIDE, None)
    assert one.coding == "as the set states"
