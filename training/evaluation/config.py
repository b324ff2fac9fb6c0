"""What is evaluated, on what, and what a benchmark compares."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from curation.options import flags_of, option, require
from training.segmentation.config import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoders that are evaluated."""

    encoder: tuple[str, ...] = option(
        "The output folder of a finished pre-training; or a weights file, or `random`, with --name. "
        "Further ones are compared with the first.",
        (),
    )
    name: str | None = option("The timm name of an encoder given as a weights file or `random`.", None)
    statistics: Literal["auto", "timm", "imagenet", "half", "clip"] = option(
        "Mean and deviation of the colours that the encoders expect. auto: the ones stored with the weights, else "
        "timm's for the name.",
        "auto",
    )

    def __post_init__(self) -> None:
        require(len(self.encoder) > 0, "no encoder given; name at least one with --encoder DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What encoders are tested on, and how."""

    output: str = option("Where results, pictures and decoded images go: a path or an object-storage URI.")
    dataset: tuple[str, ...] = option(
        "A set to train and test on, as NAME=DIR, or LABEL:NAME=DIR to give it another name (`python -m training "
        "datasets` lists the names; any folder of images and masks is `generic`). A model trained on one is "
        "tested on all.",
        (),
    )
    external: tuple[str, ...] = option(
        "A set that is only tested on, all of it, as NAME=DIR.",
        (),
    )
    seeds: int = option(
        "Repetitions of everything, with seeds counting up from --seed; a probe of an encoder runs once.", 3
    )
    probe: Literal["finetune", "linear", "knn"] = option(
        "Fine-tune; or, in seconds, a linear layer or the nearest neighbours on frozen tokens.", "finetune"
    )
    reading: Literal["nominal", "actual"] = option(
        "The ratio in NormDEL. nominal: the paper's, if one is within a tenth of the actual ratio; actual: its own.",
        "nominal",
    )
    split_seed: int = option("Seed of the split of sets without an official one; the same for every run.", 0)
    decoded_size: int = option("Side in pixels of the squares that images are decoded to; IoU is measured there.", 256)
    test_every: int = option(
        "Also test every so many epochs, for curves and box plots (no result depends on it); 0: only at the end.", 1
    )

    mask_coding: Literal["auto", "binary", "classes", "alpha"] = option(
        "How masks of generic sets are coded. auto: decided by the values of all of them, refused if ambiguous; "
        "binary: above half of white; classes: all but 0 and black; alpha: transparency.",
        "auto",
    )
    ignore_value: int | None = option(
        "The value in masks of generic sets that is neither trained on nor counted. Default: 255 next to classes.",
        None,
    )
    keep_models: bool = option(
        "Keep fine-tuned models below models/: a set that is added later is tested without fine-tuning again.", True
    )

    def __post_init__(self) -> None:
        require(len(self.dataset) > 0, "no data set given; name at least one with --dataset NAME=DIR")
        for name, least in (("seeds", 1), ("decoded_size", 16), ("test_every", 0), ("split_seed", 0)):
            value = getattr(self, name)
            require(value >= least, f"{name} is {value}; it must be at least {least}")


COMMON_FLAGS = ("seed", "image_size", "precision")  # flags that pre-training and fine-tuning have in common


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared."""

    subset: tuple[str, ...] = option(
        "A subset's folder, RUN/subsets/NAME, to pre-train on. Add a random and the full one: each is compared "
        "with random of its ratio and with full.",
        (),
    )
    more_lengths: tuple[float, ...] = option(
        "A further length of pre-training, in the unit of the one that is given (--equal-compute-to, --epochs, ...): "
        "table 4 shows mIoU by length.",
        (),
    )

    def __post_init__(self) -> None:
        require(len(self.subset) > 0, "no subset given; name at least one with --subset RUN/subsets/NAME")
        wrong = [length for length in self.more_lengths if length <= 0]
        require(not wrong, f"more_lengths holds {wrong}; each must be above 0")


def prefixed(name: str) -> str:
    """The flag's name of a field of FinetuneConfig: finetune_ before it, unless pre-training shares it."""
    return name if name in COMMON_FLAGS else f"finetune_{name}"


FinetuneFlags: type[Any] = flags_of("FinetuneFlags", FinetuneConfig, prefixed)


def finetune_of(flags: Any) -> FinetuneConfig:
    """The config that FinetuneFlags describe. ValueError for an invalid value."""
    values = {field.name: getattr(flags, prefixed(field.name)) for field in dataclasses.fields(FinetuneConfig)}
    try:
        return FinetuneConfig(**values)
    except ValueError as error:
        raise ValueError(f"in the flags of fine-tuning (--finetune-...): {error}") from error
