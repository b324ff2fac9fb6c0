"""All configs of one pre-training together, and the job of a rank. It knows no engine."""

from dataclasses import dataclass
from typing import Any

from curation.options import hashed_fields
from training.methods.config import METHODS
from training.methods.method import Method
from training.pretraining import weights
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.loop import Plan


@dataclass(frozen=True)
class Recipe:
    """All configs of one training."""

    what: PretrainConfig
    compute: ComputeConfig
    record: RecordConfig
    length: LengthConfig
    optimiser: OptimiserConfig
    model: Any
    augmentation: Any

    def shaping(self) -> dict[str, Any]:
        """All settings that shape the weights, by name."""
        parts = (self.what, self.compute, self.length, self.optimiser, self.model, self.augmentation)
        shaping = {key: value for part in parts for key, value in hashed_fields(part).items()}
        return shaping | {"init": weights.init_identity(self.what.init)}

    def method(self) -> Method:
        """Make the method with its initial weights."""
        made: Method = METHODS[self.what.method].load("method")(self.model, self.augmentation)
        if self.what.init != "scratch":
            weights.initialise_from(made, self.what.init, self.model)
        return made


@dataclass(frozen=True)
class RankJob:
    """Everything that a rank needs."""

    settings: Recipe
    plan: Plan
    frames: Any  # a FrameCache of training/loader/cache.py
    mailbox: Any  # handle of a Mailbox
