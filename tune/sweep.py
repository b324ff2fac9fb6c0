"""A sweep: configurations to subsets, each trained and evaluated as a trial of Ray Tune, and what came of it."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from curation import engine
from curation.config import ExportConfig, digest, hashed_fields, require
from curation.export import export
from curation.store import RunDirectory
from training.checkpoint import located
from training.evaluate import EvaluateConfig, find_sources, prepare_all
from training.prepared import PreparedSet
from training.rank import Settings
from training.segment import FinetuneConfig
from tune import estimate, report, results, space
from tune.config import HalvingConfig, Question, SweepConfig
from tune.driver import FOLDER, Job, records, trial
from tune.ended import Ended
from tune.resources import Shares, shares
from tune.results import Row
from tune.search import drawn, point_of, study
from tune.space import Candidate, Point, SpaceConfig
from tune.subsets import Chooser
from tune.tuning import Limit, Tuning, reason_of, run_trials


@dataclass(frozen=True)
class Sweep:
    """All configs of one sweep; the subset and output of `recipe` are not used."""

    config: SweepConfig
    space: SpaceConfig
    question: Question
    halving: HalvingConfig
    evaluation: EvaluateConfig
    recipe: Settings
    finetune: FinetuneConfig

    def __post_init__(self) -> None:
        require(
            self.question.question != "non-inferior" or "full" in self.space.baselines,
            "the question non-inferior needs the full pool to set subsets against; add --baseline full",
        )
        require(
            not self.halving.halving or (self.space.search != "optuna" and self.question.question == "normdel"),
            "--halving stops listed configurations of low NormDEL; use it with --search grid, paper or random, and "
            "with --question normdel",
        )

    @property
    def exhaustive(self) -> bool:
        """Whether every configuration is trained to its end, so that each size has its baselines."""
        return self.space.search in ("grid", "paper") and not self.halving.halving


def sweep(what: Sweep) -> pa.Table:
    """Try every configuration and its baselines; return the table (tune.results.SCHEMA). A rerun does what is missing.

    Leaves in `output`: results.parquet, summary.md, .csv and .html, figures, best/ with the best subset; trials/ with
    a record each, pretrain/, results/, cache/, and tune/ with Ray Tune's own records (TensorBoard's among them).
    ValueError, before anything is trained: no such run, set or folder, or settings that cannot be.
    """
    run, sources = RunDirectory(what.evaluation.output), find_sources(what.evaluation)
    require(
        run.filesystem.type_name == "local",
        f"output is {what.evaluation.output}, but encoders are kept as files; give a folder that all nodes see",
    )
    engine.connect()
    asked = (what.config.gpus_per_trial, what.config.cpus_per_trial, what.config.max_concurrent)
    share = shares(engine.count("CPU"), engine.count("GPU"), *asked)
    chooser = Chooser(what.config.run_dir, run.address, what.space.same)
    chooser.pool()
    with run.lock(), RunDirectory(what.config.run_dir).lock():
        sets = prepare_all(run, sources, what.evaluation)
        run.clear_temporary(FOLDER)
        course = Course(what, job_of(what, share, sets), share.trials, chooser)
        course.choose()
        course.forecast()
        if what.config.plan_only:
            return results.table_of(course.rows())
        course.search()
        return course.finish()


def job_of(what: Sweep, share: Shares, sets: Sequence[PreparedSet]) -> Job:
    """What all trials share. Its paths hold wherever a trial's process has its working directory."""
    recipe = replace(
        what.recipe,
        what=replace(what.recipe.what, init=located(what.recipe.what.init)),
        compute=replace(what.recipe.compute, workers=share.workers, cpus=share.cpus),
    )
    output, devices = RunDirectory(what.evaluation.output).address, max(1, share.gpus)
    return Job(output, recipe, what.evaluation, what.finetune, tuple(sets), what.halving, what.question, devices)


