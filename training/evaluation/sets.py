"""The data sets of an evaluation: found by name, and prepared in Ray tasks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from curation.console import progress
from curation.engine.stream import stream
from curation.engine.tasks import Task
from curation.options import require
from curation.store.directory import RunDirectory
from training.datasets import folders
from training.datasets.folders import Dataset
from training.datasets.prepared import PreparedSet, copy_notes, prepare_set, with_near_copies
from training.evaluation.config import EvaluateConfig


@dataclass(frozen=True)
class NamedSet:
    """A set as named and found; `external` is only tested on."""

    label: str
    dataset: Dataset
    external: bool


def find_sources(config: EvaluateConfig) -> list[NamedSet]:
    """Find all sets, reading names only. ValueError: a missing or incomplete one, or two of one label."""
    sources: list[NamedSet] = []
    for texts, external in ((config.dataset, False), (config.external, True)):
        for text in texts:
            label, name, folder = parse_label(text)
            sources.append(NamedSet(label, folders.find_dataset(name, os.path.abspath(folder)), external))
    labels = [source.label for source in sources]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    require(not twice, f"several sets are called {', '.join(twice)}; name them apart, as LABEL:NAME=DIR")
    for source in sources:
        require(
            source.external or source.dataset.layout.part != "test",
            f"all of {source.label} is test, so nothing can be trained on it; use --external for it",
        )
    return sources


def parse_label(text: str) -> tuple[str, str, str]:
    """The label, the set's name and its folder from NAME=DIR or LABEL:NAME=DIR. ValueError as `parse_dataset` says."""
    label, colon, rest = text.partition(":")
    own = bool(colon) and "=" not in label
    name, folder = folders.parse_dataset(rest if own else text)
    require(not own or bool(label), f"dataset {text!r} has no label before the colon; write LABEL:NAME=DIR")
    return label if own else name, name, folder


def prepare_all(run: RunDirectory, sources: Sequence[NamedSet], config: EvaluateConfig) -> list[PreparedSet]:
    """Split and decode every set, each in a task; in the order of the sources. ValueError where a part is empty.

    Prints which images are in no part of a set.
    """
    for folder in ("cache", "costs", "results", "models"):
        run.clear_temporary(folder)
    task, seed = Task(prepare_set, "decoding"), config.split_seed
    mask_coding = (config.mask_coding, config.ignore_value)
    calls = [(run, s.label, s.dataset, config.decoded_size, None if s.external else seed, mask_coding) for s in sources]
    sets = []
    with progress("decode", len(calls), "set") as bar:
        for one in stream(task, calls, in_order=True):
            sets.append(one)
            bar.update()
    for source, one in zip(sources, sets, strict=True):
        lacking = [part for part in ("train", "validation") if not one.parts[part]]
        require(
            source.external or not lacking,
            f"{one.name} has no image for {' and '.join(lacking)}; add images, or only test on it, with --external",
        )
        for line in (*source.dataset.notes(), *one.notes()):
            print(line, flush=True)
    sets = with_near_copies(run, sets)
    for line in copy_notes(sets):
        print(line, flush=True)
    require(any(one.parts["test"] for one in sets), "no set has a test part; add one with --external")
    return sets
