"""The configs of a sweep except its space (space.py), from which its command line is made. They import no step."""

from dataclasses import dataclass
from typing import Any, Literal

from curation.options import flags_of, option, require
from training.pretraining.config import PretrainConfig

MARGIN, CONFIDENCE = 0.005, 0.95
RUNGS, RUNG_PROBE = 3, "linear"
PER_TRIAL = ("subset", "output")  # of PretrainConfig: every trial has its own


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is swept, on what, and when it ends."""

    run_dir: str = option("The run whose frames are the pool: embedded and clustered by `python -m curation`.")
    max_trials: int | None = option("Train no more than this many subsets in all.", None, hashed=False)
    max_gpu_hours: float | None = option(
        "Stop once trials have held devices for this long (without GPUs: the CPUs of a trial count as one device). "
        "Rerunning with more resumes the sweep.",
        None,
        hashed=False,
    )
    gpus_per_trial: int = option("GPUs of a trial, one per rank, where there are any.", 1, hashed=False)
    cpus_per_trial: float = option(
        "CPUs of a trial, decoding included; 0: all without GPUs, an equal share with them.", 0, hashed=False
    )
    max_concurrent: int = option("Trials at once; 0: as many as the cluster holds.", 0, hashed=False)
    plan_only: bool = option("Print the configurations, their sizes and the predicted cost, and train nothing.", False)

    def __post_init__(self) -> None:
        require(self.max_trials is None or self.max_trials >= 1, f"max_trials is {self.max_trials}; give at least 1")
        require(
            self.max_gpu_hours is None or self.max_gpu_hours > 0,
            f"max_gpu_hours is {self.max_gpu_hours}; it must be above 0",
        )
        for name in ("cpus_per_trial", "max_concurrent"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        require(self.gpus_per_trial >= 1, f"gpus_per_trial is {self.gpus_per_trial}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the sweep is to answer."""

    question: Literal["normdel", "pareto", "non-inferior"] = option(
        "The highest NormDEL; the best trade of ratio against mIoU; or the smallest subset that is not worse than the "
        "full pool by more than --margin.",
        "normdel",
    )
    alpha: float = option("Weight of the ratio in NormDEL.", 1.0)
    more_alphas: tuple[float, ...] = option("Also report NormDEL at this alpha; nothing is trained for it.", ())
    reading: Literal["nominal", "actual"] = option(
        "The ratio in NormDEL: the subset's own, or the nearest of the paper's six.", "actual"
    )
    margin: float = option("Largest loss of mIoU that counts as not worse, as a share: 0.005 is half a point.", MARGIN)
    confidence: float = option("One-sided confidence of not being worse.", CONFIDENCE)

    def __post_init__(self) -> None:
        for value in (self.alpha, *self.more_alphas):
            require(value >= 0, f"alpha is {value:g}; it must be 0 or more")
        require(0 < self.margin < 1, f"margin is {self.margin}; it is a share above 0 and below 1, as 0.005")
        for name, usual in (("margin", MARGIN), ("confidence", CONFIDENCE)):
            require(
                self.question == "non-inferior" or getattr(self, name) == usual,
                f"{name} does not apply: it is for --question non-inferior; leave it out",
            )
        require(0.5 <= self.confidence < 1, f"confidence is {self.confidence}; give 0.5 to below 1, as 0.95")


@dataclass(frozen=True, kw_only=True)
class HalvingConfig:
    """Successive halving (ASHA) over the length of pre-training, with a cheap probe as the early signal."""

    halving: int = option("Continue the best 1 in this many at each rung; 0: train every configuration to its end.", 0)
    rung_count: int = option("Rungs, the full length included; each is --halving times as long as the last.", RUNGS)
    rung_probe: Literal["linear", "knn"] = option("The probe on frozen tokens that rungs are judged by.", RUNG_PROBE)

    def __post_init__(self) -> None:
        require(self.halving == 0 or self.halving >= 2, f"halving is {self.halving}; give 0, or 2 and more")
        require(
            self.halving > 0 or (self.rung_count, self.rung_probe) == (RUNGS, RUNG_PROBE),
            "rung_count and rung_probe do not apply: without --halving there are no rungs; leave them out",
        )
        require(self.rung_count >= 2, f"rung_count is {self.rung_count}; it must be at least 2")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Lengths in units of the first rung; only the full length without halving."""
        return tuple(self.halving**power for power in range(self.rung_count)) if self.halving else (1,)

    @property
    def units(self) -> int:
        """The full length, in units of the first rung."""
        return self.rungs[-1]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The sweep whose report is written again."""

    output: str = option("The --output of a sweep.")


RecipeFlags: type[Any] = flags_of("RecipeFlags", PretrainConfig, lambda name: None if name in PER_TRIAL else name)


def pretrain_config(flags: Any) -> PretrainConfig:
    """The config from RecipeFlags; each trial sets its own subset and output."""
    return PretrainConfig(**vars(flags) | dict.fromkeys(PER_TRIAL, ""))
