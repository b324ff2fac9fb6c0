"""What a sweep tries: configurations of selection, listed before it starts or drawn by a search. It imports no Ray."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from curation import seeds
from curation.options import option, require
from curation.scores.config import Keep, Rule, label_of, plain
from curation.subsets.config import Method, SelectConfig

PAPER_EPSILON, PAPER_D = (0.9,), (0.7, 0.75, 0.8, 0.85, 0.9)  # arXiv 2401.17542, section 4.2
SAMPLES = 20
AXES = ("select", "epsilon", "d", "budget", "keep", "rule", "clusters")
Baseline = Literal["random", "full", "semdedup"]
BASELINES: tuple[Baseline, ...] = ("random", "full", "semdedup")


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Which configurations are tried."""

    search: Literal["grid", "paper", "random", "optuna"] = option(
        "All combinations of the values given; the paper's grid (epsilon 0.9, d from 0.7 to 0.9 by 0.05); or draws, at "
        "random or by Optuna's TPE: numbers between the lowest and the highest given, other values from those given.",
        "grid",
    )
    select: tuple[Method, ...] = option("How frames are selected. Default: meddel.", ())
    epsilon: tuple[float, ...] = option("A value of epsilon (MedDEL only). Default: 0.9.", ())
    d: tuple[float, ...] = option("A value of d.", ())
    budget: tuple[float, ...] = option("A size instead of d: a share of the pool, or a count.", ())
    keep: tuple[Keep, ...] = option(
        "Which of two duplicates stays: nearest, farthest, random, sharpest, highest:COLUMN or lowest:COLUMN. Default: "
        "the method's own.",
        (),
    )
    rule: tuple[Rule, ...] = option("What a frame is compared with (MedDEL only). Default: any.", ())
    clusters: tuple[int, ...] = option(
        "A number of clusters: the pool's embeddings are clustered again, below the output. Default: the run's own.",
        (),
    )
    samples: int = option("How many configurations random and optuna draw.", SAMPLES)
    baseline: tuple[Literal["random", "full", "semdedup", "none"], ...] = option(
        "What the others are compared with: random and SemDeDup subsets of each size, the full pool, or none. "
        "Default: all three.",
        (),
    )
    same: float = option("Subsets whose Jaccard similarity exceeds this are trained once; equal ones always are.", 0.99)

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The baselines that are tried."""
        return tuple(name for name in self.baseline or BASELINES if name != "none")

    def __post_init__(self) -> None:
        require(
            self.search == "paper" or bool(self.d) != bool(self.budget),
            f"give values of d or of budget, not {'both' if self.d else 'neither'}; `select --grid` of the run shows "
            "which sizes thresholds lead to, and --search paper has the paper's",
        )
        require(
            self.search != "paper" or not (self.d or self.budget or self.epsilon),
            "--search paper has the paper's own epsilon and d; leave out --epsilon, --d and --budget, or use --search "
            "grid",
        )
        require(
            self.search not in ("random", "optuna") or len({value > 1 for value in self.budget}) < 2,
            f"budget holds {', '.join(f'{value:g}' for value in self.budget)}; draws lie between them, so give shares "
            "up to 1, or counts above 1, and not both",
        )
        require(
            self.search in ("random", "optuna") or self.samples == SAMPLES,
            f"samples does not apply: --search {self.search} lists its configurations and draws none; leave it out",
        )
        methods = set(self.select or ("meddel",))
        for name, kinds in (("epsilon", {"meddel"}), ("rule", {"meddel"}), ("keep", {"meddel", "semdedup"})):
            require(
                not getattr(self, name) or bool(methods & kinds),
                f"{name} does not apply: none of the methods {', '.join(sorted(methods))} has it; leave it out",
            )
        require(self.samples >= 1, f"samples is {self.samples}; it must be at least 1")
        require(0 < self.same <= 1, f"same is {self.same}; it must be above 0 and up to 1")
        for clusters in self.clusters:
            require(clusters >= 1, f"clusters holds {clusters}; it must be at least 1")
        list(grid_points(self))  # an invalid value is reported at once


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration; what does not apply, or is left to its default, is None."""

    select: Method = "meddel"
    epsilon: float | None = None
    d: float | None = None
    budget: float | None = None
    keep: Keep | None = None
    rule: Rule | None = None
    clusters: int | None = None
    baseline: Baseline | None = None  # None for a configuration of the search

    @property
    def name(self) -> str:
        """The subset's name: the configuration in a readable form that is valid in file names."""
        if self.baseline == "full":
            return "full"
        said = [
            f"{name}{value:.12g}" for name in ("epsilon", "d", "budget") if (value := getattr(self, name)) is not None
        ]
        said += [label_of(self.keep)] if self.keep else []
        said += [self.rule] if self.rule else []
        said += [f"k{self.clusters}"] if self.clusters else []
        return "-".join([*(["baseline"] if self.baseline else []), self.select, *said])

    def config(self, run_dir: str) -> SelectConfig:
        """The selection it stands for, with seed 0: a sweep's seeds are for training. ValueError where it is invalid.

        Its subset is called sweep-NAME, so that it is never confused with another one.
        """
        given = {name: value for name, value in self.values().items() if name not in ("select", "clusters", "baseline")}
        return SelectConfig(run_dir=run_dir, name=f"sweep-{self.name}", method=self.select, **given)

    def values(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Candidate:
    """A configuration and the subset that is trained for it.

    `trained` is the subset's name: the point's own, or that of an earlier one with nearly the same frames. `reason`
    says why nothing can be trained; then there is no subset.
    """

    point: Point
    frames: int = 0
    ratio: float = 0.0
    folder: str = ""
    trained: str = ""
    similarity: float = 1.0  # Jaccard, of its frames and those that are trained
    whole: bool = False  # it drops nothing but exact copies and rejected frames
    reason: str = ""

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.point.name


def applied(values: dict[str, Any]) -> Point:
    """Return the point of some values, without those that its method ignores: equal configurations are equal points."""
    method = values.get("select", "meddel")
    gone = set()
    if method != "meddel":
        gone |= {"epsilon", "rule"}
    if method not in ("meddel", "semdedup"):
        gone |= {"keep", "d"}
    if values.get("budget") is not None:
        gone |= {"d"}
    kept = {name: value for name, value in values.items() if name not in gone}
    if kept.get("keep") is not None:
        kept["keep"] = plain(kept["keep"])  # one name for one subset
    if kept.get("rule") == "any":
        del kept["rule"]  # the default: one name for one subset
    return Point(**kept)


def axes(config: SpaceConfig) -> dict[str, tuple[Any, ...]]:
    """The values of each axis; axes left to their default are not there."""
    paper = config.search == "paper"
    epsilon, d = (PAPER_EPSILON, PAPER_D) if paper else (config.epsilon or PAPER_EPSILON, config.d)
    given = (config.select or ("meddel",), epsilon, d, config.budget, config.keep, config.rule, config.clusters)
    return {name: tuple(dict.fromkeys(values)) for name, values in zip(AXES, given, strict=True) if values}


def grid_points(config: SpaceConfig) -> Iterator[Point]:
    """Yield all combinations, each once. ValueError for an invalid one."""
    named = axes(config)
    seen = set()
    for values in itertools.product(*named.values()):
        point = applied(dict(zip(named, values, strict=True)))
        if point not in seen:
            seen.add(point)
            point.config("")
            yield point


def random_points(config: SpaceConfig, seed: int) -> Iterator[Point]:
    """Yield `samples` points drawn at random, the same for the same seed."""
    generator = seeds.generator(seed, "configurations drawn")
    for _ in range(config.samples):
        values = {}
        for name, found in axes(config).items():
            if counts_frames(name, found):
                values[name] = float(generator.integers(int(min(found)), int(max(found)), endpoint=True))
            elif continuous(name):
                values[name] = round(float(generator.uniform(min(found), max(found))), 6)
            else:
                values[name] = found[int(generator.integers(len(found)))]
        yield applied(values)


def continuous(axis: str) -> bool:
    """Whether an axis is a number drawn between two ends."""
    return axis in ("epsilon", "d", "budget")


def counts_frames(axis: str, values: Sequence[Any]) -> bool:
    """Whether an axis is a count of frames, drawn in whole numbers."""
    return axis == "budget" and min(values) > 1


def listed_points(config: SpaceConfig, seed: int) -> list[Point]:
    """All configurations that are known before the sweep starts; none where Optuna draws them."""
    if config.search == "optuna":
        return []
    return list(dict.fromkeys(random_points(config, seed) if config.search == "random" else grid_points(config)))


def shuffle_candidates(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """Candidates in an order drawn at random, the same for the same seed."""
    return [candidates[place] for place in seeds.generator(seed, "order of a sweep").permutation(len(candidates))]


def full_pool() -> Point:
    """The whole pool: thresholds that no frame exceeds."""
    return Point(baseline="full", epsilon=2.0, d=1.0)


def baselines_of(kinds: tuple[Baseline, ...], frames: int, ratio: float) -> list[Point]:
    """Return the baselines of one size, which is `ratio` of the pool; a budget of 1 would be all of it."""
    budget = float(frames) if frames > 1 else ratio
    return [Point(select=kind, budget=budget, baseline=kind) for kind in kinds if kind != "full"]