class Course:
    """One call of a sweep: what was chosen, and what came of it so far."""

    def __init__(self, what: Sweep, job: Job, at_once: int, chooser: Chooser) -> None:
        self.what, self.job, self.at_once = what, job, at_once
        self.output = RunDirectory(job.output)
        self.chooser: Any = chooser  # or the actor that Optuna's trials ask too
        self.candidates: dict[str, Candidate] = {}
        self.ended = Ended(self.output)
        self.limit = Limit(None, 0.0, 1)

    def choose(self) -> None:
        """Bring what is known beforehand to subsets: the full pool first, so that others join it."""
        if self.what.space.search == "optuna":
            given = (self.what.config.run_dir, self.job.output, self.what.space.same)
            self.chooser = ray.remote(Chooser).options(num_cpus=0).remote(*given)
        if "full" in self.what.space.baselines:
            self.add([space.full()])
        self.add(space.listed(self.what.space, self.what.recipe.what.seed))
        if self.what.exhaustive:
            self.add(self.baselines(self.candidates.values()))

    def add(self, points: Iterable[Point]) -> None:
        """Bring points to subsets."""
        for point in points:
            if isinstance(self.chooser, Chooser):
                self.candidates[point.name] = self.chooser.candidate(point)
            else:
                self.candidates[point.name] = ray.get(self.chooser.candidate.remote(point))

    def baselines(self, of: Iterable[Candidate]) -> list[Point]:
        """The baselines of the sizes of some candidates of the search."""
        sizes = sorted({one.frames for one in of if one.folder and one.point.baseline is None})
        return [point for frames in sizes for point in space.beside(self.what.space.baselines, frames)]

    def forecast(self) -> None:
        """Print the configurations with their sizes, and what training them will cost."""
        print(report.listing(list(self.candidates.values())), flush=True)
        missing = [one for one in self.trained() if self.job.record(one) is None]
        if not missing:
            return
        found = estimate.speed(self.job, missing[0])
        each = [estimate.hours(self.job, one, found) for one in missing]
        more = self.what.space.samples if self.what.space.search == "optuna" else 0  # each about as long: equal compute
        hours = sum(each) + more * max(each)
        beside = "" if self.what.exhaustive else ", and the baselines of the sizes on the front beside that"
        print(
            f"{len(each) + more} subsets to train, {self.what.evaluation.seeds} seeds each, {self.at_once} at once: "
            f"about {hours:.2f} device-hours, {60 * hours / self.job.devices / self.at_once:.0f} minutes{beside}",
            flush=True,
        )

    def trained(self) -> list[Candidate]:
        """Candidates whose own subset is trained."""
        return [one for one in self.candidates.values() if one.folder and one.trained == one.name]

    def search(self) -> None:
        """Try the configurations and the baselines: of every size, or of the sizes on the front."""
        devices = self.job.devices * self.at_once
        self.limit = Limit(self.what.config.max_gpu_hours, self.spent(), devices)
        if self.what.exhaustive:
            self.fit(self.trained())
            return
        self.fit([one for one in self.trained() if one.point.baseline is not None])
        if self.what.space.search == "optuna":
            self.draw()
        else:
            self.fit(self.trained(), halve=bool(self.what.halving.halving))
        front = {row["name"] for row in results.table_of(self.rows()).to_pylist() if row["on_ratio_front"]}
        self.add(self.baselines([one for one in self.candidates.values() if one.name in front]))
        self.fit([one for one in self.trained() if one.point.baseline is not None])

    def fit(self, wanted: Sequence[Candidate], *, halve: bool = False) -> None:
        """Carry out the trials that have no record. Halving sees finished ones too: it judges by what they told."""
        missing = [one for one in wanted if self.job.record(one) is None][: self.allowed()]
        if not missing or self.limit.stop_all():
            return
        given, scheduler = {one.name: one for one in missing}, None
        if halve:
            searched = [one for one in wanted if one.point.baseline is None]
            given = {one.name: one for one in searched if one in missing or self.job.record(one) is not None}
            halving = self.what.halving
            scheduler = ASHAScheduler(
                "unit", "normdel", "max", grace_period=1, max_t=halving.units, reduction_factor=halving.halving
            )
        names = {"name": ray_tune.grid_search(list(given))}
        for found in run_trials(self.tuning, self.working(candidates=given), names, scheduler=scheduler):
            if found.config:
                self.note(self.candidates[found.config["name"]], found)

    def draw(self) -> None:
        """Let Optuna draw configurations and carry them out; its study is kept, and a rerun goes on with it."""
        question, sought = self.what.question, hashed_fields(self.what.space) | {"samples": None}
        name = digest([sought, hashed_fields(question), self.job.key])
        journal, seed = f"{self.job.output}/optuna.log", self.what.recipe.what.seed
        search, known = study(self.what.space, question.question, journal, name, seed)
        self.add(drawn(known))
        left = min(self.what.space.samples - len(drawn(known)), self.allowed())
        if left > 0 and not self.limit.stop_all():
            work = self.working(chooser=self.chooser)
            for found in run_trials(self.tuning, work, {}, search_alg=search, num_samples=left):
                if found.config:
                    point = point_of(found.config)
                    self.add([point])
                    self.note(self.candidates[point.name], found)

    def allowed(self) -> int:
        """How many more trials may be begun."""
        most = self.what.config.max_trials
        begun = len(records(self.output)) + len(self.ended.known)
        return max(0, most - begun) if most is not None else sys.maxsize

    @property
    def tuning(self) -> Tuning:
        """How trials are run."""
        return Tuning(self.job.output, self.at_once, self.limit, tuple(self.what.recipe.record.logger))

    def working(self, **given: Any) -> Any:
        """A trial as Ray Tune runs it, with what all trials are given."""
        return ray_tune.with_parameters(trial, job=self.job, **given)

    def note(self, candidate: Candidate, found: Any) -> None:
        """Keep what became of a trial that left no record: it failed, halting ended it, or the budget did."""
        told = found.metrics or {}
        if not candidate.folder or self.job.record(candidate) is not None:
            return
        hours = self.job.devices * told.get("time_total_s", 0.0) / 3600
        if found.error is not None:
            self.ended.keep(self.job.path(candidate), {"reason": reason_of(found.error), "hours": hours})
        elif "miou" in told and not self.limit.stop_all():
            measured = {name: told[name] for name in ("unit", "miou", "normdel", "updates")}
            self.ended.keep(self.job.path(candidate), {"told": measured, "hours": hours})

    def spent(self) -> float:
        """Device-hours of the trials of this output that are over."""
        finished = sum(record["pretrain_hours"] + record["evaluate_hours"] for record in records(self.output))
        return float(finished + sum(entry["hours"] for entry in self.ended.known.values()))

    def rows(self) -> list[Row]:
        """A row for every candidate."""
        made = []
        for one in self.candidates.values():
            trained = self.candidates.get(one.trained)
            record = self.job.record(trained) if trained is not None else None
            table = pa.concat_tables(map(self.output.read_table, record["results"])) if record else None
            entry = self.ended.of(self.job.path(trained)) if trained is not None and not record else {}
            row = results.row_of(one, record, table, self.what.question, entry.get("reason", ""))
            made.append(results.halted(row, entry["told"]) if "told" in entry else row)
        return made

    def finish(self) -> pa.Table:
        """Write and print what was found, and export the best subset."""
        table = results.table_of(self.rows())
        self.output.write_table("results.parquet", table)
        found = {one.name: self.job.record(one) for one in self.trained()}
        paths = {name: record["results"] for name, record in found.items() if record}
        self.output.write_json("sweep.json", {"question": vars(self.what.question), "results": paths})
        best = report.conclude(self.output).best
        if best is not None:
            source, _, name = best["folder"].rpartition("/subsets/")
            export(ExportConfig(run_dir=source, name=name, output=f"{self.job.output}/best", with_images=True))
        if self.limit.stop_all():
            print("The budget is spent. The same command with a larger --max-gpu-hours goes on.")
        return table
