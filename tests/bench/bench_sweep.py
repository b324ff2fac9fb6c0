"""Sweeps of the phantom: what a grid finds against its baselines, what halving saves of it, what Ray Tune costs.

The pool is a bad one: as many invalid frames as there are clean ones (half of them static, a quarter black, a quarter
white), three near-duplicates of each distinct frame, and copies. What is in it, its planted truth says.

`grid`: twelve pairs of thresholds, with random and SemDeDup subsets of each size and the full pool; every subset's
share of the planted duplicates that it removes, and of invalid frames, is told beside its NormDEL. `halving`: the same
pairs with ASHA and a k-NN probe as the early signal, by seed: which it ends with, the grid's NormDEL of that and of the
grid's own best, and the share of the grid's updates it did. `overhead`: the pairs through a sweep against the same work
by hand, one after another in one process with the same CPUs, in new folders, in turn. `real` needs ENDOSIEVE_DATA: the
paper's grid on the pool and the test sets of bench_benchmark.py, centred, as a user would give it.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_benchmark import RECIPE, call, flags
from bench_benchmark import real as real_ground
from harness import OUTPUT, report

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.engine import resources
from curation.engine.connect import connect
from curation.exports.config import ExportConfig
from curation.phantom import colonoscopy
from curation.phantom.polyps import lay_out
from curation.sources.config import IngestConfig
from curation.store.directory import RunDirectory
from curation.subsets.config import SelectConfig
from training.evaluation.config import EvaluateConfig
from training.evaluation.sets import find_sources, prepare_all
from training.methods.config import Augmentation, MaeConfig
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.recipe import Recipe
from training.segmentation.config import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.resources import shares
from tune.settings import SweepSettings
from tune.space import SpaceConfig, listed_points
from tune.subsets import Chooser
from tune.sweep import job_of, sweep
from tune.trial import carry_out_trial

FOLDER = OUTPUT / "sweep"
PHANTOM, POLYPS, RUN = (str(FOLDER / name) for name in ("phantom", "polyps", "run"))
EPSILONS, DS = (0.1, 0.2, 2.0), (0.98, 0.99, 0.9995, 0.9998)
ENCODER, SIDE = "test_vit", 128
REAL = {"search": "paper", "steps": 60, "batch-size": 32, "decoded-size": 128, "probe": "linear", "cpus-per-trial": 1}
TOLD = ("frames", "ratio", "miou", "standard_error", "normdel", "normdel_low", "normdel_high", "updates")


def prepare() -> None:
    """Draw the pool and curate it up to its scores, unless that was done."""
    pool = colonoscopy.PhantomConfig(
        output=PHANTOM,
        frames_per_scene=4,
        copy_share=0.3,
        invalid_share=1.0,
        invalid_kinds=("black", "static", "white", "static"),
    )
    if not Path(PHANTOM, "truth.parquet").exists():
        lay_out(colonoscopy.draw(pool), PHANTOM, POLYPS)
    pipeline.run(
        pipeline.RunConfig(
            ingest=IngestConfig(run_dir=RUN, source=(f"phantom={PHANTOM}/frames",), part_rows=400),
            embed=EmbedConfig(
                run_dir=RUN, encoder="vit_tiny_patch16_224", weights="random", image_size=32, pooling="mean"
            ),
            cluster=ClusterConfig(run_dir=RUN, clusters=1, center=False),
            select=SelectConfig(run_dir=RUN, epsilon=EPSILONS[0], d=DS[0]),
            export=ExportConfig(run_dir=RUN),
        )
    )


def settings(output: str, given: argparse.Namespace, **changes: Any) -> SweepSettings:
    """A sweep of the phantom."""
    recipe = Recipe(
        PretrainConfig(subset="", output="", seed=changes.get("seed", 0)),
        ComputeConfig(),
        RecordConfig(picture_steps=0),
        LengthConfig(steps=given.steps, batch_size=16),
        OptimiserConfig(learning_rate=1e-3, learning_rate_reading="absolute"),
        MaeConfig(encoder=ENCODER, image_size=SIDE, decoder_depth=1, decoder_width=64, decoder_heads=4),
        Augmentation(),
    )
    space: dict[str, Any] = {"epsilon": EPSILONS, "d": DS} | changes.get("space", {})
    halving = changes.get("halving", {})
    sets = {"dataset": (f"phantom:generic={POLYPS}",), "decoded_size": SIDE, "test_every": 0}
    return SweepSettings(
        SweepConfig(run_dir=changes.get("run_dir", RUN), cpus_per_trial=changes.get("cpus", 1)),
        SpaceConfig(**space),
        Question(),
        HalvingConfig(**({"rung_probe": "knn"} | halving if halving else {})),
        EvaluateConfig(output=output, probe="knn", seeds=changes.get("seeds", 1), **sets),
        recipe,
        FinetuneConfig(image_size=SIDE),
    )


def grid(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The grid's rows, best first, each with the planted duplicates and invalid frames that its subset removes."""
    start = time.perf_counter()
    table = sweep(settings(f"{FOLDER}/grid", given, seeds=given.seeds))
    minutes = (time.perf_counter() - start) / 60
    truth = pq.read_table(f"{PHANTOM}/truth.parquet")
    rows = []
    for row in sorted(table.to_pylist(), key=lambda row: -row["normdel"]):
        kept = pq.read_table(f"{row['folder']}/kept.parquet")["path"].to_pylist()
        found = colonoscopy.compare_with_truth(truth, kept)
        removed = {"duplicates_removed": found["duplicates_found"], "invalid_removed": found["invalid_dropped"]}
        thresholds = {name: row[name] for name in ("name", "baseline", "epsilon", "d")}
        rows.append(thresholds | {name: row[name] for name in TOLD} | removed | {"minutes": minutes})
    return rows


