"""The demonstration: draw a phantom, run every step on it, and compare the subset with what is known of it."""

from typing import Any

import pyarrow as pa

from curation import phantom, pipeline
from curation.config import (
    ClusterConfig,
    DemoConfig,
    EmbedConfig,
    ExportConfig,
    IngestConfig,
    SelectConfig,
)
from curation.console import summary
from curation.store import RunDirectory


def settings(config: DemoConfig) -> pipeline.RunConfig:
    """The demonstration's run: an untrained ViT-tiny on small frames, centred vectors, thresholds to match.

    An untrained encoder is a random projection of colours and coarse shapes, so its thresholds are its own.
    """
    run_dir = f"{config.output}/run"
    return pipeline.RunConfig(
        ingest=IngestConfig(
            run_dir=run_dir,
            source=(f"phantom={config.output}/phantom/frames",),
            lineage_pattern=r"(?P<center>[^/]+)/(?P<patient>[^/]+)/(?P<procedure>[^/]+)/",
            part_rows=100,
        ),
        embed=EmbedConfig(
            run_dir=run_dir,
            encoder="vit_tiny_patch16_224",
            weights="random",
            image_size=32,
            precision="float32",
            pooling="mean",
            seed=config.seed,
        ),
        cluster=ClusterConfig(run_dir=run_dir, clusters=4, center=True, seed=config.seed),
        select=SelectConfig(run_dir=run_dir, d=0.96),
        export=ExportConfig(run_dir=run_dir),
    )


def demo(config: DemoConfig) -> None:
    """Draw, curate, compare, and print what came out."""
    print(f"drawing a phantom colonoscopy in {config.output}/phantom")
    truth = phantom.draw(phantom.PhantomConfig(output=f"{config.output}/phantom", seed=config.seed))
    chosen = settings(config)
    markers = pipeline.run(chosen)
    print("\n" + summary(markers, chosen.ingest.run_dir))
    run = RunDirectory(chosen.ingest.run_dir)
    kept = run.read_table(f"subsets/{chosen.select.name}/kept.parquet", ["path"])["path"].to_pylist()
    print("\n" + comparison(truth, kept))


def comparison(truth: pa.Table, kept_paths: list[str]) -> str:
    """The subset against the phantom's truth, as text."""
    found: dict[str, Any] = phantom.compare(truth, kept_paths)
    return "\n".join(
        [
            f"against the phantom's truth, {len(kept_paths)} of {len(truth)} frames kept:",
            f"  planted duplicates found  {found['duplicates_found']:>7.1%} of {found['redundant']}",
            f"  distinct scenes kept      {found['distinct_kept']:>7.1%} of {found['scenes']}",
            f"  invalid frames dropped    {found['invalid_dropped']:>7.1%} of {found['invalid']}",
            "The encoder is UNTRAINED: weights drawn from the seed, as nothing is downloaded here. With a trained one",
            "(--encoder and --weights) the separation is better; see the README.",
        ]
    )
