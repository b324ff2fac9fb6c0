"""Sweeps of the phantom: what a grid finds against its baselines, what halving saves of it, what Ray Tune costs.

`grid`: twelve pairs of thresholds, with random and SemDeDup subsets of each size and the full pool; every pair's share
of the planted duplicates that it removes is told beside its NormDEL. `halving`: the same pairs with ASHA and a linear
probe as the early signal, by seed: whether it ends with the grid's best, and the share of the grid's updates it did.
`overhead`: trials through a sweep against the same work by hand, one after another in one process, in new folders.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from harness import OUTPUT, report

from curation import engine, phantom
from curation.store import RunDirectory
from training.augment import Augmentation
from training.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.evaluate import EvaluateConfig, find_sources, prepare_all
from training.mae import MaeConfig
from training.rank import Settings
from training.segment import FinetuneConfig
from tune.config import HalvingConfig, Question, SweepConfig
from tune.course import Sweep
from tune.driver import Job, carry_out
from tune.space import SpaceConfig, listed
from tune.subsets import Chooser
from tune.sweep import sweep

FOLDER = OUTPUT / "sweep"
DEMO = FOLDER / "demo"
EPSILONS, DS = (0.45, 0.9), (0.9, 0.95, 0.98, 0.997, 0.9994, 0.9998)
MODEL = {"encoder": "vit_tiny_patch16_224", "image_size": 64}


def settings(output: str, seeds: int, steps: int, **changes: Any) -> Sweep:
    """A sweep of the phantom."""
    sets = {"dataset": (f"phantom:generic={DEMO}/polyps",), "seeds": seeds, "decoded_size": 64, "test_every": 0}
    recipe = Settings(
        PretrainConfig(subset="", output=""),
        ComputeConfig(),
        RecordConfig(picture_steps=0),
        LengthConfig(steps=steps, batch_size=64),
        OptimiserConfig(learning_rate=3e-4, learning_rate_reading="absolute"),
        MaeConfig(**MODEL, decoder_depth=1, decoder_width=64, decoder_heads=4),
        Augmentation(),
    )
    space: dict[str, Any] = {"epsilon": EPSILONS, "d": DS} | changes.get("space", {})
    return Sweep(
        SweepConfig(run_dir=f"{DEMO}/run", cpus_per_trial=1),
        SpaceConfig(**space),
        Question(),
        HalvingConfig(**changes.get("halving", {})),
        EvaluateConfig(output=output, probe=changes.get("probe", "linear"), **sets),
        replace(recipe, what=replace(recipe.what, seed=changes.get("seed", 0))),
        FinetuneConfig(epochs=5, image_size=64, patience=0, learning_rate=1e-3),
    )


def grid(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The grid's rows, each with the planted duplicates that its subset removes."""
    start = time.perf_counter()
    table = sweep(settings(f"{FOLDER}/grid", given.seeds, given.steps))
    minutes = (time.perf_counter() - start) / 60
    truth = pq.read_table(DEMO / "phantom/truth.parquet")
    rows = []
    for row in sorted(table.to_pylist(), key=lambda row: -row["normdel"]):
        kept = pq.read_table(f"{row['folder']}/kept.parquet")["path"].to_pylist()
        removed = phantom.compare(truth, kept)["duplicates_found"]
        names = (
            "name",
            "frames",
            "ratio",
            "miou",
            "standard_error",
            "normdel",
            "normdel_low",
            "normdel_high",
            "updates",
        )
        rows.append({name: row[name] for name in names} | {"duplicates removed": removed, "minutes": minutes})
    return rows


def halving(given: argparse.Namespace) -> list[dict[str, Any]]:
    """By seed: the best of a grid and of halving without baselines, and their updates."""
    rows = []
    for seed in range(given.repeats):
        none = {"baseline": ("none",)}
        whole = sweep(settings(f"{FOLDER}/whole-{seed}", 1, given.steps, space=none, seed=seed))
        some = {"halving": 3, "rung_count": 3}
        quick = sweep(settings(f"{FOLDER}/halving-{seed}", 1, given.steps, space=none, seed=seed, halving=some))
        best = [best_of(table) for table in (whole, quick)]
        spent = [sum(row["updates"] or 0 for row in distinct(table)) for table in (whole, quick)]
        share = spent[1] / spent[0]
        rows.append({"seed": seed, "grid": best[0], "halving": best[1], "updates": spent[1], "share": share})
    return rows


def best_of(table: pa.Table) -> str:
    """The name of the finished configuration with the highest NormDEL."""
    finished = [row for row in table.to_pylist() if row["state"] == "finished"]
    return str(max(finished, key=lambda row: row["normdel"])["name"])


def distinct(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of what was trained, each once."""
    return [row for row in table.to_pylist() if row["trained"] == row["name"]]


def overhead(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of the same trials by hand and through a sweep, in turn."""
    few = {"epsilon": (0.9,), "d": DS[:3], "baseline": ("none",)}
    rows = []
    for number in range(given.repeats):
        what = [settings(f"{FOLDER}/{way}-{number}", 1, given.steps, space=few) for way in ("by-hand", "swept")]
        seconds = [timed(by_hand, what[0]), timed(sweep, what[1])]
        rows.append({"by hand": seconds[0], "sweep": seconds[1], "ratio": seconds[1] / seconds[0]})
    return rows


def by_hand(what: Sweep) -> None:
    """Select, train and evaluate, one after another."""
    output = RunDirectory(what.evaluation.output)
    sets = prepare_all(output, find_sources(what.evaluation), what.evaluation)
    job = Job(output.address, what.recipe, what.evaluation, what.finetune, tuple(sets), what.halving, what.question, 1)
    chooser = Chooser(what.config.run_dir, job.output, what.space.same)
    for point in listed(what.space, 0):
        carry_out(job, chooser.candidate(point), {}.update)


def timed(work: Callable[[Sweep], Any], what: Sweep) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work(what)
    return time.perf_counter() - start


def main() -> None:
    """Draw and curate the phantom as the demonstration does, then answer one question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--question", choices=("grid", "halving", "overhead"), default="grid")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if not Path(DEMO, "run/subsets").exists():
        subprocess.run([sys.executable, "-m", "curation", "demo", "--output", str(DEMO)], check=True)
    engine.connect()
    rows = {"grid": grid, "halving": halving, "overhead": overhead}[given.question](given)
    report(f"sweep-{given.question}", rows, f"{MODEL['encoder']} at {MODEL['image_size']} px, {given.steps} updates")


if __name__ == "__main__":
    main()
