"""A sweep: configurations to subsets, each trained and evaluated as a trial of Ray Tune, and the results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from ray import tune as ray_tune

from curation.engine import resources
from curation.engine.accelerators import gpus, selected
from curation.engine.connect import connect
from curation.exports.config import ExportConfig
from curation.exports.export import discard, export
from curation.options import digest, hashed_fields, require
from curation.store import leases
from curation.store.directory import RunDirectory
from training.datasets.prepared import PreparedSet
from training.evaluation.runs import chosen_precision, record_precision
from training.evaluation.sets import find_sources, prepare_all
from training.pretraining.weights import absolute_init
from tune import estimate, report, results, space
from tune.ledger import Ledger
from tune.optuna_search import drawn_points, open_study, point_of, spent, study
from tune.resources import Shares, shares
from tune.results import Row
from tune.runner import Budget, Tuning, halving_scheduler, run_trials
from tune.settings import SweepSettings
from tune.space import Candidate, Point
from tune.subsets import Chooser
from tune.trial import TRIALS, Reported, SweepJob, trial


def sweep(what: SweepSettings) -> pa.Table:
    """Try every configuration and its baselines; return the table (tune.results.SCHEMA). A rerun does what is missing.

    Leaves in `output`: results.parquet, summary.md, .csv and .html, figures, best/ with the best subset; trials/ with
    a record each, pretrain/, results/, cache/, and tune/ with Ray Tune's own records (TensorBoard's among them).
    ValueError, before anything is trained: no such run, set or folder, or invalid settings.
    """
    run, sources = RunDirectory(what.evaluation.output), find_sources(what.evaluation)
    require(
        run.filesystem.type_name == "local",
        f"output is {what.evaluation.output}, but encoders are kept as files; give a folder that all nodes see",
    )
    connect()
    what = with_precision(what, run)
    limits = (what.config.gpus_per_trial, what.config.cpus_per_trial, what.config.max_concurrent)
    share = shares(resources.count("CPU"), gpus(), *limits)
    chooser = Chooser(what.config.run_dir, run.address, what.space.same)
    chooser.pool()
    with run.lock(), RunDirectory(what.config.run_dir).lock():
        sets = prepare_all(run, sources, what.evaluation)
        run.clear_temporary(TRIALS)
        record_precision(run, what.finetune.precision)
        search = Sweep(what, job_of(what, share, sets), share.trials, chooser)
        search.choose()
        search.forecast()
        if what.config.plan_only:
            return results.table_of(search.rows())
        search.search()
        return search.finish()


def with_precision(what: SweepSettings, run: RunDirectory) -> SweepSettings:
    """The settings with `auto` precision resolved: one for all trials and calls."""
    compute, finetune = what.recipe.compute, what.finetune
    compute = replace(compute, precision=chosen_precision(run, compute.precision))
    finetune = replace(finetune, precision=chosen_precision(run, finetune.precision))
    return replace(what, recipe=replace(what.recipe, compute=compute), finetune=finetune)


def job_of(what: SweepSettings, share: Shares, sets: Sequence[PreparedSet]) -> SweepJob:
    """What all trials share. Its paths hold wherever a trial's process has its working directory."""
    recipe = replace(
        what.recipe,
        what=replace(what.recipe.what, init=absolute_init(what.recipe.what.init)),
        compute=replace(what.recipe.compute, workers=share.workers, cpus=share.cpus),
    )
    output, devices = RunDirectory(what.evaluation.output).address, max(1, share.gpus)
    return SweepJob(
        output=output,
        recipe=recipe,
        evaluation=what.evaluation,
        finetune=what.finetune,
        sets=tuple(sets),
        halving=what.halving,
        question=what.question,
        devices=devices,
        device=selected(),
    )


