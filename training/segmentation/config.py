"""How an encoder is fine-tuned for segmentation."""

from dataclasses import dataclass
from typing import Literal

from curation.options import option, require

PAPER_EPOCHS = {"paper-short": 200, "paper-long": 500}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How an encoder is fine-tuned. Batch size and lengths are the paper's; it gives no other number."""

    epochs: int | Literal["paper-short", "paper-long"] = option(
        "Largest number of epochs; the paper's are 200 and 500.", "paper-short"
    )
    batch_size: int = option("Images per update.", 16)
    learning_rate: float = option("Highest rate of AdamW, after a warm-up over 5 % of the updates.", 3e-4)
    weight_decay: float = option("Decoupled weight decay.", 0.05)
    layer_decay: float = option("Factor on the rate per layer away from the head.", 0.75)
    frozen: bool = option("Train only the head, on tokens computed once: whole images and flips, no crops.", False)
    image_size: int = option("Side in pixels of the squares that the encoder sees.", 224)
    patience: int = option("Stop after this many epochs without a better validation IoU; 0: never.", 50)
    head_width: int = option("Width of the head's hidden layer.", 256)
    head_cells: int = option("Logits per patch and side: the head's grid before upsampling.", 4)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "Precision of forward and backward; auto: the one of the first call, else bfloat16 where every chip has it.",
        "auto",
    )
    seed: int = option("Seed of the head, the order, crops and flips.", 0)

    def __post_init__(self) -> None:
        for name in ("passes", "batch_size", "image_size", "head_width", "head_cells"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("weight_decay", "patience", "seed"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be above 0")
        require(0 < self.layer_decay <= 1, f"layer_decay is {self.layer_decay}; it must be above 0 and up to 1")

    @property
    def passes(self) -> int:
        """The epochs, as a number."""
        return PAPER_EPOCHS[self.epochs] if isinstance(self.epochs, str) else self.epochs
