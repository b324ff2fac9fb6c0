"""How vectors are clustered."""

from dataclasses import dataclass
from typing import Literal

from curation.options import check_common, option, require, run_dir_option


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Spherical k-means."""

    run_dir: str = run_dir_option()
    clusters: int | Literal["auto"] = option(
        "Number of clusters k. auto: as few as keep the mean cluster at 20,000 frames or fewer (with center, at least "
        "8), since duplicates on either side of a border are not found. Baselines that balance clusters, and a strict "
        "epsilon, want more.",
        "auto",
    )
    iterations: int = option("Lloyd iterations at most.", 20)
    tolerance: float = option(
        "Stop once the squared distances that centroids move add up to less than this times the mean variance of a "
        "dimension (as in scikit-learn); 0: only where nothing moves.",
        1e-4,
    )
    train_share: float = option(
        "Share of the frames that k-means is trained on, a seeded random sample; all frames are assigned at the end.",
        1.0,
    )
    center: bool = option("Subtract the mean vector and make unit length again before clustering.", False)
    shard_rows: int = option("Frames in one shard of k-means (whole parts, so at least one part).", 65_536)
    seed: int = option("Seed of every random choice.", 0)

    def __post_init__(self) -> None:
        check_common(self)
        require(
            self.clusters == "auto" or self.clusters >= 1,
            f"clusters is {self.clusters}; it must be at least 1, or auto",
        )
        require(self.tolerance >= 0, f"tolerance is {self.tolerance}; it must be 0 or more")
        require(
            0 < self.train_share <= 1,
            f"train_share is {self.train_share}; it must be above 0 and at most 1 (1 trains on all frames)",
        )
        require(self.iterations >= 1, f"iterations is {self.iterations}; it must be at least 1")
        require(self.shard_rows >= 1, f"shard_rows is {self.shard_rows}; it must be at least 1")
