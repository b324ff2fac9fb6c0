"""All configs of one sweep, and whether they fit together. It does not use Ray."""

from dataclasses import dataclass

from curation.options import require
from training.evaluation.config import EvaluateConfig
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.space import SpaceConfig


@dataclass(frozen=True)
class SweepSettings:
    """All configs of one sweep; the subset and output of `recipe` are not used."""

    config: SweepConfig
    space: SpaceConfig
    question: Question
    halving: HalvingConfig
    evaluation: EvaluateConfig
    recipe: Recipe
    finetune: FinetuneConfig

    def __post_init__(self) -> None:
        require(
            self.question.question != "non-inferior" or "full" in self.space.baselines,
            "the question non-inferior needs the full pool to compare subsets with; add --baseline full",
        )
        require(
            not self.halving.halving or (self.space.search != "optuna" and self.question.question == "normdel"),
            "--halving stops listed configurations of low NormDEL; use it with --search grid, paper or random, and "
            "with --question normdel",
        )

    @property
    def exhaustive(self) -> bool:
        """Whether every configuration is trained to its end, so that each size has its baselines."""
        return self.space.search in ("grid", "paper") and not self.halving.halving
