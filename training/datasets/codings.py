"""What the values in mask files mean, decided for all masks of a set together. It reads no file and knows no set.

Legend: H, W height and width; C channels. A mask becomes uint8 [H, W]: 0 background, 1 foreground, IGNORED.

With `auto` the values of all masks of a set are considered together, since one file alone often fits several codings:
- Alpha: where the colours of every file are constant and transparency varies, transparency is the mask, read as gray.
  Else what is transparent is black, and colours are read.
- Colours: where the lossless files use MAX_COLOURS colours or fewer, black among them, all but black is foreground;
  PASCAL VOC's border (224, 224, 192) is ignored. More colours are read by brightness (the brightest channel).
- Lossy files (JPEG, WebP) are read by brightness.
- Gray of lossless files: 0 and one other value are background and foreground, whatever that value. 0 and class numbers
  up to MAX_CODE: all but 0 is foreground. The same with 255 (in 16 bits also 65535), next to numbers in some file: 255
  is IGNORED, neither trained on nor counted.
- Gray that has black, white (WHITE and up) and blurred edges between them: brightness. Edges have more than FEW
  different values, or values found between black and white only.
Brightness means that what is above 127 of 255 is foreground. All else is refused, with the values found: no background
(0), nothing bright, a few grays that are not an edge, numbers above MAX_CODE. MAX_CODE, MAX_COLOURS, FEW and WHITE are
OURS. That a mask is inverted cannot be known. Sets known by name have their own rule (training/datasets/masks.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from curation.frames.decoding import Pixels
from curation.options import require

Kind = Literal["known", "auto", "binary", "classes", "alpha"]
Code = float | tuple[int, ...]
UInt8 = npt.NDArray[np.uint8]

IGNORED = 255  # in arrays: a pixel that is neither trained on nor counted
THRESHOLD = 127
MAX_CODE = 50
MAX_COLOURS = 20
FEW = 20
BLACK, WHITE = 10, 245  # what counts as black and white next to edges
BORDER = (224, 224, 192)  # PASCAL VOC's "void"
MAX_VALUES = 300  # distinct values that are kept per file; more count as many
EDGE_SHARE = 0.9  # share of gray pixels between black and white from which they count as edges
RARE = 1e-3  # classes that cover less than this share of what 255 covers are not classes


@dataclass(frozen=True)
class Samples:
    """A mask file: values [H, W, C] as stored, palettes resolved; alpha uint8 [H, W]; whether the file is lossy."""

    values: npt.NDArray[Any]
    alpha: Pixels | None
    lossy: bool

    def __post_init__(self) -> None:
        assert self.values.ndim == 3

    @property
    def constant(self) -> bool:
        """Whether all pixels have one colour."""
        return bool((self.values == self.values[:1, :1]).all())

    @property
    def coloured(self) -> bool:
        """Whether it is a colour picture with a pixel that is not gray."""
        return self.values.shape[2] == 3 and bool((self.values != self.values[:, :, :1]).any())

    def seen(self) -> npt.NDArray[Any]:
        """Return the values, transparent pixels as black."""
        if self.alpha is None or self.values.dtype != np.uint8:
            return self.values
        return (self.values * (self.alpha[:, :, None] / 255)).round().astype(np.uint8)


@dataclass(frozen=True)
class Coding:
    """How a set's masks are read: by `binary`, `classes` or `alpha` values, and which value is ignored."""

    kind: Literal["known", "binary", "classes", "alpha"]
    ignore: Code | None = None
    brightness_of_alpha: bool = True  # whether transparency is read as binary, else as classes
    description: str = ""  # in words


KNOWN = Coding("known", description="as the set states")