def halving(given: argparse.Namespace) -> list[dict[str, Any]]:
    """By seed: the best of a grid and of halving without baselines, their NormDEL in the grid, and their updates."""
    rows = []
    for seed in range(given.repeats):
        none = {"baseline": ("none",)}
        whole = sweep(settings(f"{FOLDER}/grid", given, space=none, seed=seed))  # of seed 0 nothing is trained again
        some = {"halving": given.halving, "rung_count": 3}
        quick = sweep(settings(f"{FOLDER}/halving-{seed}", given, space=none, seed=seed, halving=some))
        worth = {row["name"]: row["normdel"] for row in whole.to_pylist()}
        best = [best_of(table) for table in (whole, quick)]
        spent = [sum(row["updates"] or 0 for row in distinct(table)) for table in (whole, quick)]
        found = {"grid": best[0], "NormDEL": worth[best[0]], "halving": best[1], "its NormDEL": worth[best[1]]}
        ranks = sorted(worth.values(), reverse=True)
        found["its rank"] = 1 + ranks.index(worth[best[1]])
        rows.append({"seed": seed} | found | {"updates": spent[1], "share": spent[1] / spent[0]})
    return rows


def best_of(table: pa.Table) -> str:
    """The name of the finished configuration with the highest NormDEL."""
    finished = [row for row in table.to_pylist() if row["state"] == "finished"]
    return str(max(finished, key=lambda row: row["normdel"])["name"])


def distinct(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of what was trained, each once."""
    return [row for row in table.to_pylist() if row["trained"] == row["name"]]


def overhead(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of the same trials by hand and through a sweep, the first of them in turn; each from a copied run.

    Beside them the seconds of their updates, the same work in both: where those differ, the machine's pace does, so
    `paced` is the ratio of seconds per second of updates.
    """
    none = {"baseline": ("none",)}
    ways: dict[str, Callable[[SweepSettings], Any]] = {"by hand": by_hand, "sweep": sweep}
    rows = []
    for number in range(given.repeats):
        spent, updates = {}, {}
        for way in sorted(ways, reverse=bool(number % 2)):
            output = Path(f"{FOLDER}/overhead/{way.replace(' ', '-')}-{number}")
            shutil.rmtree(output, ignore_errors=True)
            copy = shutil.copytree(RUN, output / "run", ignore=shutil.ignore_patterns("subsets"))
            what = settings(f"{output}/swept", given, space=none, run_dir=str(copy), cpus=resources.count("CPU"))
            start = time.perf_counter()
            ways[way](what)
            spent[way] = time.perf_counter() - start
            updates[way] = updating(output / "swept", what.recipe)
        ratio = spent["sweep"] / spent["by hand"]
        told = {f"{way}: updates": updates[way] for way in ways}
        rows.append(spent | told | {"ratio": ratio, "paced": ratio * updates["by hand"] / updates["sweep"]})
    return rows


def updating(output: Path, recipe: Recipe) -> float:
    """Seconds of all updates of the trainings below an output, by what they recorded."""
    images = recipe.record.log_steps * recipe.length.batch_size
    speeds = (pq.read_table(file)["images_per_second"] for file in output.glob("pretrain/*/metrics.parquet"))
    return sum(images / speed for column in speeds for speed in column.to_pylist())


def real(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the paper's grid and its baselines on real frames, best first."""
    ground = real_ground(FOLDER / "real", "--center")
    start = time.perf_counter()
    output = ground.folder / "result"
    chosen = flags(RECIPE | REAL | {"seeds": given.seeds})
    call("tune", "sweep", "--run-dir", ground.run_dir, *ground.sets, "--output", output, *chosen)
    minutes = (time.perf_counter() - start) / 60
    table = sorted(pq.read_table(output / "results.parquet").to_pylist(), key=lambda row: -row["normdel"])
    return [{name: row[name] for name in ("name", *TOLD)} | {"minutes": minutes} for row in table]


def by_hand(what: SweepSettings) -> None:
    """Select, train and evaluate, one after another."""
    output = RunDirectory(what.evaluation.output)
    sets = prepare_all(output, find_sources(what.evaluation), what.evaluation)
    chooser = Chooser(what.config.run_dir, output.address, what.space.same)
    alone = shares(resources.count("CPU"), resources.count("GPU"), 1, what.config.cpus_per_trial, 0)
    job = job_of(what, alone, sets)
    for point in listed_points(what.space, 0):
        carry_out_trial(job, chooser.candidate(point), {}.update)


def main() -> None:
    """Answer one question; all but the real one are of the phantom."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--question", choices=("grid", "halving", "overhead", "real"), default="grid")
    parser.add_argument("--seeds", type=int, default=1, help="of each configuration of a grid")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--halving", type=int, default=3)
    given = parser.parse_args()
    if given.question == "real":
        report("sweep-real", real(given), f"{RECIPE['encoder']} at {RECIPE['image-size']} px, {REAL['steps']} updates")
        return
    prepare()
    connect()
    rows = {"grid": grid, "halving": halving, "overhead": overhead}[given.question](given)
    report(f"sweep-{given.question}", rows, f"{ENCODER} at {SIDE} px, {given.steps} updates of 16")


if __name__ == "__main__":
    main()
