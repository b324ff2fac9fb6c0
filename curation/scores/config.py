"""Which scoring pass is run over the clusters."""

from dataclasses import dataclass
from typing import Literal

from curation.options import check_common, option, require, run_dir_option

Keep = Literal["nearest", "farthest", "random"]


Rule = Literal["any", "greedy"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which pass over the pairs of each cluster; the default serves every (epsilon, d) at once."""

    run_dir: str = run_dir_option()
    keep: Keep = option("Which of two duplicates stays: nearest to or farthest from the centroid.", "nearest")
    rule: Rule = option(
        "A frame gives way to any earlier one that is too similar, kept or not; or, greedy, to kept ones.",
        "any",
    )
    epsilon: float | None = option("Frames farther from their centroid are left out of the pass.", None)
    d: float | None = option("The duplicate threshold that a greedy pass needs.", None)
    group_rows: int = option("Frames scored in one task, whole clusters together.", 16_384)
    seed: int = option("Seed of every random choice.", 0)

    def __post_init__(self) -> None:
        check_common(self)
        require(self.group_rows >= 1, f"group_rows is {self.group_rows}; it must be at least 1")
        require(
            self.rule == "any" or self.d is not None,
            "a greedy pass depends on the duplicate threshold; give --d with --rule greedy",
        )
        require(self.rule == "greedy" or self.d is None, "a pass with rule any serves every d; leave --d out")
        require(
            self.epsilon is None or self.keep != "nearest" or self.rule == "greedy",
            "a pass that keeps the nearest by rule any serves every epsilon; leave --epsilon out",
        )

    @property
    def folder(self) -> str:
        """Where the pass is kept in the run directory: scores/, or a folder below it for all but the default."""
        parts: list[str] = [self.keep, self.rule] if (self.keep, self.rule) != ("nearest", "any") else []
        parts += [
            f"{name}-{float(value)!r}"
            for name, value in (("epsilon", self.epsilon), ("d", self.d))
            if value is not None
        ]
        parts += [f"seed-{self.seed}"] if self.keep == "random" else []
        return "/".join(["scores", "_".join(parts)] if parts else ["scores"])