@dataclass
class Survey:
    """The values of all masks of a set together; filled by `add`."""

    gray: dict[float, int] = field(default_factory=dict)  # pixels by value, of lossless files
    alpha: dict[float, int] = field(default_factory=dict)
    colours: set[tuple[int, ...]] = field(default_factory=set)
    coloured: bool = False
    lossy: bool = False
    brightest_lossy: float = 0.0
    varied: bool = False  # a file's colours vary
    transparent: bool = False  # a file's transparency varies
    edges: list[int] = field(default_factory=lambda: [0, 0])  # gray pixels, and those between black and white
    void_with_classes: bool = False  # a file holds both 255 (65535) and class numbers
    depth: float = 255.0  # white of the samples

    def add(self, samples: Samples) -> None:
        """Count a file's values."""
        values = samples.seen()
        self.varied |= not samples.constant
        if samples.alpha is not None:
            self.transparent |= bool((samples.alpha != samples.alpha[:1, :1]).any())
            tally(self.alpha, samples.alpha)
        brightest = values.max(axis=2)
        if samples.lossy:
            self.lossy, self.brightest_lossy = True, max(self.brightest_lossy, float(brightest.max(initial=0)))
            return
        self.coloured |= samples.coloured
        if values.shape[2] == 3 and values.dtype == np.uint8 and len(self.colours) <= MAX_VALUES:
            flat = np.unique(values.reshape(-1, 3), axis=0)[: MAX_VALUES + 1]
            self.colours |= {tuple(map(int, colour)) for colour in flat}
        elif len(self.colours) <= MAX_VALUES:
            self.colours |= {(int(value),) * 3 for value in np.unique(brightest)[: MAX_VALUES + 1]}
        tally(self.gray, brightest)
        numbers = (brightest > 0) & (brightest <= MAX_CODE)
        self.void_with_classes |= bool(numbers.any() and np.isin(brightest, (255, 65535)).any())
        self.depth = max(self.depth, white_of_masks(values))
        if values.dtype == np.uint8:
            gray, between = edge_pixels(brightest)
            self.edges = [self.edges[0] + gray, self.edges[1] + between]


def tally(counts: dict[float, int], values: npt.NDArray[Any]) -> None:
    """Add the pixels of each value to `counts`."""
    kinds, numbers = np.unique(values, return_counts=True)
    for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
        counts[float(kind)] = counts.get(float(kind), 0) + number


def white_of_masks(values: npt.NDArray[Any]) -> float:
    """Return the value of white for samples of a type: its highest value, for floats 1 or 255."""
    if values.dtype.kind == "f":
        return 1.0 if values.max(initial=0) <= 1 else 255.0
    if values.dtype.itemsize == 1 or values.max(initial=0) <= 255:
        return 255.0
    return 65535.0


