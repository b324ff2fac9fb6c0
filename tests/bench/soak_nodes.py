"""Kill a random node at a random moment of a whole curation, round after round: the tables must stay the same.

    .venv/bin/python tests/bench/soak_nodes.py --rounds 20

One cluster of a head and three nodes on this machine. The first run is left alone; in every other one the power of a
node is cut after a random share of the first one's time, and another node joins. A run that ends with an error is
submitted again, as a user would, and counted. Ends with 1 where a table differs.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from nodes import Nodes

from curation.phantom.colonoscopy import PhantomConfig, draw

SETTINGS = {
    **{"encoder": "vit_tiny_patch16_224", "weights": "random", "image_size": 64, "precision": "float32"},
    **{"part_rows": 20, "pooling": "mean", "clusters": 5, "chunk_rows": 4, "shard_rows": 40, "d": 0.9},
}
LIMIT_S = 600.0


def flags(run_dir: Path, frames: Path) -> list[str]:
    """The command line of a run."""
    given = {**SETTINGS, "run_dir": run_dir, "source": frames}
    spelt = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["curation", "run", *spelt, "--center"]


def digests(run_dir: Path) -> dict[str, str]:
    """The SHA-256 of every table below a run directory, but for those that hold times."""
    files = sorted(file for file in run_dir.rglob("*.parquet") if file.parent.name != "_listing")
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def step_of(run_dir: Path) -> str:
    """The last step that a run has begun."""
    record = run_dir / "run.json"
    return list(json.loads(record.read_text())["steps"])[-1] if record.exists() else "none"


def undisturbed(cluster: Nodes, run_dir: Path, frames: Path) -> float:
    """Do a run, and return its seconds."""
    begun = time.monotonic()
    done = cluster.call(*flags(run_dir, frames), timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - begun


def disturbed(cluster: Nodes, run_dir: Path, frames: Path, after_s: float, victim: int) -> tuple[str, int]:
    """Do a run while a node dies; in which step that was, and how often it had to be submitted again."""
    again = 0
    log = run_dir.with_suffix(".log")
    driver = cluster.begin(log, *flags(run_dir, frames))
    time.sleep(after_s)
    step = step_of(run_dir)
    cluster.kill(cluster.nodes[victim])
    cluster.add(cpus=1)
    while driver.wait(LIMIT_S):
        again += 1
        if again > 3:
            raise SystemExit(f"{run_dir} failed {again} times: {log.read_text()[-3000:]}")
        driver = cluster.begin(log, *flags(run_dir, frames))
    return step, again


def main() -> int:
    """Play the rounds, print one line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    different = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Nodes() as cluster:
        phantom = {"procedures": 3, "scenes": 8, "frames_per_scene": 5, "width": 160, "height": 128}
        draw(PhantomConfig(output=f"{folder}/phantom", invalid_share=0.1, copy_share=0.15, **phantom))
        frames = Path(folder, "phantom", "frames")
        for _ in range(3):
            cluster.add(cpus=1)
        length = undisturbed(cluster, Path(folder, "reference"), frames)
        expected = digests(Path(folder, "reference"))
        print(f"undisturbed: {length:.0f} s, {len(expected)} tables", flush=True)
        for number in range(asked.rounds):
            run_dir = Path(folder, f"round-{number}")
            after_s, victim = chance.uniform(0.05, 0.95) * length, chance.randrange(3)
            step, again = disturbed(cluster, run_dir, frames, after_s, victim)
            found = digests(run_dir)
            changed = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            different += bool(changed)
            outcome = f"DIFFERENT: {', '.join(changed)}" if changed else "same tables"
            print(f"round {number}: killed after {after_s:.0f} s in {step}; again {again}; {outcome}", flush=True)
    print(f"{asked.rounds - different} of {asked.rounds} rounds have the same tables")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
