"""How good pre-trained encoders are: every (encoder, data set, seed) fine-tuned and tested in its own Ray task.

A task's results are one file named by the hash of its inputs, so a rerun does only what is missing. They depend neither
on the number of workers nor on the order in which tasks end.
"""

from dataclasses import replace

import pyarrow as pa

from curation.engine.connect import connect
from curation.store.directory import RunDirectory
from training.evaluation.config import EncoderConfig, EvaluateConfig
from training.evaluation.run import subject_of
from training.evaluation.runs import (
    check_subjects,
    chosen_precision,
    evaluation_runs,
    record_precision,
    report_results,
    run_all,
)
from training.evaluation.sets import find_sources, prepare_all
from training.reporting.comparisons import comparisons
from training.segmentation.config import FinetuneConfig


def evaluate(encoders: EncoderConfig, config: EvaluateConfig, finetune: FinetuneConfig) -> pa.Table:
    """Fine-tune and test every encoder on every set with every seed; return the table (training/reporting/results.py).

    Leaves in `output`: results.parquet, summary.md and .csv, measures.md and .csv (Dice, precision, recall and mIoU by
    each definition), with several encoders comparisons.md and .csv; results/ with one file per run, outlines/ with its
    best and worst predictions, models/ with the fine-tuned models, cache/ with the decoded images.
    Prints mIoU and NormDEL. ValueError, before anything is trained: no such set, folder or encoder.
    """
    run, sources = RunDirectory(config.output), find_sources(config)
    subjects = [replace(subject_of(path, encoders.name), statistics=encoders.statistics) for path in encoders.encoder]
    check_subjects(subjects, finetune)
    connect()
    finetune = replace(finetune, precision=chosen_precision(run, finetune.precision))
    with run.lock():
        record_precision(run, finetune.precision)
        sets = prepare_all(run, sources, config)
        table = run_all(run, evaluation_runs(subjects, sets, config, finetune))
        several = len(subjects) > 1
        report_results(run, table, config, comparisons(table, subjects[0].about["subset"]) if several else [])
    return table