def edge_pixels(brightest_HW: Pixels) -> tuple[int, int]:
    """Count pixels that are neither black nor white, and those with both within two pixels."""
    gray = (brightest_HW > BLACK) & (brightest_HW < WHITE)
    if not gray.any():
        return 0, 0
    image = Image.fromarray(brightest_HW)
    low, high = (np.asarray(image.filter(each(5))) for each in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    return int(gray.sum()), int((gray & (low <= BLACK) & (high >= WHITE)).sum())


def decide(survey: Survey, kind: Kind, ignore: int | None, name: str) -> Coding:
    """Return how the masks of the set `name` are read. ValueError, with the values found, if ambiguous."""
    if kind == "known":
        return KNOWN
    if kind != "auto":
        return Coding(kind, ignore, description=f"{kind}, as asked for")
    if survey.transparent and not survey.varied:
        read = gray_coding(Survey(gray=survey.alpha, void_with_classes=True), ignore, name)
        return Coding("alpha", read.ignore, read.kind == "binary", f"transparency, {read.description}")
    if survey.coloured and survey.colours and not len(survey.colours) > MAX_COLOURS:
        require(
            (0, 0, 0) in survey.colours,
            ambiguity(name, f"the colours {value_list(survey.colours)}, none of which is black"),
        )
        border = BORDER if BORDER in survey.colours and len(survey.colours) > 2 else None
        return Coding("classes", border if ignore is None else ignore, description="all but black is foreground")
    lossless = Coding("binary", ignore, description="bright is foreground")
    if survey.coloured:
        bright = {value for value in survey.gray if value > THRESHOLD}
        require(
            bool(bright) and 0 in survey.gray and not survey.transparent,
            ambiguity(name, f"{len(survey.colours)} colours or more, without black and bright ones"),
        )
    elif survey.gray:
        lossless = gray_coding(survey, ignore, name)
    if survey.lossy:
        empty = survey.brightest_lossy == 0
        require(
            empty or survey.brightest_lossy > THRESHOLD or bool(survey.gray),
            ambiguity(
                name, f"lossy files with no value above {survey.brightest_lossy:g}, where class numbers are unreliable"
            ),
        )
        if not survey.gray:
            return Coding("binary", ignore, description="bright is foreground")
    return lossless


def gray_coding(survey: Survey, ignore: int | None, name: str) -> Coding:
    """Return how the gray values of a survey are read; see the module's rules."""
    counts, edges, white = survey.gray, survey.edges, survey.depth
    values = sorted(value for value in counts if value != ignore)
    others = [value for value in values if value != 0]
    if not others:
        return Coding("classes", ignore, description="all of it is background")
    found = f"the values {value_list(values)}"
    soft = white == 1.0 and any(value != round(value) for value in values)
    dark, bright = values[0] <= BLACK * white / 255, values[-1] >= WHITE * white / 255
    if soft:
        require(dark and bright, ambiguity(name, found))
        return Coding("binary", ignore, description="0.5 and up is foreground")
    if values[0] == 0 and len(others) == 1:
        return Coding("classes", ignore, description=f"0 is background, {others[0]:g} foreground")
    numbers = [value for value in others if value <= MAX_CODE]
    beyond = others[len(numbers) :]
    if values[0] == 0 and not beyond:
        return Coding("classes", ignore, description=f"classes {value_list(numbers)} are foreground")
    if values[0] == 0 and numbers and ignore is None and len(beyond) == 1 and beyond[0] in (255.0, 65535.0):
        covered = sum(counts[value] for value in numbers)
        require(
            survey.void_with_classes,
            ambiguity(name, f"{found}, but no file holds {beyond[0]:g} together with another class"),
        )
        if covered >= RARE * counts[beyond[0]]:
            description = f"classes {value_list(numbers)} are foreground, {beyond[0]:g} is ignored"
            return Coding("classes", beyond[0], description=description)
        raise ValueError(ambiguity(name, f"{found}, of which 1 to {MAX_CODE} cover only {covered} pixels"))
    many = len([value for value in values if BLACK * white / 255 < value < WHITE * white / 255]) > FEW
    between = edges[0] == 0 or edges[1] >= EDGE_SHARE * edges[0]
    span = any(THRESHOLD * white / 255 < value < WHITE * white / 255 for value in values) or between
    require(dark and bright and span and (many or (between and white == 255.0)), ambiguity(name, found))
    return Coding("binary", ignore, description="bright is foreground")


def ambiguity(name: str, found: str) -> str:
    """Return why a set's masks cannot be read, and which flags decide."""
    return (
        f"the masks of {name} hold {found}, so the foreground is ambiguous. Expected 0 and one other value, classes "
        f"from 0 to {MAX_CODE} (255: ignored), black and white with gray edges, or colours on black. Decide with "
        "--mask-coding: binary (above half of white), classes (all but 0 and black) or alpha (transparency), and with "
        "--ignore-value for a value that is not counted"
    )


def value_list(values: Iterable[Any]) -> str:
    """Return values in order, the first ten of them."""
    ordered = sorted(values)
    texts = [str(each) if isinstance(each, tuple) else f"{each:g}" for each in ordered[:10]]
    return ", ".join(texts) + (f", ... ({len(ordered)})" if len(ordered) > 10 else "")


def decode_mask(samples: Samples, coding: Coding) -> Pixels:
    """Return a file's mask by a set's coding: uint8 [H, W] of 0, 1 and IGNORED."""
    assert coding.kind != "known"
    if coding.kind == "alpha":
        alpha: Pixels = samples.values.max(axis=2).astype(np.uint8) if samples.alpha is None else samples.alpha
        inside = alpha > (THRESHOLD if coding.brightness_of_alpha else 0)
        return mask_of(inside, alpha == coding.ignore)
    values = samples.seen()
    brightest = values.max(axis=2)
    if coding.kind == "classes" and not samples.lossy:
        inside = brightest > 0
    else:
        inside = (
            brightest >= 0.5 if white_of_masks(values) == 1.0 else brightest > THRESHOLD * white_of_masks(values) / 255
        )
    if isinstance(coding.ignore, tuple):
        ignored = (values == np.array(coding.ignore)).all(axis=2)
    else:
        ignored = np.zeros_like(inside) if coding.ignore is None else (values == coding.ignore).all(axis=2)
    return mask_of(inside, ignored)


def mask_of(inside: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_]) -> Pixels:
    """Return 1 inside, IGNORED where ignored, else 0."""
    return np.where(ignored, np.uint8(IGNORED), inside.astype(np.uint8))


def highest_class(masks: UInt8) -> int:
    """Return the highest class of masks; IGNORED is not a class."""
    return int(masks.max(initial=0, where=masks != IGNORED))
