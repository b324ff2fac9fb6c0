"""One encoder tried on one data set with one seed and tested: arrays in, a file of results and pictures out. No engine.

A trial's file is named by the hash of all it depends on, so what exists need not be done again.

Legend: rows are places among a set's examples, sorted by name.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer

from curation.console import Stopwatch
from curation.embeddings.checkpoints import statistics_beside
from curation.embeddings.encoder import UNTRAINED
from curation.engine.chips import chip
from curation.options import digest, hashed_fields, require
from curation.store.directory import RunDirectory
from training.datasets.codings import IGNORED
from training.datasets.prepared import Pairs, PreparedSet, Rows, pairs
from training.evaluation import finetuned as learned
from training.evaluation.finetuned import FinetunedModel, FinetuneTask
from training.metrics import iou
from training.metrics.normdel import nominal_ratio
from training.reporting import results
from training.segmentation.config import FinetuneConfig
from training.segmentation.model import predict
from training.segmentation.outlines import outline_sheet
from training.segmentation.probes import linear_probe, neighbour_probe
from training.segmentation.tokens import encode, load_encoder

VERSION = 4  # raised whenever the same inputs would give other results
UNCHOSEN = ("outlier", "duplicate", "over budget")  # why a frame that can be used is not in a subset
BEST_AND_WORST = 3  # images a picture shows of each

UInt8 = npt.NDArray[np.uint8]
Way = Literal["finetune", "linear", "knn"]
Predictor = Callable[[UInt8], UInt8]


@dataclass(frozen=True)
class Subject:
    """An encoder: where its weights are, their hash, and what its rows of results say of its pre-training."""

    source: str
    name: str | None
    sha256: str
    about: dict[str, Any]
    statistics: str = "auto"  # see EmbedConfig


@dataclass(frozen=True)
class EvaluationRun:
    """What is tried. `config` holds the seed; `test_every` is 0 or the epochs between two points of the curve.

    A fine-tuned model is kept where `keep` says so.
    """

    subject: Subject
    train: PreparedSet
    tests: tuple[PreparedSet, ...]
    config: FinetuneConfig
    way: Way
    test_every: int
    keep: bool = True

    def tested(self) -> list[tuple[PreparedSet, Rows]]:
        """Each set tested on, with its rows: those of its test part without copies of what was trained on."""
        left = [(one, one.test_rows(self.train)) for one in self.tests]
        return [(one, rows) for one, rows in left if rows]

    @property
    def learning(self) -> dict[str, Any]:
        """Everything that shapes what is learned."""
        return {
            "version": VERSION,
            "encoder": [self.subject.sha256, self.subject.name, self.subject.statistics],
            "trained": [self.train.mark(self.train.parts[part]) for part in ("train", "validation")],
            "config": hashed_fields(self.config),
            "way": [self.way, self.test_every],
        }

    @property
    def model(self) -> str:
        """The name of the fine-tuned model, the hash of everything that shapes it and its curve."""
        own = [one.mark(rows) for one, rows in self.tested() if one.name == self.train.name and self.test_every]
        return digest(self.learning | {"own": own})

    @property
    def digest(self) -> str:
        """The hash of everything that shapes the result."""
        tested = [one.mark(rows) for one, rows in self.tested()]
        return digest(self.learning | {"tested": tested, "about": self.subject.about})

    @property
    def path(self) -> str:
        """Where its rows are kept below the output."""
        return f"results/{self.digest}.parquet"

    @property
    def cost(self) -> str:
        """Where the device-hours it took are kept: beside its rows, which are the same whatever it took."""
        return f"costs/{self.digest}.json"

    def picture(self, test: PreparedSet) -> str:
        """Where the best and worst predictions on a set are kept below the output."""
        names = (self.subject.about["subset"], self.train.name, test.name, f"seed{self.config.seed}")
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(names))[:200]  # names may be long, and alike in this
        return f"overlays/{readable}-{digest([self.digest, test.name])[:8]}.png"


def subject_of(source: str, name: str | None) -> Subject:
    """Find an encoder (see training.probe.load_encoder) and tell its pre-training from its card, if it has one.

    A pre-trained folder's method is its subset's, or `full` where nothing was dropped but exact copies and frames that
    cannot be used. ValueError where the folder is not a finished pre-training.
    """
    folder = Path(source)
    unknown: dict[str, Any] = dict.fromkeys(("ratio_nominal", "ratio_actual", "pretrain_epochs"))
    if source == UNTRAINED:
        return Subject(source, name, UNTRAINED, {"subset": f"untrained {name}", "method": "untrained"} | unknown)
    if not folder.is_dir():
        require(folder.is_file(), f"encoder {source} is no folder, no file and not `{UNTRAINED}`; check the path")
        about = {"subset": folder.stem, "method": "weights"} | unknown
        recorded = statistics_beside(str(folder.absolute()))  # statistics that are not in the file itself
        sha256 = file_hash(folder)
        return Subject(str(folder.absolute()), name, digest([sha256, recorded]) if recorded else sha256, about)
    require(
        (folder / "card.json").is_file() and (folder / "encoder.safetensors").is_file(),
        f"{source} has no encoder.safetensors with a card.json; give the output folder of a finished "
        "`python -m training pretrain`",
    )
    card = json.loads((folder / "card.json").read_text())
    data = card["data"]
    about = {
        "subset": data["subset"],
        "method": data["selection"]["method"] if any(data["counts"][reason] for reason in UNCHOSEN) else "full",
        "ratio_nominal": nominal_ratio(data["ratio"]),
        "ratio_actual": data["ratio"],
        "pretrain_epochs": card["cost"]["epochs"],
    }
    return Subject(str(folder.absolute()), None, file_hash(folder / "encoder.safetensors"), about)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def carry_out_run(run: RunDirectory, trial: EvaluationRun, device: str) -> str:
    """Do a trial and keep its model, rows (training.results.SCHEMA), pictures and cost; return the path of the rows.

    ValueError: no lesion to learn from, weights that do not fit, a loss that is no number.
    """
    chosen, watch = trial.config, Stopwatch()
    encoder = load_encoder(
        trial.subject.source, chosen.image_size, trial.subject.name, chosen.seed, trial.subject.statistics
    )
    train = pairs(run, trial.train, trial.train.parts["train"])
    tests = [(one, rows, pairs(run, one, rows)) for one, rows in trial.tested()]
    own = next((test for one, _, test in tests if one.name == trial.train.name), None)
    epoch, curve = 0, list[results.Row]()
    predictor: Predictor
    if trial.way == "finetune":
        lesson = FinetuneTask(train, pairs(run, trial.train, trial.train.parts["validation"]), own, trial.test_every)
        found = finetuned(run, trial, encoder, lesson, device)
        epoch, curve = found.epoch, found.curve
        predictor = partial(predict, found.model)
    else:
        predictor = probing(encoder.to(device), train, trial)
    made: list[results.Row] = []
    for one, rows, test in tests:
        masks = predictor(test.images)
        final = results.measured_columns(iou.confusion_counts(masks, test.masks, ignored=IGNORED)) | {
            "epoch": epoch,
            "final": True,
        }
        others = [row for row in curve if row["epoch"] != epoch] if test is own else []
        ordered = sorted((*others, final), key=lambda row: int(row["epoch"]))
        names = {"train_dataset": trial.train.name, "test_dataset": one.name, "seed": chosen.seed}
        made += [trial.subject.about | names | row for row in ordered]
        ious, called = np.asarray(final["image_iou"]), [one.names[row] for row in rows]
        sheet = outline_sheet(test.images, test.masks, masks, ious, BEST_AND_WORST, called)
        run.write_bytes(trial.picture(one), sheet)
    run.write_json(trial.cost, {"device_hours": watch.seconds / 3600, "device": chip(device).name})
    run.write_table(trial.path, results.as_table(made))
    return trial.path


def finetuned(
    run: RunDirectory, trial: EvaluationRun, encoder: VisionTransformer, lesson: FinetuneTask, device: str
) -> FinetunedModel:
    """The fine-tuned model that is kept, or that is made now."""
    found = learned.load_model(run, trial.model, encoder, trial.config, device)
    if found is None:
        found = learned.finetune_task(encoder, lesson, trial.config, device)
        if trial.keep:
            learned.save_model(run, trial.model, found)
    return found


def probing(encoder: VisionTransformer, train: Pairs, trial: EvaluationRun) -> Predictor:
    """Return a predictor that is a probe of frozen tokens; those of the training part are made once, here."""
    precision = trial.config.precision
    assert precision != "auto"
    known = torch.cat(list(encode(encoder, train.images, precision)))

    def found(images: UInt8) -> UInt8:
        asked, side = torch.cat(list(encode(encoder, images, precision))), images.shape[1]
        if trial.way == "linear":
            return linear_probe(known, train.masks, asked, side)
        return neighbour_probe(known, train.masks, asked, side)

    return found
