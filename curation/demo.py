"""The demonstration: draw a phantom, curate it untrained, train an encoder on it, and curate it again with that.

Training is another command (`python -m training pretrain`): this package uses only the folder that it writes.
"""

import math
import subprocess
import sys
from typing import Any

import pyarrow as pa

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.console import summary
from curation.embeddings.config import EmbedConfig
from curation.exports.config import ExportConfig
from curation.phantom import colonoscopy, polyps
from curation.phantom.config import DemoConfig
from curation.sources.config import IngestConfig
from curation.store.directory import RunDirectory
from curation.subsets.config import SelectConfig

KEPT_SHARE = 150  # frames of the 672: a little more than there are scenes
EVERYTHING = "everything"  # the subset that the encoder is trained on
TRAINING = {
    "method": "simclr",
    "encoder": "vit_tiny_patch16_224",
    "image-size": 32,
    "pooling": "mean",
    "head-width": 512,
    "steps": 160,
    "batch-size": 64,
    "precision": "float32",
    "learning-rate": 5e-4,
    "learning-rate-reading": "absolute",
    "log-steps": 10,
    "picture-steps": 0,
    # Milder views than SimCLR's: at 32 px and so short a training its own leave the loss at chance.
    "strength": 0.25,
    "grey": 0.0,
    "blur": 0.2,
}
SCALE = ("0.5", "1.0")  # share of a frame that a view shows
CHANCE = math.log(2 * 64 - 1)  # loss of a guess among the other views of a batch


def settings(config: DemoConfig, run: str, embed: dict[str, Any], select: dict[str, Any]) -> pipeline.RunConfig:
    """The config of a demonstration run: small frames, centred vectors, and what differs between the runs."""
    run_dir = f"{config.output}/{run}"
    return pipeline.RunConfig(
        ingest=IngestConfig(
            run_dir=run_dir,
            source=(f"phantom={config.output}/phantom/frames",),
            lineage_pattern=r"(?P<center>[^/]+)/(?P<patient>[^/]+)/(?P<procedure>[^/]+)/",
            part_rows=100,
        ),
        embed=EmbedConfig(run_dir=run_dir, precision="float32", pooling="mean", seed=config.seed, **embed),
        cluster=ClusterConfig(run_dir=run_dir, clusters=4, center=True, seed=config.seed),
        select=SelectConfig(run_dir=run_dir, **select),
        export=ExportConfig(run_dir=run_dir, name=select.get("name", "curated")),
    )


def demo(config: DemoConfig) -> None:
    """Draw, curate, train, curate again, and print the result of both curations."""
    print(f"drawing a phantom colonoscopy in {config.output}/phantom")
    truth = colonoscopy.draw(colonoscopy.PhantomConfig(output=f"{config.output}/phantom", seed=config.seed))
    polyps.lay_out(truth, f"{config.output}/phantom", f"{config.output}/polyps")
    untrained = {"encoder": "vit_tiny_patch16_224", "weights": "random", "image_size": 32}
    before = curate(settings(config, "untrained", untrained, {"budget": float(KEPT_SHARE)}), truth)
    every = {"name": EVERYTHING, "d": 1.0, "epsilon": 2.0}
    pipeline.run(settings(config, "untrained", untrained, every))
    encoder = f"{config.output}/encoder"
    print(f"\ntraining an encoder on all frames in {encoder}")
    pretrain_encoder(f"{config.output}/untrained/subsets/{EVERYTHING}", encoder, config.seed)
    losses = RunDirectory(encoder).read_table("metrics.parquet", ["loss"])["loss"].to_pylist()
    print(f"loss {losses[0]:.2f} at the start, {losses[-1]:.2f} at the end, {CHANCE:.2f} by chance")
    after = curate(settings(config, "run", {"encoder": encoder}, {"budget": float(KEPT_SHARE)}), truth)
    print("\n" + comparison(before, after))


def curate(chosen: pipeline.RunConfig, truth: pa.Table) -> dict[str, float]:
    """Curate, print the steps, and compare the subset with the truth."""
    markers = pipeline.run(chosen)
    print("\n" + summary(markers, chosen.ingest.run_dir))
    run = RunDirectory(chosen.ingest.run_dir)
    kept = run.read_table(f"subsets/{chosen.select.name}/kept.parquet", ["path"])["path"].to_pylist()
    return colonoscopy.compare_with_truth(truth, kept)


def pretrain_encoder(subset: str, output: str, seed: int) -> None:
    """Train in another process, which prints why if it fails. ValueError where it fails."""
    given = TRAINING | {"subset": subset, "output": output, "seed": seed}
    flags = [*(f"--{name}={value}" for name, value in given.items()), "--scale", *SCALE]
    done = subprocess.run([sys.executable, "-m", "training", "pretrain", *flags], check=False)
    if done.returncode:
        raise ValueError(f"training ended with exit code {done.returncode}; the curation before it is kept")


def comparison(before: dict[str, float], after: dict[str, float]) -> str:
    """Both subsets against the phantom's truth, as text."""
    lines = [f"against the phantom's truth, {KEPT_SHARE} frames kept:{'untrained':>17}{'trained':>9}"]
    for name, what, of in (
        ("duplicates_found", "planted duplicates found", "redundant"),
        ("distinct_kept", "distinct scenes kept", "scenes"),
        ("invalid_dropped", "invalid frames dropped", "invalid"),
    ):
        lines.append(f"  {f'{what}, of {after[of]}':44}{before[name]:>15.1%}{after[name]:>9.1%}")
    return "\n".join(lines)
