"""Which frames of a run are kept."""

from dataclasses import dataclass
from typing import Any, Literal

from curation.options import check_common, check_name, option, require, run_dir_option
from curation.scores.config import Keep, Rule, check_keep, plain
from curation.subsets import effect

Method = Literal["meddel", "semdedup", "random", "prototypes-hard", "prototypes-easy", "cluster-balanced"]


EPSILON = 0.9  # MedDEL's outlier distance (arXiv 2401.17542, section 4.2)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which frames stay: by thresholds, by size, or by a baseline. Options without effect are refused."""

    run_dir: str = run_dir_option()
    name: str = option("Name of the subset: its folder below subsets/.", effect.DEFAULT_NAME, hashed=False)
    method: Method = option("MedDEL, SemDeDup, or a label-free baseline that needs --budget.", "meddel")
    epsilon: float | None = option(
        "Drop frames whose cosine distance to their centroid exceeds this (MedDEL only). Default: 0.9.", None
    )
    d: float | None = option(
        "Drop a frame whose cosine similarity to an earlier one exceeds this (MedDEL, SemDeDup).", None
    )
    budget: float | None = option(
        "Size of the subset, met exactly: a share of the pool below 1; 1 for all that is left after copies, "
        "rejected frames and thresholds; above 1 a count of frames.",
        None,
    )
    keep: Keep | None = option(
        "Which of two duplicates stays: nearest to or farthest from the centroid, random, sharpest, or highest:COLUMN "
        "or lowest:COLUMN, a measure or a column of frames/ that holds numbers. Default: nearest for MedDEL, farthest "
        "for SemDeDup.",
        None,
    )
    rule: Rule | None = option(
        "Compare with every earlier frame, or (greedy) only with those kept (MedDEL only). Default: any.", None
    )
    grid: bool = option(
        "Print the sizes of a grid of (epsilon, d), or of d for SemDeDup, and select nothing. Unless --keep is nearest "
        "(MedDEL's default), each epsilon needs a scoring pass.",
        False,
        hashed=False,
    )
    grid_epsilon: tuple[float, ...] = option(
        "An epsilon of the grid; default: chosen, or --epsilon where each needs a pass.", (), hashed=False
    )
    grid_d: tuple[float, ...] = option("A d of the grid; default: chosen from the scores.", (), hashed=False)
    seed: int = option("Seed of every random choice.", 0)

    def __post_init__(self) -> None:
        check_common(self)
        check_name(self.name)
        if self.keep is not None:
            check_keep(self.keep)
        if self.budget is not None:
            whole = self.budget > 1 and float(self.budget).is_integer()
            require(
                whole or 0 < self.budget <= 1,
                f"budget is {self.budget}; give a share above 0 and up to 1, or a whole number of frames above 1",
            )
        for name, values, low, high in (("grid_epsilon", self.grid_epsilon, 0, 2), ("grid_d", self.grid_d, -1, 1)):
            for value in values:
                require(low <= value <= high, f"{name} holds {value}; it must be between {low} and {high}")
        effect.check_selection(self)

    @property
    def compares(self) -> bool:
        """Whether the method compares frames with each other, and so has thresholds."""
        return self.method in ("meddel", "semdedup")

    @property
    def order(self) -> Keep:
        """`keep`, or the default of the method."""
        return plain(self.keep) if self.keep else ("farthest" if self.method == "semdedup" else "nearest")

    @property
    def compared(self) -> Rule:
        """`rule`, or its default."""
        return self.rule or "any"

    @property
    def outlier_distance(self) -> float | None:
        """`epsilon`, or its default; None for a method without."""
        return (EPSILON if self.epsilon is None else self.epsilon) if self.method == "meddel" else None

    @property
    def stands_for(self) -> dict[str, Any]:
        """Values of fields that may be left open: a default is the same as the value it stands for."""
        keep, rule = (self.order, self.compared) if self.compares else (None, None)
        return {"epsilon": self.outlier_distance, "keep": keep, "rule": rule}
