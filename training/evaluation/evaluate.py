"""What pre-trained encoders are worth: every (encoder, data set, seed) fine-tuned and tested as a Ray task of its own.

A task's results are one file named by the hash of all that shapes them, so that a killed run does only what is
missing. They depend neither on the number of workers nor on the order in which tasks end.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import ray

from curation.console import progress
from curation.embeddings.encoder import about
from curation.embeddings.vectors import limit_threads
from curation.engine import resources
from curation.engine.chips import resolve_precision
from curation.engine.connect import connect
from curation.engine.stream import stream
from curation.options import option, require
from curation.store.directory import RunDirectory
from training.datasets import folders
from training.datasets.folders import Dataset
from training.datasets.prepared import PreparedSet, copies_told, prepare, with_near_copies
from training.evaluation.run import Subject, Trial, carry_out, subject_of
from training.reporting import results, tables
from training.reporting.comparisons import comparison_table, comparisons, measures, summary
from training.reporting.results import Row
from training.segmentation.finetune import FinetuneConfig
from training.segmentation.probes import load_encoder

ARITHMETIC = "arithmetic.json"
IDENTITY = ("subset", "method", "pretrain_epochs")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Whose worth is asked for."""

    encoder: tuple[str, ...] = option(
        "The output folder of a finished pre-training; or a weights file, or `random`, with --name. Give it again for "
        "more: each is compared with the first.",
        (),
    )
    name: str | None = option("The timm name of an encoder given as a weights file or `random`.", None)
    statistics: Literal["auto", "timm", "imagenet", "half", "clip"] = option(
        "Mean and deviation of the colours that the encoders expect. auto: those that come with the weights, else "
        "timm's for the name.",
        "auto",
    )

    def __post_init__(self) -> None:
        require(len(self.encoder) > 0, "no encoder given; name at least one with --encoder DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What encoders are tested on, and how."""

    output: str = option("Where results, pictures and decoded images go: a path or an object-storage URI.")
    dataset: tuple[str, ...] = option(
        "A set to train and test on, as NAME=DIR, or LABEL:NAME=DIR to call it otherwise (`python -m training "
        "datasets` lists the names; any folder of images and masks is `generic`). Give it again for more: what was "
        "trained on one is tested on all.",
        (),
    )
    external: tuple[str, ...] = option(
        "A set that is only tested on, all of it, as NAME=DIR. Repeatable.",
        (),
    )
    seeds: int = option("Runs of everything, with seeds that count up from --seed; a probe of an encoder runs once.", 3)
    probe: Literal["finetune", "linear", "knn"] = option(
        "Fine-tune; or, in seconds, a linear layer or the nearest neighbours on frozen tokens.", "finetune"
    )
    reading: Literal["nominal", "actual"] = option(
        "The ratio in NormDEL: the one of the paper's six that is near, as its values are made, or the actual one.",
        "nominal",
    )
    split_seed: int = option("Seed of the split of sets without an official one; the same for every run.", 0)
    decoded_size: int = option("Side in pixels of the squares that images are decoded to; IoU is measured there.", 256)
    test_every: int = option(
        "Also test after so many epochs, for curves and box plots (no result depends on it); 0: only at the end.", 1
    )

    mask_coding: Literal["auto", "binary", "classes", "alpha"] = option(
        "How masks of generic sets are coded. auto: as the values of all of them tell, and refused where they do not; "
        "binary: above half of white; classes: all but 0 and black; alpha: transparency.",
        "auto",
    )
    ignore_value: int | None = option(
        "The value in masks of generic sets that is neither learned from nor counted. Default: 255 beside classes.",
        None,
    )
    keep_models: bool = option(
        "Keep fine-tuned models below models/: a set that is named later is tested without fine-tuning again.", True
    )

    def __post_init__(self) -> None:
        require(len(self.dataset) > 0, "no data set given; name at least one with --dataset NAME=DIR")
        for name, least in (("seeds", 1), ("decoded_size", 16), ("test_every", 0), ("split_seed", 0)):
            value = getattr(self, name)
            require(value >= least, f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True)
class Source:
    """A set as asked for and found; `external` is only tested on."""

    label: str
    dataset: Dataset
    external: bool


def evaluate(encoders: EncoderConfig, config: EvaluateConfig, finetune: FinetuneConfig) -> pa.Table:
    """Fine-tune and test every encoder on every set with every seed; return the table (training.results.SCHEMA).

    Leaves in `output`: results.parquet, summary.md and .csv, measures.md and .csv (Dice, precision, recall and mIoU by
    each definition), with several encoders comparisons.md and .csv;
    results/ with a file a run, overlays/ with its best and worst predictions, models/ with what was fine-tuned, cache/
    with the decoded images.
    Prints mIoU and NormDEL. ValueError, before anything is trained: no such set, folder or encoder.
    """
    run, sources = RunDirectory(config.output), find_sources(config)
    subjects = [replace(subject_of(path, encoders.name), statistics=encoders.statistics) for path in encoders.encoder]
    check(subjects, finetune)
    connect()
    finetune = replace(finetune, precision=chosen_precision(run, finetune.precision))
    with run.lock():
        record_precision(run, finetune.precision)
        sets = prepare_all(run, sources, config)
        table = try_all(run, trials(subjects, sets, config, finetune))
        several = len(subjects) > 1
        report(run, table, config, comparisons(table, subjects[0].about["subset"]) if several else [])
    return table


def find_sources(config: EvaluateConfig) -> list[Source]:
    """Find all sets, reading names only. ValueError: one that is not there or not whole, or two of one label."""
    sources: list[Source] = []
    for texts, external in ((config.dataset, False), (config.external, True)):
        for text in texts:
            label, name, folder = named(text)
            sources.append(Source(label, folders.load(name, os.path.abspath(folder)), external))
    labels = [source.label for source in sources]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    require(not twice, f"several sets are called {', '.join(twice)}; tell them apart as LABEL:NAME=DIR")
    for source in sources:
        require(
            source.external or source.dataset.layout.part != "test",
            f"all of {source.label} is test, so nothing can be trained on it; give it with --external",
        )
    return sources


def named(text: str) -> tuple[str, str, str]:
    """The label, the set's name and its folder from NAME=DIR or LABEL:NAME=DIR. ValueError as datasets.parse says."""
    label, colon, rest = text.partition(":")
    own = bool(colon) and "=" not in label
    name, folder = folders.parse(rest if own else text)
    require(not own or bool(label), f"dataset {text!r} has no label before the colon; write LABEL:NAME=DIR")
    return label if own else name, name, folder


def check(subjects: Sequence[Subject], finetune: FinetuneConfig) -> None:
    """ValueError where an encoder cannot be loaded, or two would stand for one in the results."""
    seen: dict[tuple[Any, ...], str] = {}
    for subject in subjects:
        encoder = load_encoder(subject.source, finetune.image_size, subject.name, finetune.seed, subject.statistics)
        if told := about(encoder):
            print(f"{subject.about['subset']}: {told}", flush=True)
        key = tuple(subject.about[name] for name in IDENTITY)
        other = seen.setdefault(key, subject.source)
        require(
            other is subject.source,
            f"encoders {other} and {subject.source} would both be {key[0]!r} in the results, of one method and length; "
            "evaluate them into two outputs, or give the files other names",
        )


def prepare_all(run: RunDirectory, sources: Sequence[Source], config: EvaluateConfig) -> list[PreparedSet]:
    """Split and decode every set, each in a task; in the order of the sources. ValueError where a part is empty.

    Prints what is in no part of a set.
    """
    for folder in ("cache", "costs", "results", "models"):
        run.clear_temporary(folder)
    task, seed = ray.remote(prepare), config.split_seed
    asked = (config.mask_coding, config.ignore_value)
    calls = [(run, s.label, s.dataset, config.decoded_size, None if s.external else seed, asked) for s in sources]
    sets = []
    with progress("decode", len(calls), "set") as bar:
        for one in stream(task, calls, in_order=True):
            sets.append(one)
            bar.update()
    for source, one in zip(sources, sets, strict=True):
        lacking = [part for part in ("train", "validation") if not one.parts[part]]
        require(
            source.external or not lacking,
            f"{one.name} has no image for {' and '.join(lacking)}; give it more images, or test only, with --external",
        )
        for line in (*source.dataset.notes(), *one.notes()):
            print(line, flush=True)
    sets = with_near_copies(run, sets)
    for line in copies_told(sets):
        print(line, flush=True)
    require(any(one.parts["test"] for one in sets), "no set has a test part; give one with --external")
    return sets


def chosen_precision(run: RunDirectory, wanted: str) -> Any:
    """The arithmetic of all results of an output: for `auto` what its first call chose, on whatever chips."""
    if wanted == "auto" and run.exists(ARITHMETIC):
        return run.read_json(ARITHMETIC)["precision"]
    return resolve_precision(wanted, *resources.chips())


def record_precision(run: RunDirectory, precision: str) -> None:
    """Note what the first call of an output computes in, and on what."""
    if not run.exists(ARITHMETIC):
        run.write_json(ARITHMETIC, {"precision": precision, "device": resources.device_names()})


def trials(
    subjects: Iterable[Subject], sets: Sequence[PreparedSet], config: EvaluateConfig, finetune: FinetuneConfig
) -> list[Trial]:
    """Every trial of some encoders: each on each set to train on, with each seed; `finetune` names its arithmetic."""
    assert finetune.precision != "auto"
    seeds = range(finetune.seed, finetune.seed + (config.seeds if config.probe == "finetune" else 1))
    return [
        Trial(
            subject, one, tuple(sets), replace(finetune, seed=seed), config.probe, config.test_every, config.keep_models
        )
        for subject in subjects
        for one in sets
        if one.parts["train"]
        for seed in seeds
    ]


def try_all(run: RunDirectory, wanted: Sequence[Trial]) -> pa.Table:
    """Carry out the trials that have no file yet, each in a task, and return the rows of all in the trials' order."""
    there = set(run.names("results"))
    missing = [trial for trial in wanted if trial.path.rpartition("/")[2] not in there]
    task = ray.remote(carry_out_here).options(**resources.arithmetic_options())
    with progress("evaluate", len(wanted), "run", done=len(wanted) - len(missing)) as bar:
        for _ in stream(task, ((run, trial) for trial in missing)):
            bar.update()
    return results.checked(pa.concat_tables(run.read_table(trial.path) for trial in wanted))


def carry_out_here(run: RunDirectory, trial: Trial) -> str:
    """Carry out a trial on the device this task was granted."""
    limit_threads(resources.granted_cpus())
    return carry_out(run, trial, resources.device())


def report(run: RunDirectory, table: pa.Table, config: EvaluateConfig, compared: list[Row]) -> None:
    """Write results.parquet, the summary, all measures, and comparisons where there are any; print the short ones."""
    run.write_table("results.parquet", table)
    short = summary(table, config.reading)
    tables.write(short, run, "summary")
    tables.write(measures(table), run, "measures")
    print(short.markdown)
    if compared:
        against = comparison_table(compared)
        tables.write(against, run, "comparisons")
        print(against.markdown)
    print(f"results: {run.uri}")
