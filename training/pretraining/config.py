"""The configs of pre-training, from which its command line is made. They import no step."""

from dataclasses import dataclass
from typing import Literal

from curation.options import option, require
from training.methods.config import MethodName


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What is trained, on what, and where it goes."""

    subset: str = option("A subset's folder with its kept.parquet: RUN/subsets/NAME.", hashed=False)
    output: str = option("Where weights, checkpoints and records go: a path or an object-storage URI.", hashed=False)
    method: MethodName = option("The pre-training method.", "mae")
    init: str = option(
        "The initial weights: `scratch`, a weights file that fits the encoder, or the timm name of weights (of the "
        "same architecture) from the hub.",
        "scratch",
    )
    seed: int = option("Seed of weights, order, crops and masks.", 0)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Ranks, precision, and where decoded frames are kept. Only the precision changes the weights."""

    workers: int = option("Ranks of data-parallel training; one GPU each if there are any.", 1, hashed=False)
    min_workers: int = option(
        "Continue with as few ranks as this when nodes leave, and grow again up to --workers; 0: always --workers.",
        0,
        hashed=False,
    )
    cpus: float = option("CPU cores for all ranks and decoding together; 0: all.", 0, hashed=False)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "Precision of forward and backward; auto: the one of the first call, else bfloat16 where every chip has it.",
        "auto",
    )
    compile: bool = option("Compile the model with torch.compile (minutes at the start; needs a C++ compiler).", False)
    cache_margin: float = option("Frames are decoded once, to the training size times this.", 1.25)
    cache_gb: float | None = option(
        "Keep decoded frames if they need at most this, else decode them again each epoch. Default: half of the "
        "disk's free space at --output (of Ray's object store where --output is a URI); 0: never.",
        None,
        hashed=False,
    )

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"workers is {self.workers}; it must be at least 1")
        require(
            0 <= self.min_workers <= self.workers,
            f"min_workers is {self.min_workers}; it must be between 0 and workers, {self.workers}",
        )
        require(self.cpus >= 0, f"cpus is {self.cpus}; it must be 0 or more")
        require(self.cache_margin >= 1, f"cache_margin is {self.cache_margin}; it must be at least 1")
        require(self.cache_gb is None or self.cache_gb >= 0, f"cache_gb is {self.cache_gb}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What is recorded during training. None of it changes the weights."""

    checkpoint_steps: int = option("Save a checkpoint every this many updates.", 500, hashed=False)
    keep_checkpoints: int = option("How many of the last checkpoints are kept.", 2, hashed=False)
    log_steps: int = option("Record loss and speed every this many updates.", 20, hashed=False)
    picture_steps: int = option("Draw the model's output every this many updates; 0: never.", 1000, hashed=False)
    pictures: int = option("How many frames are drawn.", 8, hashed=False)
    logger: tuple[Literal["mlflow", "wandb"], ...] = option(
        "Also record with MLflow or Weights & Biases, set up by their own environment variables.",
        (),
        hashed=False,
    )

    def __post_init__(self) -> None:
        for name in ("checkpoint_steps", "keep_checkpoints", "log_steps", "pictures"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(self.picture_steps >= 0, f"picture_steps is {self.picture_steps}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """The length, exactly one of four, and how many images an update sees."""

    epochs: float | None = option("Length in passes over the subset.", None)
    steps: int | None = option("Length in updates.", None)
    images_seen: int | None = option("Length in images, counted each time they are seen.", None)
    equal_compute_to: float | None = option("As many images as this many epochs over the full pool would see.", None)
    batch_size: int = option("Images per update, over all ranks and accumulations.", 256)
    reference_epochs: float = option(
        "Epochs over the full pool that the cost is compared with: the paper trains 200.", 200, hashed=False
    )
    slice_rows: int = option(
        "Images per slice of the batch: their crops and masks come from one generator, and a rank takes whole slices.",
        16,
    )
    micro_batch: int = option("Images per forward pass of a rank; 0: its whole share of the batch.", 0)

    def __post_init__(self) -> None:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        require(len(given) == 1, f"give one of {', '.join(LENGTHS)}; found {', '.join(given) or 'none'}")
        require(
            self.slice_rows >= 1 and self.batch_size >= 1 and self.batch_size % self.slice_rows == 0,
            f"batch_size {self.batch_size} is not a multiple of slice_rows {self.slice_rows}; change one of them",
        )
        require(
            self.micro_batch >= 0 and self.micro_batch % self.slice_rows == 0,
            f"micro_batch {self.micro_batch} is not a multiple of slice_rows {self.slice_rows}; change one of them",
        )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a warm-up and a cosine; the defaults are MAE's public recipe."""

    learning_rate: float = option("Highest learning rate, read as `learning_rate_reading` says.", 1.5e-4)
    learning_rate_reading: Literal["scaled", "absolute"] = option(
        "The paper's rate can be read in two ways: times batch / 256, or as it is.", "scaled"
    )
    weight_decay: float = option("Decoupled weight decay.", 0.05)
    beta1: float = option("AdamW's first moment.", 0.9)
    beta2: float = option("AdamW's second moment.", 0.95)
    warmup_share: float = option("Share of the updates over which the rate rises.", 0.05)
    minimum_learning_rate: float = option("Rate at the end of the cosine.", 0.0)
    layer_decay: float = option("Factor on the rate per layer away from the last.", 1.0)
    clip_norm: float = option("Largest gradient norm; 0: no clipping.", 0.0)
    ema_decay: float = option("Keep a moving average of the weights with this decay, and export it; 0: none.", 0.0)

    def __post_init__(self) -> None:
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}; it must be 0, or below 1")
        require(self.clip_norm >= 0, f"clip_norm is {self.clip_norm}; it must be 0 or more")


LENGTHS = ("epochs", "steps", "images_seen", "equal_compute_to")
