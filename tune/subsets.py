"""Configurations to exported subsets, decided by the scores of a run; nearly equal ones share one. It trains nothing.

Legend: N frames kept.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curation import pipeline
from curation.clusters import cluster
from curation.clusters.config import ClusterConfig
from curation.embeddings.vectors import Keys
from curation.exports.config import ExportConfig
from curation.exports.export import export
from curation.options import require
from curation.store import leases
from curation.store.directory import TEMPORARY, IntegrityError, RunDirectory
from curation.store.markers import marker_of, read_record
from curation.subsets import rules
from curation.subsets.config import SelectConfig
from curation.subsets.scored import pool_size, read_columns
from tune.space import Candidate, Point

ORDER = "chosen.json"
SHARED_FOLDERS = ("frames", "rejected", "embeddings")  # what a clustering of its own shares with the run


class Chooser:
    """Turns points into candidates, one after another.

    Their order is kept below the output, and a later call first repeats it: so which of nearly equal subsets is trained
    for the others never changes, in whatever order they are requested.
    """

    def __init__(self, run_dir: str, output: str, same: float, held: frozenset[str] = frozenset()) -> None:
        """`held` is what the sweep's process holds (leases.current()), for a Chooser in another process."""
        self.run_dir, self.output, self.same, self.held = RunDirectory(run_dir).address, output, same, held
        self.decided: dict[Point, Candidate] = {}
        self.trained: list[tuple[Keys, Candidate]] = []

    def pool(self) -> int:
        """Frames of the pool, with exact copies. ValueError where the run is not clustered yet."""
        run = RunDirectory(self.run_dir)
        marker_of(run, "clusters", "cluster")
        return pool_size(run)

    def candidate(self, point: Point) -> Candidate:
        """Select and export the point's subset, unless one with nearly the same frames is there already.

        IntegrityError where the run is damaged, or holds what was not made from what is there now.
        """
        with leases.borrowed(self.held):
            return self.remembered(point)

    def remembered(self, point: Point) -> Candidate:
        """Return the candidate of a point, decided now where it is new, and keep the order."""
        if not self.decided:
            self.recall()
        if point not in self.decided:
            self.decided[point] = self.decide(point)
            order = [one.values() for one, found in self.decided.items() if found.folder]
            RunDirectory(self.output).write_json(ORDER, order)
        return self.decided[point]

    def recall(self) -> None:
        """Decide the points of earlier calls in their order."""
        output = RunDirectory(self.output)
        for values in output.read_json(ORDER) if output.exists(ORDER) else ():
            point = Point(**values)
            self.decided[point] = self.decide(point)

    def decide(self, point: Point) -> Candidate:
        """Select and export for a new point; where that cannot be done, the candidate has the reason."""
        try:
            config = point.config(self.clustered(point))
            keys_N, pool, whole = self.kept(config)
            found = Candidate(point, len(keys_N), len(keys_N) / pool, whole=whole)
            compared = ((jaccard(keys_N, keys), one) for keys, one in self.trained)
            likest, twin = max(compared, key=lambda pair: pair[0], default=(0.0, found))
            if likest > self.same or likest == 1:
                return replace(found, folder=twin.folder, trained=twin.name, similarity=likest)
            pipeline.select(config)
            export(ExportConfig(run_dir=config.run_dir, name=config.name))
        except IntegrityError:
            raise
        except ValueError as error:
            return Candidate(point, reason=str(error))
        made = replace(found, folder=f"{config.run_dir}/subsets/{config.name}", trained=point.name)
        self.trained.append((keys_N, made))
        return made

    def kept(self, config: SelectConfig) -> tuple[Keys, int, bool]:
        """Keys [N] of the frames that a selection keeps, ascending, the pool's size, and whether it keeps all it can.

        Nothing is written but the scoring pass, where it is missing.
        """
        rules.check_request(config)
        scored = rules.pass_of(config)
        pipeline.ensure_scored(scored)
        run = RunDirectory(config.run_dir)
        columns, pool = read_columns(run, scored.folder), pool_size(run)
        reason, _ = rules.reasons(columns, config, pool)
        kept_N = reason == rules.KEPT
        return np.sort(columns.keys[kept_N]), pool, bool(kept_N.all())

    def clustered(self, point: Point) -> str:
        """The run directory with the point's number of clusters: the run's own, or one below the output."""
        if point.clusters is None:
            return self.run_dir
        run, target = RunDirectory(self.run_dir), RunDirectory(f"{self.output}/clusters-{point.clusters}")
        own = read_record(run)["steps"]["clusters"]["config"]
        if not target.exists("run.json"):
            share(run, target)
        found, expected = (marker_of(place, "embeddings", "embed")["output_hash"] for place in (target, run))
        if found != expected:
            raise IntegrityError(
                f"{target.uri} was made from other embeddings than {run.uri} holds now: delete {target.uri}, and rerun "
                "the same command"
            )
        values: dict[str, Any] = own | {"clusters": point.clusters, "run_dir": target.address}
        cluster.cluster(ClusterConfig(**values))
        return target.address


def share(run: RunDirectory, target: RunDirectory) -> None:
    """Give another run directory the frames and embeddings of a run, linked or copied; run.json comes last."""
    require(
        run.filesystem.type_name == "local",
        f"the run directory is {run.uri}; other numbers of clusters need one on a local disk",
    )
    for folder in SHARED_FOLDERS:
        for file in sorted(Path(run.root, folder).rglob("*")):
            place = Path(target.root, folder, file.relative_to(Path(run.root, folder)))
            if file.is_file() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                link(file, place)
    record = read_record(run)
    steps = {name: entry for name, entry in record["steps"].items() if name in SHARED_FOLDERS}
    target.write_json("run.json", record | {"steps": steps})


def link(file: Path, place: Path) -> None:
    """Make a hard link at `place`, or a copy where the file system cannot: it appears whole or not at all."""
    try:
        os.link(file, place)
    except OSError:
        temporary = place.with_name(f"{TEMPORARY}{place.name}")
        shutil.copyfile(file, temporary)
        os.replace(temporary, place)


def jaccard(first_N: Keys, second_N: Keys) -> float:
    """Frames in both over frames in either, of ascending keys."""
    both = len(np.intersect1d(first_N, second_N, assume_unique=True))
    return both / (len(first_N) + len(second_N) - both)
