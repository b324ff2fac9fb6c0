"""What tests of masks' codings share: a set drawn in some coding, and what its preparation makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from curation.store.directory import RunDirectory
from training.datasets import codings, folders
from training.datasets.prepared import PreparedSet, load_array, prepare_set

Pixels = npt.NDArray[Any]
SIDE, NUMBER = 32, 12


class Drawing:
    """Pictures, the lesions in them, and what writes their masks in some coding at a path without suffix."""

    @staticmethod
    def disc(number: int = 0, radius: float = 9.0, size: int = SIDE) -> npt.NDArray[np.bool_]:
        rows, columns = np.ogrid[:size, :size]
        return (rows - 14 - number % 4) ** 2 + (columns - 12 - number % 5) ** 2 < radius**2

    @staticmethod
    def ring(number: int) -> npt.NDArray[np.bool_]:
        return Drawing.disc(number, 11.0) & ~Drawing.disc(number)

    @staticmethod
    def picture(number: int, size: int = SIDE) -> Image.Image:
        low = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC)

    @staticmethod
    def gray(
        *, inside: Any = 255, outside: Any = 0, around: Any = None, kind: Any = np.uint8, suffix: str = "png"
    ) -> Any:
        """Write gray masks: values inside the disc (by number where a dict), outside, and in the ring."""

        def write(path: Path, number: int) -> None:
            value = inside[number] if isinstance(inside, dict) else inside
            values = np.where(Drawing.disc(number), value, outside).astype(kind)
            if around is not None:
                values[Drawing.ring(number)] = around
            if suffix == "tif":
                tifffile.imwrite(path.with_suffix(".tif"), values, photometric="minisblack")
            else:
                Image.fromarray(values).save(path.with_suffix(f".{suffix}"), quality=90)

        return write

    @staticmethod
    def rgba(path: Path, number: int) -> None:
        values = np.full((SIDE, SIDE, 4), 255, np.uint8)
        values[:, :, 3] = Drawing.disc(number) * 255
        Image.fromarray(values).save(path.with_suffix(".png"))

    @staticmethod
    def colours(path: Path, number: int, border: bool = False) -> None:
        palette = [(64, 0, 0), (0, 64, 0), (0, 0, 128)]
        values = np.zeros((SIDE, SIDE, 3), np.uint8)
        values[Drawing.disc(number)] = palette[number % 3]
        if border:
            values[Drawing.ring(number)] = codings.BORDER
        Image.fromarray(values).save(path.with_suffix(".png"))


@pytest.fixture(scope="session")
def drawing() -> type[Drawing]:
    """All of it, for tables of codings."""
    return Drawing


@pytest.fixture(scope="session")
def disc() -> Callable[..., npt.NDArray[np.bool_]]:
    """disc(number, radius, size): the lesion of a picture."""
    return Drawing.disc


@pytest.fixture(scope="session")
def ring() -> Callable[..., npt.NDArray[np.bool_]]:
    """ring(number): what lies around it."""
    return Drawing.ring


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """picture(number, size)"""
    return Drawing.picture


@pytest.fixture(scope="session")
def gray() -> Callable[..., Callable[[Path, int], None]]:
    """gray(inside, outside, around, kind, suffix): what writes gray masks."""
    return Drawing.gray


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Path]:
    """drawn(folder, write): a set of pictures with the masks that `write` puts at a path without suffix."""

    def draw(folder: Path, write: Callable[[Path, int], Path | None]) -> Path:
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for number in range(NUMBER):
            Drawing.picture(number).save(folder / "images" / f"{number:02d}.png")
            write(folder / "masks" / f"{number:02d}", number)
        return folder

    return draw


@pytest.fixture(scope="session")
def made() -> Callable[..., tuple[PreparedSet, Pixels]]:
    """made(folder, run, size, coding, ignore): the set as prepared, all of it test, and its masks."""

    def prepare(folder: Path, run: Path, size: int = SIDE, **asked: Any) -> tuple[PreparedSet, Pixels]:
        found = RunDirectory(str(run))
        choice = (asked.get("coding", "auto"), asked.get("ignore"))
        one = prepare_set(found, "set", folders.find_dataset("generic", str(folder)), size, None, choice)
        return one, np.asarray(load_array(found, f"{one.stem}.masks.npy"))

    return prepare
