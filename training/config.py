"""The configs of pre-training, from which its command line is made. They know no step's code."""

from dataclasses import dataclass
from typing import Literal

from curation.config import option, require


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What is trained on what, where it goes, and how often it is kept."""

    subset: str = option("A subset's folder with its kept.parquet: RUN/subsets/NAME.", hashed=False)
    output: str = option("Where the weights, checkpoints and metrics go: a local path.", hashed=False)
    method: Literal["mae", "simclr"] = option("How it is pre-trained.", "mae")
    init: str = option("The encoder to begin with: `scratch`, or a weights file that fits it.", "scratch")
    workers: int = option("Ranks of data-parallel training; a GPU each where there are any.", 1, hashed=False)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "Arithmetic of forward and backward; auto: bfloat16 where the chip has it.", "auto"
    )
    cache_margin: float = option("Frames are cached at the training size times this.", 1.25)
    checkpoint_steps: int = option("Keep a checkpoint after this many updates.", 500, hashed=False)
    keep_checkpoints: int = option("How many of the last checkpoints stay.", 2, hashed=False)
    log_steps: int = option("Record loss and speed after this many updates.", 20, hashed=False)
    seed: int = option("Seed of weights, order, crops and masks.", 0)

    def __post_init__(self) -> None:
        for name in ("workers", "checkpoint_steps", "keep_checkpoints", "log_steps"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(self.cache_margin >= 1, f"cache_margin is {self.cache_margin}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """How long: exactly one of the four lengths; and how many images an update sees."""

    epochs: float | None = option("Length in passes over the subset.", None)
    steps: int | None = option("Length in updates.", None)
    images_seen: int | None = option("Length in images, each as often as it is seen.", None)
    equal_compute_to: float | None = option("As many images as this many epochs over the full pool would see.", None)
    batch_size: int = option("Images of one update, over all ranks and accumulations.", 256)
    draw_rows: int = option("Images whose crops and masks are drawn together; a rank takes whole draws.", 16)
    micro_batch: int = option("Images of one forward pass of a rank; 0: all its share of the batch.", 0)

    def __post_init__(self) -> None:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        require(len(given) == 1, f"give one of {', '.join(LENGTHS)}; found {', '.join(given) or 'none'}")
        require(
            self.draw_rows >= 1 and self.batch_size >= 1 and self.batch_size % self.draw_rows == 0,
            f"batch_size {self.batch_size} is not a multiple of draw_rows {self.draw_rows}; change one of them",
        )
        require(
            self.micro_batch >= 0 and self.micro_batch % self.draw_rows == 0,
            f"micro_batch {self.micro_batch} is not a multiple of draw_rows {self.draw_rows}; change one of them",
        )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a warm-up and a cosine; the defaults are MAE's public recipe."""

    learning_rate: float = option("Highest rate, as `learning_rate_reading` reads it.", 1.5e-4)
    learning_rate_reading: Literal["scaled", "absolute"] = option(
        "The paper's rate can be read in two ways: times batch / 256, or as it stands.", "scaled"
    )
    weight_decay: float = option("Decoupled weight decay.", 0.05)
    beta1: float = option("AdamW's first moment.", 0.9)
    beta2: float = option("AdamW's second moment.", 0.95)
    warmup_share: float = option("Share of the updates over which the rate rises.", 0.05)
    minimum_learning_rate: float = option("Rate at the end of the cosine.", 0.0)
    layer_decay: float = option("Factor on the rate for each layer farther from the last.", 1.0)
    clip_norm: float = option("Largest gradient norm; 0: no clipping.", 0.0)


LENGTHS = ("epochs", "steps", "images_seen", "equal_compute_to")