class Sweep:
    """One call of a sweep: what was chosen, and its results so far."""

    def __init__(self, what: SweepSettings, job: SweepJob, at_once: int, chooser: Chooser) -> None:
        self.what, self.job, self.at_once = what, job, at_once
        self.output = RunDirectory(job.output)
        self.chooser: Any = chooser  # or the actor that Optuna's trials use too
        self.candidates: dict[str, Candidate] = {}
        self.ledger = Ledger(what, job)
        self.limit = Budget(what.config.max_gpu_hours, job.devices, self.output)
        self.done: dict[str, Row] = {}

    def choose(self) -> None:
        """Choose subsets for what is known beforehand: the full pool first, so that equal ones share it."""
        if self.what.space.search == "optuna":
            given = (self.what.config.run_dir, self.job.output, self.what.space.same, leases.current())
            self.chooser = ray.remote(Chooser).options(**resources.beside_driver()).remote(*given)
        if "full" in self.what.space.baselines:
            self.add([space.full_pool()])
        if self.what.space.search == "optuna":
            self.add(drawn_points(open_study(*self.studied)))
        self.add(space.listed_points(self.what.space, self.what.recipe.what.seed))
        if self.what.exhaustive:
            self.add(self.baselines(self.candidates.values()))

    def add(self, points: Iterable[Point]) -> None:
        """Choose the subsets of points."""
        self.candidates |= {point.name: self.chosen(point) for point in points}

    def chosen(self, point: Point) -> Candidate:
        """Choose the subset of a point."""
        if isinstance(self.chooser, Chooser):
            return self.chooser.candidate(point)
        found: Candidate = ray.get(self.chooser.candidate.remote(point))
        return found

    def baselines(self, of: Iterable[Candidate]) -> list[Point]:
        """The baselines of the sizes of some candidates of the search."""
        sizes = sorted({(one.frames, one.ratio) for one in of if one.folder and one.point.baseline is None})
        return [point for size in sizes for point in space.baselines_of(self.what.space.baselines, *size)]

    def forecast(self) -> None:
        """Print the configurations with their sizes, and what training them will cost."""
        print(report.listing(list(self.candidates.values())), flush=True)
        missing, begun = self.ledger.due(self.trained()), self.ledger.begun()
        new = sum(self.ledger.path(one) not in begun for one in missing)
        more = max(0, min(self.draws(), self.ledger.allowed() - new))
        if not missing and not more:
            return
        like = [*missing, *self.trained()] or [self.chosen(space.full_pool())]
        found = estimate.speed(self.job, like[0])
        each = [estimate.hours(self.job, one, found) for one in like]
        hours = sum(each[: len(missing)]) + more * max(each)  # a draw is about as long: equal compute
        saved = ", less what halving saves" if self.what.halving.halving else ""
        extra = "" if self.what.exhaustive else ", and in addition the baselines of the sizes on the front"
        minutes = 60 * hours / self.job.devices / self.at_once
        print(
            f"{len(missing) + more} subsets to train, {self.what.evaluation.seeds} seeds each, {self.at_once} at once: "
            f"about {hours:.2f} device-hours, {minutes:.0f} minutes of computing{saved}{extra}",
            flush=True,
        )

    def trained(self) -> list[Candidate]:
        """A candidate for each subset that is trained: the one that it is named after, where that is of this call."""
        chosen: dict[str, Candidate] = {}
        for one in self.candidates.values():
            if one.folder and (one.trained == one.name or one.trained not in chosen):
                chosen[one.trained] = one
        return list(chosen.values())

    def search(self) -> None:
        """Try the configurations and the baselines: of every size, or of the sizes on the front."""
        if self.what.halving.halving:
            self.fit(space.shuffle_candidates(self.trained(), self.what.recipe.what.seed), halve=True)
        else:
            self.fit(self.trained())
        if self.what.exhaustive:
            return
        if self.what.space.search == "optuna":
            self.draw()
        tried = set(self.candidates)
        front = {row["name"] for row in results.table_of(self.rows()).to_pylist() if row["on_ratio_front"]}
        self.add(self.baselines([one for one in self.candidates.values() if one.name in front]))
        self.fit([one for one in self.trained() if one.name not in tried])

    def fit(self, candidates: Sequence[Candidate], *, halve: bool = False) -> None:
        """Carry out the trials that are due. Halving judges them by the reports of all others of `candidates`, too."""
        due = self.ledger.due(candidates)
        if not due or self.limit.spent:
            return
        scheduler = None
        if halve:
            scheduler = halving_scheduler(self.what.halving, {one.name: self.ledger.rungs(one) for one in candidates})
        names = {"name": ray_tune.grid_search([one.name for one in due])}
        work = self.working(candidates={one.name: one for one in due})
        run_trials(self.tuning, work, names, scheduler=scheduler)

    def draw(self) -> None:
        """Let Optuna draw configurations and carry them out; its study is kept, and a rerun continues it."""
        if self.draws() > 0 and not self.limit.spent:
            search = study(self.what.space, *self.studied, self.what.recipe.what.seed)
            work = self.working(chooser=self.chooser)
            run_trials(self.tuning, work, {}, search_alg=search, num_samples=self.draws())

    @property
    def studied(self) -> tuple[str, str, str]:
        """The question, the journal and the name of Optuna's study: the hash of all that a trial's worth depends on."""
        question, searched = self.what.question.question, hashed_fields(self.what.space)
        goal = [question, self.ledger.read if question == "normdel" else None, self.job.key]
        name = digest([searched | {"samples": None, "baseline": None}, *goal])
        return question, f"{self.job.output}/optuna.log", name

    def draws(self) -> int:
        """How many configurations Optuna is still to draw."""
        if self.what.space.search != "optuna":
            return 0
        return max(0, min(self.what.space.samples - spent(open_study(*self.studied)), self.ledger.allowed()))

    @property
    def tuning(self) -> Tuning:
        """How trials are run."""
        return Tuning(self.job.output, self.at_once, self.limit, self.note, tuple(self.what.recipe.record.logger))

    def working(self, **given: Any) -> Any:
        """A trial as Ray Tune runs it, with what all trials are given."""
        return ray_tune.with_parameters(trial, job=self.job, **given)

    def note(self, config: Mapping[str, Any], reports: Sequence[Reported], reason: str) -> None:
        """Record how a trial ended: it finished, it failed for a reason, or halving stopped it."""
        if "name" in config:
            one = self.candidates[config["name"]]
        else:
            one = self.candidates[point_of(config).name] = self.chosen(point_of(config))
        if one.folder:
            self.ledger.note(one, reports, reason)
        self.save()

    def rows(self) -> list[Row]:
        """A row for every candidate."""
        return [self.row(one) for one in self.candidates.values()]

    def row(self, one: Candidate) -> Row:
        """A candidate's row; that of a finished one is made once."""
        question = self.what.question
        if not one.folder:
            return results.sweep_row(one, None, None, question)
        record = self.ledger.record(one)
        if record is None:
            row = results.sweep_row(one, None, None, question, self.ledger.reason(one))
            halts = self.ledger.halts(one)
            return results.halted_row(row, halts[-1]) if halts else row
        if one.name not in self.done:
            table = pa.concat_tables(map(self.output.read_table, record["results"]))
            self.done[one.name] = results.sweep_row(one, record, table, question)
        return self.done[one.name]

    def save(self) -> pa.Table:
        """Write and return what was found so far."""
        table = results.table_of(self.rows())
        self.output.write_table("results.parquet", table)
        found = {one.trained: self.ledger.record(one) for one in self.trained()}
        paths = {name: record["results"] for name, record in found.items() if record}
        self.output.write_json("sweep.json", {"question": vars(self.what.question), "results": paths})
        return table

    def finish(self) -> pa.Table:
        """Write and print what was found, and export the best subset."""
        table = self.save()
        best = report.conclude(self.output).best
        if best is not None:
            source, _, name = best["folder"].rpartition("/subsets/")
            target = RunDirectory(f"{self.job.output}/best")
            digest = RunDirectory(best["folder"]).read_json("subset.json")["digest"]
            discard(target, digest)  # what was best in an earlier call
            export(ExportConfig(run_dir=source, name=name, output=target.address, with_images=True))
        if self.limit.spent:
            print("The budget is spent. Rerun the same command with a larger --max-gpu-hours, and it resumes.")
        return table
