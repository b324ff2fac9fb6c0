"""The benchmark as one command: pre-train on every subset with every seed, fine-tune on every set, and compare.

Nothing is trained twice: pre-trainings and fine-tunings are kept below the output, named by the hash of their inputs.
"""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from curation.engine.connect import connect
from curation.options import require
from curation.store.directory import RunDirectory
from curation.store.filesystems import absolute
from training.datasets.prepared import PreparedSet
from training.evaluation.config import BenchmarkConfig, EvaluateConfig
from training.evaluation.pretrainings import at_once, pretrain_all, pretrainings
from training.evaluation.run import subject_of
from training.evaluation.runs import chosen_precision, evaluation_runs, record_precision, report_results, run_all
from training.evaluation.sets import find_sources, prepare_all
from training.loader.subset import read_subset
from training.pretraining.config import LENGTHS, LengthConfig
from training.pretraining.recipe import Recipe
from training.reporting import figures, markdown, results, style, tables
from training.reporting.comparisons import comparisons
from training.reporting.matrix import matrix
from training.segmentation.config import FinetuneConfig


def benchmark(
    config: BenchmarkConfig, evaluation: EvaluateConfig, recipe: Recipe, finetune: FinetuneConfig
) -> pa.Table:
    """Pre-train, fine-tune, test and compare; return the table of results (training/reporting/results.py).

    `recipe` says how to pre-train; its subset and output are not used. The encoder of each seed is fine-tuned with
    that seed. Leaves in `output` what `evaluate` does, the encoders below pretrain/, comparisons with random and full,
    and of tables 2, 3, 4 and figures 3, 4, 6 the ones that the results allow. A rerun does only what is missing.
    ValueError, before anything is trained: no such subset, set or folder, or invalid settings.
    """
    run, sources = RunDirectory(evaluation.output), find_sources(evaluation)
    require(
        run.filesystem.type_name == "local",
        f"output is {evaluation.output}, but encoders are kept as files; use a folder that all nodes can access",
    )
    subsets = [read_subset(absolute(folder)) for folder in config.subset]
    names = [subset.about["name"] for subset in subsets]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"several subsets are called {', '.join(twice)}; select them again under different names")
    connect()
    recipe = replace(recipe, compute=replace(recipe.compute, precision=chosen_precision(run, recipe.compute.precision)))
    finetune = replace(finetune, precision=chosen_precision(run, finetune.precision))
    lengths = lengths_of(recipe.length, config.more_lengths)
    planned = [one.recipe for subset in subsets for one in pretrainings(run, subset, recipe, lengths, evaluation.seeds)]
    planned[0].method()  # a model that cannot be built is reported before anything starts
    with run.lock():
        record_precision(run, finetune.precision)
        sets = prepare_all(run, sources, evaluation)
        pretrain_all(planned, at_once(recipe.compute.workers))
        runs = []
        for settings in planned:
            seeded = replace(finetune, seed=settings.what.seed)
            runs += evaluation_runs(
                [subject_of(settings.what.output, None)], sets, replace(evaluation, seeds=1), seeded
            )
        table = run_all(run, runs)
        compared = comparisons(table)
        report_results(run, table, evaluation, compared)
        for name, reason in (*missing_baselines(table, compared), *publish(run, table, sets)):
            print(f"no {name}: {reason}")
    return table


def lengths_of(given: LengthConfig, more: Sequence[float]) -> list[LengthConfig]:
    """A length and further ones in its unit, each once."""
    unit = next(name for name in LENGTHS if getattr(given, name) is not None)
    first = getattr(given, unit)
    return [replace(given, **{unit: length}) for length in dict.fromkeys((first, *map(type(first), more)))]


def missing_baselines(table: pa.Table, compared: Sequence[results.Row]) -> list[tuple[str, str]]:
    """Return the baselines that are not in the results, and what is not compared without them."""
    methods = {row["subset"]: row["method"] for row in table.to_pylist()}
    missing, full = [], any(method == "full" for method in methods.values())
    compared_with_random = {row["subset"] for row in compared if methods[row["against"]] == "random"}
    alone = sorted(
        name
        for name, method in methods.items()
        if method not in ("random", "full") and name not in compared_with_random
    )
    if alone:
        missing.append(("random baseline", f"no random subset has the size of {', '.join(alone)}; give one of each"))
    if not full:
        missing.append(("full baseline", "no subset holds the whole pool; select one with --d 1.0 --epsilon 2.0"))
    return missing


def dataset_row(one: PreparedSet) -> tables.DatasetRow:
    """The row of a set in table 2."""
    sizes = {part: len(rows) for part, rows in one.parts.items()}
    return tables.DatasetRow(name=one.name, images=len(one.names), left_out=len(one.left_out), split=one.split, **sizes)


def publish(run: RunDirectory, table: pa.Table, sets: Sequence[PreparedSet]) -> list[tuple[str, str]]:
    """Write the paper's tables and figures of our results; return the ones that could not be made, and why."""
    markdown.write_table(tables.datasets_table([dataset_row(one) for one in sets]), run, "table2")
    markdown.write_table(tables.ratio_table(table, with_published=True), run, "table3")
    final, missing = results.final_rows(table).to_pylist(), []
    same = [row for row in final if row["train_dataset"] == row["test_dataset"]]
    if any(row["ratio_nominal"] in tables.TABLE_4_RATIOS for row in same):
        markdown.write_table(tables.length_table(table), run, "table4")
    else:
        missing.append(("table4", "no subset's nominal ratio is 20 % or 33 %, or no set has a test part of its own"))
    for name, draw in (("figure3", figures.curves), ("figure4", figures.boxes)):
        try:
            style.write_figure(draw(table), run, name)
        except ValueError as error:
            missing.append((name, str(error)))
    if len({row[key] for row in final for key in ("train_dataset", "test_dataset")}) > 1:
        style.write_figure(matrix(table), run, "figure6")
    else:
        missing.append(("figure6", "it compares data sets, and there is only one; add --dataset or --external"))
    return missing
