"""A sweep: configurations to subsets, each trained and evaluated as a trial of Ray Tune, and what came of it."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from curation.engine import resources
from curation.engine.connect import connect
from curation.options import require
from curation.store.directory import RunDirectory
from training.datasets.prepared import PreparedSet
from training.evaluation.sets import find_sources, prepare_all
from training.evaluation.trials import chosen_precision, record_precision
from training.pretraining.weights import located
from tune import results
from tune.course import Course, Sweep
from tune.resources import Shares, shares
from tune.subsets import Chooser
from tune.trial import FOLDER, Job


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
    connect()
    what = settled(what, run)
    asked = (what.config.gpus_per_trial, what.config.cpus_per_trial, what.config.max_concurrent)
    share = shares(resources.count("CPU"), resources.count("GPU"), *asked)
    chooser = Chooser(what.config.run_dir, run.address, what.space.same)
    chooser.pool()
    with run.lock(), RunDirectory(what.config.run_dir).lock():
        sets = prepare_all(run, sources, what.evaluation)
        run.clear_temporary(FOLDER)
        record_precision(run, what.finetune.precision)
        course = Course(what, job_of(what, share, sets), share.trials, chooser)
        course.choose()
        course.forecast()
        if what.config.plan_only:
            return results.table_of(course.rows())
        course.search()
        return course.finish()


def settled(what: Sweep, run: RunDirectory) -> Sweep:
    """The sweep with its arithmetic named: one for all trials and calls."""
    compute, finetune = what.recipe.compute, what.finetune
    compute = replace(compute, precision=chosen_precision(run, compute.precision))
    finetune = replace(finetune, precision=chosen_precision(run, finetune.precision))
    return replace(what, recipe=replace(what.recipe, compute=compute), finetune=finetune)


def job_of(what: Sweep, share: Shares, sets: Sequence[PreparedSet]) -> Job:
    """What all trials share. Its paths hold wherever a trial's process has its working directory."""
    recipe = replace(
        what.recipe,
        what=replace(what.recipe.what, init=located(what.recipe.what.init)),
        compute=replace(what.recipe.compute, workers=share.workers, cpus=share.cpus),
    )
    output, devices = RunDirectory(what.evaluation.output).address, max(1, share.gpus)
    return Job(output, recipe, what.evaluation, what.finetune, tuple(sets), what.halving, what.question, devices)
