"""The runs of an evaluation as Ray tasks, one per encoder, data set and seed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from curation.console import progress
from curation.embeddings.encoder import about
from curation.embeddings.vectors import limit_threads
from curation.engine import resources
from curation.engine.chips import resolve_precision
from curation.engine.stream import stream
from curation.engine.tasks import arithmetic_task
from curation.options import require
from curation.store.directory import RunDirectory
from training.datasets.prepared import PreparedSet
from training.evaluation.config import EvaluateConfig
from training.evaluation.run import EvaluationRun, Subject, carry_out_run
from training.reporting import markdown, results
from training.reporting.comparisons import comparison_table, measures, summary_table
from training.reporting.results import Row
from training.segmentation.config import FinetuneConfig
from training.segmentation.tokens import load_encoder

ARITHMETIC = "arithmetic.json"
IDENTITY = ("subset", "method", "pretrain_epochs")


def check_subjects(subjects: Sequence[Subject], finetune: FinetuneConfig) -> None:
    """ValueError where an encoder cannot be loaded, or two would have the same name in the results."""
    seen: dict[tuple[Any, ...], str] = {}
    for subject in subjects:
        encoder = load_encoder(subject.source, finetune.image_size, subject.name, finetune.seed, subject.statistics)
        if note := about(encoder):
            print(f"{subject.about['subset']}: {note}", flush=True)
        key = tuple(subject.about[name] for name in IDENTITY)
        other = seen.setdefault(key, subject.source)
        require(
            other is subject.source,
            f"encoders {other} and {subject.source} would both be {key[0]!r} in the results, of one method and length; "
            "evaluate them into two outputs, or rename the files",
        )


def chosen_precision(run: RunDirectory, requested: str) -> Any:
    """The precision of all results of an output: for `auto` what its first call chose, on whatever chips."""
    if requested == "auto" and run.exists(ARITHMETIC):
        return run.read_json(ARITHMETIC)["precision"]
    return resolve_precision(requested, *resources.chips())


def record_precision(run: RunDirectory, precision: str) -> None:
    """Record the precision and device of the first call of an output."""
    if not run.exists(ARITHMETIC):
        run.write_json(ARITHMETIC, {"precision": precision, "device": resources.device_names()})


def evaluation_runs(
    subjects: Iterable[Subject], sets: Sequence[PreparedSet], config: EvaluateConfig, finetune: FinetuneConfig
) -> list[EvaluationRun]:
    """Every run of some encoders: on each set to train on, with each seed; `finetune` states its precision."""
    assert finetune.precision != "auto"
    seeds = range(finetune.seed, finetune.seed + (config.seeds if config.probe == "finetune" else 1))
    return [
        EvaluationRun(
            subject, one, tuple(sets), replace(finetune, seed=seed), config.probe, config.test_every, config.keep_models
        )
        for subject in subjects
        for one in sets
        if one.parts["train"]
        for seed in seeds
    ]


def run_all(run: RunDirectory, jobs: Sequence[EvaluationRun]) -> pa.Table:
    """Carry out the runs that have no file yet, each in a task, and return the rows of all in order."""
    done = set(run.names("results"))
    missing = [job for job in jobs if job.results_path.rpartition("/")[2] not in done]
    task = arithmetic_task(carry_out_here, "fine-tuning")
    with progress("evaluate", len(jobs), "run", done=len(jobs) - len(missing)) as bar:
        for _ in stream(task, ((run, job) for job in missing)):
            bar.update()
    return results.checked(pa.concat_tables(run.read_table(job.results_path) for job in jobs))


def carry_out_here(run: RunDirectory, job: EvaluationRun) -> str:
    """Carry out a run on the device this task was granted."""
    limit_threads(resources.granted_cpus())
    return carry_out_run(run, job, resources.device())


def report_results(run: RunDirectory, table: pa.Table, config: EvaluateConfig, compared: list[Row]) -> None:
    """Write results.parquet, the summary, all measures, and comparisons where there are any; print the short ones."""
    run.write_table("results.parquet", table)
    short = summary_table(table, config.reading)
    markdown.write_table(short, run, "summary")
    markdown.write_table(measures(table), run, "measures")
    print(short.markdown)
    if compared:
        against = comparison_table(compared)
        markdown.write_table(against, run, "comparisons")
        print(against.markdown)
    print(f"results: {run.uri}")
