"""A sweep: configurations to subsets, each trained and evaluated as a trial of Ray Tune, and what came of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from curation import engine
from curation.config import ExportConfig, require
from curation.export import export
from curation.store import RunDirectory
from training.evaluate import EvaluateConfig, find_sources, prepare_all
from training.rank import Settings
from training.segment import FinetuneConfig
from tune import estimate, report, results, space
from tune.config import HalvingConfig, Question, SweepConfig
from tune.driver import FOLDER, Job, Told, trial
from tune.resources import shares
from tune.results import Row
from tune.search import point_of, study
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
            self.space.search != "optuna" or not self.halving.halving,
            "--halving stops configurations that are listed beforehand; use it with --search grid, paper or random",
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
    chosen = (what.config.run_dir, run.address, what.recipe.what.seed, what.space.same)
    Chooser(*chosen).pool()
    with run.lock(), RunDirectory(what.config.run_dir).lock():
        sets = prepare_all(run, sources, what.evaluation)
        compute = replace(what.recipe.compute, workers=share.workers, cpus=share.cpus)
        job = Job(
            run.address,
            replace(what.recipe, compute=compute),
            what.evaluation,
            what.finetune,
            tuple(sets),
            what.halving,
            what.question,
            max(1, share.gpus),
        )
        course = Course(what, job, share.trials, chosen)
        course.choose()
        course.forecast()
        if what.config.plan_only:
            return results.table_of(course.rows())
        course.search()
        return course.finish()


class Course:
    """One call of a sweep: what was chosen, and what came of it so far."""

    def __init__(self, what: Sweep, job: Job, at_once: int, chosen: tuple[str, str, int, float]) -> None:
        self.what, self.job, self.at_once, self.chosen = what, job, at_once, chosen
        self.output, self.chooser = RunDirectory(job.output), Chooser(*chosen)
        self.candidates: dict[str, Candidate] = {}
        self.failed: dict[str, str] = {}
        self.halted: dict[str, Told] = {}
        self.limit = Limit(what.config.max_gpu_hours, self.spent(), job.devices * at_once)

    def choose(self) -> None:
        """Bring what is known beforehand to subsets: the full pool first, so that others join it."""
        if "full" in self.what.space.baselines:
            self.add([space.full()])
        self.add(space.listed(self.what.space, self.what.recipe.what.seed))
        if self.what.exhaustive:
            self.add(self.baselines(self.candidates.values()))

    def add(self, points: Iterable[Point]) -> None:
        """Bring points to subsets."""
        for point in points:
            self.candidates[point.name] = self.chooser.candidate(point)

    def baselines(self, of: Iterable[Candidate]) -> list[Point]:
        """The baselines of the sizes of some candidates of the search."""
        sizes = sorted({one.frames for one in of if one.folder and one.point.baseline is None})
        return [point for frames in sizes for point in space.beside(self.what.space.baselines, frames)]

    def forecast(self) -> None:
        """Print the configurations with their sizes, and what training them will cost."""
        print(report.listing(list(self.candidates.values())))
        trained = self.trained()
        if trained:
            hours = estimate.hours(self.job, trained, estimate.speed(self.job, trained[0]))
            minutes = 60 * hours / self.job.devices / self.at_once
            print(
                f"{len(trained)} subsets, {self.what.evaluation.seeds} seeds each, {self.at_once} at once: about "
                f"{hours:.2f} device-hours, {minutes:.0f} minutes, for what is not done yet",
                flush=True,
            )

    def trained(self, *, baseline: bool | None = None) -> list[Candidate]:
        """Candidates whose own subset is trained: all, the baselines, or those of the search."""
        own = [one for one in self.candidates.values() if one.folder and one.trained == one.name]
        return [one for one in own if baseline is None or (one.point.baseline is not None) == baseline]

    def search(self) -> None:
        """Try the configurations, then the baselines: of every size, or of the sizes on the front."""
        if self.what.space.search == "optuna":
            self.draw()
        self.fit(self.trained(baseline=False), halve=bool(self.what.halving.halving))
        if not self.what.exhaustive:
            front = {row["name"] for row in results.table_of(self.rows()).to_pylist() if row["on_ratio_front"]}
            self.add(self.baselines(one for one in self.candidates.values() if one.name in front))
        self.fit(self.trained(baseline=True), halve=False)

    def fit(self, wanted: Sequence[Candidate], *, halve: bool) -> None:
        """Carry out the trials that have no record. Halving sees finished ones too: it judges by what they told."""
        done = {one.name for one in self.trained() if self.job.record(one) is not None}
        missing = [one for one in wanted if one.name not in done][: self.allowed(len(done))]
        if not missing or self.limit.stop_all():
            return
        given = {one.name: one for one in wanted if one in missing or (halve and one.name in done)}
        scheduler = None
        if halve:
            halving = self.what.halving
            scheduler = ASHAScheduler(
                "unit", "objective", "max", grace_period=1, max_t=halving.units, reduction_factor=halving.halving
            )
        names = {"name": ray_tune.grid_search(list(given))}
        for found in run_trials(self.tuning, self.working(candidates=given), names, scheduler=scheduler):
            self.note((found.config or {})["name"], found)

    def draw(self) -> None:
        """Let Optuna draw configurations and carry them out; its study is kept, and a rerun goes on with it."""
        seed = self.what.recipe.what.seed
        search, left, known = study(self.what.space, self.what.question.question, self.job.output, seed)
        left = min(left, self.allowed(len(self.trained())))
        chooser: Any = ray.remote(Chooser).options(num_cpus=0).remote(*self.chosen)
        for one in self.candidates.values():
            ray.get(chooser.candidate.remote(one.point))
        if left > 0 and not self.limit.stop_all():
            for each in run_trials(self.tuning, self.working(chooser=chooser), {}, search_alg=search, num_samples=left):
                self.note(point_of(each.config or {}).name, each)
        for drawn in known.get_trials(deepcopy=False):
            if drawn.params:
                found: Candidate = ray.get(chooser.candidate.remote(point_of(drawn.params)))
                self.candidates[found.name] = found

    def allowed(self, done: int) -> int:
        """How many more trials may be begun."""
        most = self.what.config.max_trials
        return max(0, most - done) if most is not None else len(self.candidates) + self.what.space.samples

    @property
    def tuning(self) -> Tuning:
        """How trials are run."""
        return Tuning(self.job.output, self.at_once, self.limit, tuple(self.what.recipe.record.logger))

    def working(self, **given: Any) -> Any:
        """A trial as Ray Tune runs it, with what all trials are given."""
        return ray_tune.with_parameters(trial, job=self.job, **given)

    def note(self, name: str, found: Any) -> None:
        """Remember what became of a trial that left no record."""
        if found.error is not None:
            self.failed[name] = reason_of(found.error)
        elif found.metrics and found.metrics.get("unit", 0) < self.what.halving.units and not self.limit.stop_all():
            self.halted[name] = found.metrics

    def spent(self) -> float:
        """Device-hours of the finished trials of this output."""
        records = (self.output.read_json(f"{FOLDER}/{name}") for name in self.output.names(FOLDER))
        return float(sum(record["pretrain_hours"] + record["evaluate_hours"] for record in records))

    def rows(self) -> list[Row]:
        """A row for every candidate."""
        made = []
        for one in self.candidates.values():
            trained = self.candidates.get(one.trained)
            record = self.job.record(trained) if trained is not None else None
            table = pa.concat_tables(map(self.output.read_table, record["results"])) if record else None
            row = results.row_of(one, record, table, self.what.question, self.failed.get(one.name, ""))
            told = self.halted.get(one.trained)
            made.append(results.halted(row, told) if record is None and told is not None else row)
        return made

    def finish(self) -> pa.Table:
        """Write and print what was found, and export the best subset."""
        table = results.table_of(self.rows())
        self.output.write_table("results.parquet", table)
        records = {one.name: self.job.record(one) for one in self.trained()}
        paths = {name: record["results"] for name, record in records.items() if record}
        self.output.write_json("sweep.json", {"question": vars(self.what.question), "results": paths})
        found = report.conclude(self.output)
        if found.best is not None:
            source, _, name = found.best["folder"].rpartition("/subsets/")
            if self.output.exists("best"):
                self.output.delete_folder("best")
            export(ExportConfig(run_dir=source, name=name, output=f"{self.job.output}/best", with_images=True))
        if self.limit.stop_all():
            print("The budget is spent. The same command with a larger --max-gpu-hours goes on.")
        return table
