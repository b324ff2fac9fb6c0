"""Which scoring pass is run over the clusters, and which of two alike it keeps."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from curation.options import check_common, option, require, run_dir_option

Keep = str  # nearest, farthest, random, sharpest, highest:COLUMN or lowest:COLUMN
Rule = Literal["any", "greedy"]
BY_PLACE = ("nearest", "farthest", "random")  # what needs no column
SHARPEST = "highest:sharpness"
KEEP_HELP = (
    "Which of two duplicates stays: nearest to or farthest from the centroid, random, sharpest, or highest:COLUMN or "
    "lowest:COLUMN, a measure of embeddings/ or a column of frames/ that holds numbers."
)


def check_keep(keep: Keep) -> None:
    """ValueError unless `keep` is one of the choices."""
    ends = keep.startswith(("highest:", "lowest:")) and not keep.endswith(":")
    require(
        keep in (*BY_PLACE, "sharpest") or ends,
        f"keep is {keep!r}; it must be nearest, farthest, random, sharpest, highest:COLUMN or lowest:COLUMN",
    )


def plain(keep: Keep) -> Keep:
    """Return `keep` without its short form: sharpest is highest:sharpness."""
    return SHARPEST if keep == "sharpest" else keep


def column_of(keep: Keep) -> str | None:
    """Return the column that decides which of two stays; None where no column does."""
    return None if keep in BY_PLACE else plain(keep).partition(":")[2]


def label_of(keep: Keep) -> str:
    """Return `keep` as a part of names of files and folders: other characters than theirs become a digest."""
    end, _, column = plain(keep).partition(":")
    if not column:
        return keep
    fits = re.fullmatch(r"[A-Za-z0-9._-]+", column) is not None
    return f"{end}-{column if fits else hashlib.sha256(column.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which pass over the pairs of each cluster; the default serves every (epsilon, d) at once."""

    run_dir: str = run_dir_option()
    keep: Keep = option(KEEP_HELP, "nearest")
    rule: Rule = option(
        "A frame gives way to any earlier one that is too similar, kept or not; or, greedy, to kept ones.",
        "any",
    )
    epsilon: float | None = option("Frames farther from their centroid are left out of the pass.", None)
    d: float | None = option("The duplicate threshold that a greedy pass needs.", None)
    group_rows: int = option("Frames scored in one task, whole clusters together.", 16_384)
    recall_frames: int = option(
        "Frames of a sample that are compared with all frames, to say which share of duplicates the pass found; 0: "
        "none.",
        1000,
    )
    seed: int = option("Seed of every random choice.", 0)

    def __post_init__(self) -> None:
        check_common(self)
        check_keep(self.keep)
        require(self.recall_frames >= 0, f"recall_frames is {self.recall_frames}; it must be 0 or more")
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
    def stands_for(self) -> dict[str, Any]:
        """Values of fields with a short form."""
        return {"keep": plain(self.keep)}

    @property
    def folder(self) -> str:
        """Where the pass is kept in the run directory: scores/, or a folder below it for all but the default."""
        parts: list[str] = [label_of(self.keep), self.rule] if (self.keep, self.rule) != ("nearest", "any") else []
        parts += [
            f"{name}-{float(value)!r}"
            for name, value in (("epsilon", self.epsilon), ("d", self.d))
            if value is not None
        ]
        parts += [f"seed-{self.seed}"] if self.keep == "random" else []
        return "/".join(["scores", "_".join(parts)] if parts else ["scores"])
