"""The command line: python -m curation COMMAND."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from curation import cli, submission
from curation.clusters.config import ClusterConfig
from curation.console import summary
from curation.embeddings.config import EmbedConfig
from curation.exports.config import ExportConfig
from curation.phantom.config import DemoConfig
from curation.scores.config import ScoreConfig
from curation.sources.config import IngestConfig
from curation.store.config import StatusConfig
from curation.subsets.config import SelectConfig

RUN_CONFIGS = {
    "ingest": IngestConfig,
    "embed": EmbedConfig,
    "cluster": ClusterConfig,
    "select": SelectConfig,
    "export": ExportConfig,
}


def step(name: str) -> Callable[..., Any]:
    """The function MODULE.NAME of this package, imported on its first call.

    PyTorch, timm and Ray take seconds to import, which --help and a wrong flag should not cost.
    """
    module, _, function = name.rpartition(".")

    def call(config: Any) -> Any:
        return getattr(import_module(f"curation.{module}"), function)(config)

    return call


def with_summary(work: Callable[..., Any]) -> Callable[[Any], None]:
    """A step that prints its summary."""
    return lambda config: print(summary([work(config)], config.run_dir))


def select(config: SelectConfig) -> None:
    """Select, or print the grid of sizes if --grid is given."""
    if config.grid:
        print(step("pipeline.grid")(config))
    else:
        with_summary(step("pipeline.select"))(config)


def run(*configs: Any) -> None:
    """Do all steps and print one summary; without thresholds, the grid to choose them from."""
    pipeline = import_module("curation.pipeline")
    config = pipeline.RunConfig(**dict(zip(RUN_CONFIGS, configs, strict=True)))
    markers = pipeline.run(config)
    print(summary(markers, config.ingest.run_dir))
    if not any(marker["step"] == "select" for marker in markers):
        print(
            f"\n{step('pipeline.grid')(config.select)}\n\nNo --d and no --budget was given, so nothing was selected. "
            "Choose one from the grid and rerun the same command with it; finished steps are kept."
        )


def command(about: str, configs: cli.Configs, work: Callable[..., Any], computes: bool = False) -> cli.Command:
    """A command whose flags are always the same."""
    return cli.Command(about, lambda _: configs, work, computes)


COMMANDS = {
    "ingest": command(
        "Read the sources: identity, lineage and exact copies of every frame.",
        (IngestConfig,),
        with_summary(step("frames.ingest.ingest")),
    ),
    "embed": command(
        "Turn frames into unit vectors with a Vision Transformer.",
        (EmbedConfig,),
        with_summary(step("embeddings.embed.embed")),
        computes=True,
    ),
    "cluster": command(
        "Spherical k-means over the embeddings.",
        (ClusterConfig,),
        with_summary(step("clusters.cluster.cluster")),
        computes=True,
    ),
    "score": command(
        "Compare the frames of each cluster, once for every threshold.",
        (ScoreConfig,),
        with_summary(step("scores.score.score")),
        computes=True,
    ),
    "select": command(
        "Keep a subset, by thresholds or by size, with a reason for every frame.",
        (SelectConfig,),
        select,
        computes=True,
    ),
    "export": command(
        "Export a subset: a Parquet table, a folder of files, or shards for other trainers.",
        (ExportConfig,),
        with_summary(step("exports.export.export")),
    ),
    "run": command(
        "All steps from sources to an exported subset; does only what is missing.",
        tuple(RUN_CONFIGS.values()),
        run,
        computes=True,
    ),
    "demo": command(
        "Draw an artificial colonoscopy, curate it, and compare the result with the known truth.",
        (DemoConfig,),
        step("demo.demo"),
        computes=True,
    ),
}


COMMANDS["status"] = command(
    "How far a run is, its rate, the time left and who holds it; from any machine.",
    (StatusConfig,),
    lambda config: print(step("status.status")(config)),
)
COMMANDS |= submission.commands("curation", lambda: COMMANDS)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code: 0, or 2 for an error that the user can fix."""
    return cli.dispatch("curation", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
