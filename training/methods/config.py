"""The configs of pre-training methods, and the list of methods. It loads no PyTorch."""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from curation.options import option, require


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Crops and flips; the defaults are MAE's."""

    scale: tuple[float, float] = option("Share of the image's area that a crop covers, from and to.", (0.2, 1.0))
    ratio: tuple[float, float] = option("Width over height of a crop, from and to.", (3 / 4, 4 / 3))
    interpolation: Literal["bicubic", "bilinear"] = option("How a crop is scaled, always antialiased.", "bicubic")
    horizontal_flip: float = option("Probability of a left-right flip.", 0.5)
    vertical_flip: float = option("Probability of an upside-down flip: endoscopy has no up.", 0.0)

    def __post_init__(self) -> None:
        for name, low, high in (("scale", 0.0, 1.0), ("ratio", 0.0, math.inf)):
            first, last = getattr(self, name)
            require(
                low < first <= last <= high,
                f"{name} is {first}, {last}; give two numbers in order, above {low} and up to {high}",
            )
        for name in ("horizontal_flip", "vertical_flip", "jitter", "grey", "blur"):
            value = getattr(self, name, 0.0)
            require(0 <= value <= 1, f"{name} is {value}; a probability lies between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class SimclrAugmentation(Augmentation):
    """Crops, flips, colour and blur; the defaults are SimCLR's (arXiv 2002.05709, appendix A)."""

    scale: tuple[float, float] = option("Share of the image's area that a crop covers, from and to.", (0.08, 1.0))
    jitter: float = option("Probability of a change of colour.", 0.8)
    strength: float = option(
        "Strength of the change: brightness, contrast, saturation by up to 0.8 of this, hue 0.2.", 1.0
    )
    grey: float = option("Probability of conversion to grey.", 0.2)
    blur: float = option("Probability of a Gaussian blur of 0.1 to 2 pixels.", 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.strength <= 2.5, f"strength is {self.strength}; it must be between 0 and 2.5")


@dataclass(frozen=True, kw_only=True)
class MaeConfig:
    """The model; the defaults are the paper's."""

    encoder: str = option("The encoder: a Vision Transformer's name in timm.", "vit_base_patch16_224")
    image_size: int = option("Side in pixels of the square crops that the encoder sees.", 224)
    mask_ratio: float = option("Share of the patches that are hidden.", 0.75)
    normalise_pixels: bool = option("Predict pixels normalised by their own patch's mean and deviation.", True)
    decoder_depth: int = option("Blocks of the decoder.", 8)
    decoder_width: int = option("Width of the decoder.", 512)
    decoder_heads: int = option("Attention heads of the decoder.", 16)
    seed: int = option("Seed of the weights.", 0)

    def __post_init__(self) -> None:
        require(0 < self.mask_ratio < 1, f"mask_ratio is {self.mask_ratio}; it must be between 0 and 1")
        for name in ("image_size", "decoder_depth", "decoder_width", "decoder_heads"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(
            self.decoder_width % self.decoder_heads == 0 and self.decoder_width % 4 == 0,
            f"decoder_width is {self.decoder_width}; it must be a multiple of decoder_heads, {self.decoder_heads}, and "
            "of 4",
        )


@dataclass(frozen=True, kw_only=True)
class SimclrConfig:
    """The model; the defaults are the paper's."""

    encoder: str = option("The encoder: a Vision Transformer's name in timm.", "vit_base_patch16_224")
    image_size: int = option("Side in pixels of the square crops that the encoder sees.", 224)
    pooling: Literal["cls", "mean"] = option(
        "What is projected: the class token, or the mean of the patch tokens.", "cls"
    )
    head_layers: Literal[2, 3] = option("Linear layers of the projection head.", 2)
    head_width: int = option("Width of its hidden layers; 0: the encoder's.", 0)
    dimensions: int = option("Dimensions of the projections that are compared.", 128)
    temperature: float = option("Temperature of the loss.", 0.1)
    seed: int = option("Seed of the weights.", 0)

    def __post_init__(self) -> None:
        require(self.head_layers in (2, 3), f"head_layers is {self.head_layers}; it must be 2 or 3")
        require(self.head_width >= 0, f"head_width is {self.head_width}; it must be 0 or more")
        require(self.temperature > 0, f"temperature is {self.temperature}; it must be above 0")
        for name in ("image_size", "dimensions"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")


class ModelConfig(Protocol):
    """The fields that the configs of all methods share."""

    @property
    def encoder(self) -> str:
        """The encoder's name in timm."""

    @property
    def image_size(self) -> int:
        """Side in pixels of what it sees."""

    @property
    def seed(self) -> int:
        """Seed of the weights."""


@dataclass(frozen=True)
class MethodParts:
    """Where a method's parts are, each as FILE:NAME in this folder; loaded when needed: PyTorch takes seconds."""

    config: str
    augmentation: str
    method: str

    def load(self, part: str) -> Any:
        """The class that is the method's `config`, `augmentation` or `method`."""
        file, _, name = str(getattr(self, part)).partition(":")
        return getattr(import_module(f"training.methods.{file}"), name)


# To add a method, write one file with its config and a class like MaeMethod (see method.py), and add a line here.
METHODS = {
    "mae": MethodParts("config:MaeConfig", "config:Augmentation", "mae:MaeMethod"),
    "simclr": MethodParts("config:SimclrConfig", "config:SimclrAugmentation", "simclr:SimclrMethod"),
}
if TYPE_CHECKING:
    MethodName: TypeAlias = str
else:
    MethodName = Literal[tuple(METHODS)]  # so that the command line offers them
