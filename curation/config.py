"""One frozen dataclass a step, from which the command line and the YAML are made. It knows no step's code."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from curation.options import check_common, check_name, option, require, run_dir_option
from curation.subsets import effect

Keep = Literal["nearest", "farthest", "random"]
Rule = Literal["any", "greedy"]
Method = Literal["meddel", "semdedup", "random", "prototypes-hard", "prototypes-easy", "cluster-balanced"]

LINEAGE = ("center", "patient", "procedure")
EPSILON = 0.9  # MedDEL's outlier distance (arXiv 2401.17542, section 4.2)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read: sources, globs and lineage."""

    run_dir: str = run_dir_option()
    source: tuple[str, ...] = option(
        "A folder tree of frames, as PATH or NAME=PATH (the name, by default the folder's, enters every frame's "
        "id); what exists as a path is one. Give it again for more. Of an S3 store elsewhere, as "
        "s3://BUCKET/FOLDER?endpoint_override=http://HOST. A public pool's name (gastrovision, hyper-kvasir-labelled, "
        "hyper-kvasir-unlabelled, hyper-kvasir-videos, kvasir-capsule) brings its globs and lineage."
    )
    include: tuple[str, ...] = option(
        "Only files whose path below the source matches this glob, upper and lower case as written. What operating "
        "systems leave in folders (._*, .DS_Store, Thumbs.db, .git and such) is passed over always.",
        (),
    )
    exclude: tuple[str, ...] = option("No files whose path below the source matches this glob.", ())
    lineage_pattern: str | None = option(
        "Regular expression searched in each path below its source; the named groups center, patient and "
        "procedure fill those columns, any other named group becomes a metadata column.",
        None,
    )
    part_rows: int = option("Frames in one part: the unit of work and of resuming.", 2000)
    max_pixels: int = option("Images with more pixels than this are rejected unread.", 100_000_000)
    max_rejected: float = option("Stop when more than this share of frames is rejected.", 0.05, hashed=False)

    def __post_init__(self) -> None:
        require(len(self.source) > 0, "no source given; name at least one with --source PATH")
        check_common(self)
        require(self.part_rows >= 1, f"part_rows is {self.part_rows}; it must be at least 1")
        require(self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1")
        if self.lineage_pattern is not None:
            check_pattern(self.lineage_pattern)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How frames become vectors."""

    run_dir: str = run_dir_option()
    encoder: str = option(
        "The encoder: a Vision Transformer's name in timm, or the output folder of `python -m training pretrain`.",
        "vit_base_patch16_224",
    )
    weights: str | None = option(
        "Weights: a safetensors or PyTorch checkpoint file, or `random` for an untrained encoder drawn from "
        "the seed. Default: the folder's, or timm's own, from the hub.",
        None,
        hashed=False,  # their bytes' hash is an input of the step, wherever they are
    )
    image_size: int = option(
        "Side in pixels of the square that a frame is scaled to; 0: what a folder's encoder was trained at, else 224.",
        0,
    )
    pooling: Literal["cls", "mean"] = option("The vector: class token, or mean of the patch tokens.", "cls")
    statistics: Literal["auto", "timm", "imagenet", "half", "clip"] = option(
        "Mean and deviation of the colours that the encoder expects. auto: those that come with the weights (recorded "
        "in the file, or the ones of its kind: MAE, DINO, MoCo, CLIP), else timm's for its name.",
        "auto",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "Arithmetic of the encoder; auto: what was begun with, else bfloat16 where every chip has it, else float32.",
        "auto",
        hashed=False,  # the arithmetic that it stands for is an input of the step
    )
    storage: Literal["float16", "float32"] = option("Type of the stored vectors.", "float16")
    chunk_rows: int = option(
        "Frames decoded together and handed to an encoder at once: one forward pass on a GPU, of 8 at most on a CPU.",
        64,
    )
    seed: int = option("Seed of every random choice.", 0)
    workers: int = option("Encoder actors; 0: one a GPU, or one a CPU without GPUs.", 0, hashed=False)
    max_rejected: float = option("Stop when more than this share of frames is rejected.", 0.05, hashed=False)

    def __post_init__(self) -> None:
        check_common(self)
        require(self.chunk_rows >= 1, f"chunk_rows is {self.chunk_rows}; it must be at least 1")
        for name in ("image_size", "workers"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")


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
    iterations: int = option("Lloyd iterations at most; it stops earlier where nothing moves.", 20)
    center: bool = option("Subtract the mean vector and make unit length again before clustering.", False)
    shard_rows: int = option("Frames in one shard of k-means (whole parts, so at least one part).", 65_536)
    seed: int = option("Seed of every random choice.", 0)

    def __post_init__(self) -> None:
        check_common(self)
        require(
            self.clusters == "auto" or self.clusters >= 1,
            f"clusters is {self.clusters}; it must be at least 1, or auto",
        )
        require(self.iterations >= 1, f"iterations is {self.iterations}; it must be at least 1")
        require(self.shard_rows >= 1, f"shard_rows is {self.shard_rows}; it must be at least 1")


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


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which frames stay: by thresholds, by size, or by a baseline. What is given and has no effect is refused."""

    run_dir: str = run_dir_option()
    name: str = option("Name of the subset: its folder below subsets/.", "curated", hashed=False)
    method: Method = option("MedDEL, SemDeDup, or a label-free baseline that needs --budget.", "meddel")
    epsilon: float | None = option(
        "Drop frames whose cosine distance to their centroid exceeds this (MedDEL only). Default: 0.9.", None
    )
    d: float | None = option(
        "Drop a frame whose cosine similarity to an earlier one exceeds this (MedDEL, SemDeDup).", None
    )
    budget: float | None = option(
        "Size of the subset, met exactly: a share of the pool below 1; 1 for all that is left after exact copies, "
        "rejected frames and thresholds; above 1 a count of frames.",
        None,
    )
    keep: Keep | None = option(
        "Which of two duplicates stays. Default: nearest for MedDEL, farthest for SemDeDup.", None
    )
    rule: Rule | None = option(
        "Compare with every earlier frame, or (greedy) only with those kept (MedDEL only). Default: any.", None
    )
    grid: bool = option(
        "Print the sizes of a grid of (epsilon, d), or of d for SemDeDup, and select nothing. With another --keep than "
        "nearest, each epsilon needs a scoring pass.",
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
        return self.keep or ("farthest" if self.method == "semdedup" else "nearest")

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
        """What fields that may be left open come to: a default is the same as the value it stands for."""
        keep, rule = (self.order, self.compared) if self.compares else (None, None)
        return {"epsilon": self.outlier_distance, "keep": keep, "rule": rule}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a subset is handed on."""

    run_dir: str = run_dir_option()
    name: str = option("Name of the subset.", "curated", hashed=False)
    output: str | None = option("Where to write: a folder for this subset alone; default: its own.", None, hashed=False)
    format: Literal["parquet", "folder"] = option("One Parquet table, or a folder of image files.", "parquet")
    with_images: bool = option("Put the untouched encoded bytes into the Parquet table.", False)
    link: Literal["copy", "hard", "symbolic"] | None = option(
        "The files of format folder: copies or links. Default: copy.", None
    )

    def __post_init__(self) -> None:
        check_name(self.name)
        require(
            self.link is None or self.format == "folder",
            "link is for the files of a folder, and format parquet has none; leave it out, or give --format folder",
        )

    @property
    def linking(self) -> str:
        """`link`, or its default."""
        return self.link or "copy"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Where the demonstration works, and its seed. Its other settings are fixed, so that its figures can be told."""

    output: str = option("A local folder for the phantom and the run; made if missing.", "runs/demo")
    seed: int = option("Seed of the drawing, the encoder and the clusters.", 0)


def check_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a lineage pattern; ValueError where it is no pattern or names no group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"lineage_pattern {pattern!r} is no regular expression: {error}") from error
    require(
        len(compiled.groupindex) > 0,
        f"lineage_pattern {pattern!r} has no named group; write for example (?P<patient>p\\d+)",
    )
    return compiled
