"""Several steps in a row: the whole run, and a selection together with the scoring pass it needs."""

import dataclasses
from typing import Any

from curation.clusters.cluster import cluster
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.embeddings.embed import embed
from curation.exports.config import ExportConfig
from curation.exports.export import export
from curation.frames.ingest import ingest
from curation.options import require
from curation.scores.config import ScoreConfig
from curation.scores.score import score
from curation.sources.config import IngestConfig
from curation.store.directory import SUCCESS, RunDirectory, holding
from curation.store.markers import marker_of
from curation.subsets import grid as grids
from curation.subsets import rules
from curation.subsets import select as selection
from curation.subsets.config import SelectConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configs of all steps on one run directory; which scoring pass is needed follows from the selection."""

    ingest: IngestConfig
    embed: EmbedConfig
    cluster: ClusterConfig
    select: SelectConfig
    export: ExportConfig

    def __post_init__(self) -> None:
        directories = {getattr(self, field.name).run_dir for field in dataclasses.fields(self)}
        require(len(directories) == 1, f"the steps name different run directories: {sorted(directories)}")


def run(config: RunConfig) -> list[dict[str, Any]]:
    """Do every step that is not done yet and return their markers.

    Where the selection has neither d nor budget, the run ends after scoring: thresholds are best chosen from the grid.
    """
    chosen = config.select.d is not None or config.select.budget is not None
    if chosen:
        rules.check_request(config.select)
    else:
        grids.check_grid(config.select)
    with RunDirectory(config.ingest.run_dir).lock():
        markers = [ingest(config.ingest), embed(config.embed), cluster(config.cluster)]
        markers.append(ensure_scored(ScoreConfig(run_dir=config.ingest.run_dir)))
        if chosen:
            markers += [select(config.select), export(config.export)]
    return markers


@holding
def select(config: SelectConfig) -> dict[str, Any]:
    """Select a subset, after running the scoring pass it reads if that is missing; return its marker."""
    rules.check_request(config)
    ensure_scored(rules.pass_of(config))
    return selection.select(config)


@holding
def grid(config: SelectConfig) -> str:
    """Return the grid of sizes, after running the scoring passes it reads if they are missing."""
    for scoring in grids.passes(config):
        ensure_scored(scoring)
    return grids.size_table(config)


@holding
def ensure_scored(config: ScoreConfig) -> dict[str, Any]:
    """Return the marker of a scoring pass, run now if it is missing; a finished one may have other group_rows.

    IntegrityError where a finished one was made from other clusters than the present ones.
    """
    run = RunDirectory(config.run_dir)
    if run.exists(f"{config.folder}/{SUCCESS}"):
        return marker_of(run, config.folder, "score") | {"reused": True}
    return score(config)
