"""How frames become vectors."""

from dataclasses import dataclass
from typing import Literal

from curation.options import check_common, option, require, run_dir_option


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How frames become vectors."""

    run_dir: str = run_dir_option()
    encoder: str = option(
        "The encoder: a Vision Transformer's name in timm, or the output folder of `python -m training pretrain`.",
        "vit_base_patch16_224",
    )
    weights: str | None = option(
        "Weights: a safetensors or PyTorch checkpoint file, or `random` for an untrained encoder drawn from "
        "the seed. Default: the folder's, or timm's, downloaded from the hub.",
        None,
        hashed=False,  # their bytes' hash is an input of the step, wherever they are
    )
    image_size: int = option(
        "Side in pixels of the square that a frame is scaled to; 0: what a folder's encoder was trained at, else 224.",
        0,
    )
    pooling: Literal["cls", "mean"] = option("The vector: class token, or mean of the patch tokens.", "cls")
    statistics: Literal["auto", "timm", "imagenet", "half", "clip"] = option(
        "Mean and deviation of the colours that the encoder expects. auto: those that come with the weights (recorded "
        "in the file, or usual for its kind: MAE, DINO, MoCo, CLIP), else timm's for its name.",
        "auto",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "Arithmetic of the encoder; auto: as the step was begun, else bfloat16 where every chip has it, else float32.",
        "auto",
        hashed=False,  # the arithmetic that it stands for is an input of the step
    )
    storage: Literal["float16", "float32"] = option("Type of the stored vectors.", "float16")
    chunk_rows: int = option(
        "Frames decoded together and passed to an encoder at once: one forward pass on a GPU, of 8 at most on a CPU.",
        64,
    )
    seed: int = option("Seed of every random choice.", 0)
    workers: int = option("Encoder actors; 0: one per GPU, or one per CPU without GPUs.", 0, hashed=False)
    max_rejected: float = option("Stop when more than this share of frames is rejected.", 0.05, hashed=False)

    def __post_init__(self) -> None:
        check_common(self)
        require(self.chunk_rows >= 1, f"chunk_rows is {self.chunk_rows}; it must be at least 1")
        for name in ("image_size", "workers"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
