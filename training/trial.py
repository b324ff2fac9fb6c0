"""One encoder tried on one data set with one seed and tested: arrays in, a file of results and pictures out. No engine.

A trial's file is named by the hash of all it depends on, so what exists need not be done again.

Legend: rows are places among a set's examples, sorted by name.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer

from curation.config import digest, hashed_fields, require
from curation.encoder import UNTRAINED
from curation.store import RunDirectory
from training import metrics, results
from training.normdel import nominal_ratio
from training.overlays import overlay_sheet
from training.prepared import PreparedSet, Rows, pairs
from training.probe import encode, linear_probe, load_encoder, neighbour_probe
from training.segment import Epoch, FinetuneConfig, Pairs, finetune, predict

VERSION = 3  # raised whenever the same inputs would give other results
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


@dataclass(frozen=True)
class Trial:
    """What is tried. `config` holds the seed; `test_every` is 0 or the epochs between two points of the curve."""

    subject: Subject
    train: PreparedSet
    tests: tuple[PreparedSet, ...]
    config: FinetuneConfig
    way: Way
    test_every: int

    def tested(self) -> list[tuple[PreparedSet, Rows]]:
        """Each set tested on, with its rows: those of its test part without copies of what was trained on."""
        left = [(one, one.test_rows(self.train)) for one in self.tests]
        return [(one, rows) for one, rows in left if rows]

    @property
    def digest(self) -> str:
        """The hash of everything that shapes the result."""
        return digest(
            {
                "version": VERSION,
                "encoder": [self.subject.sha256, self.subject.name, self.subject.about],
                "trained": [self.train.mark(self.train.parts[part]) for part in ("train", "validation")],
                "tested": [one.mark(rows) for one, rows in self.tested()],
                "config": hashed_fields(self.config),
                "way": [self.way, self.test_every],
            }
        )

    @property
    def path(self) -> str:
        """Where its rows are kept below the output."""
        return f"results/{self.digest}.parquet"

    def picture(self, test: PreparedSet) -> str:
        """Where the best and worst predictions on a set are kept below the output."""
        names = (self.subject.about["subset"], self.train.name, test.name, f"seed{self.config.seed}", self.digest[:8])
        return f"overlays/{re.sub(r'[^A-Za-z0-9._-]+', '_', '-'.join(names))}.png"


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
        return Subject(str(folder.absolute()), name, file_hash(folder), about)
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


def carry_out(run: RunDirectory, trial: Trial, device: str) -> str:
    """Do a trial and keep its rows (training.results.SCHEMA) and pictures; return the path of the rows.

    ValueError: no lesion to learn from, weights that do not fit, a loss that is no number.
    """
    chosen = trial.config
    encoder = load_encoder(trial.subject.source, chosen.image_size, trial.subject.name, chosen.seed)
    train = pairs(run, trial.train, trial.train.parts["train"])
    tests = [(one, rows, pairs(run, one, rows)) for one, rows in trial.tested()]
    own = next((test for one, _, test in tests if one.name == trial.train.name), None)
    if trial.way == "finetune":
        validation = pairs(run, trial.train, trial.train.parts["validation"])
        every = trial.test_every if own is not None else 0
        epoch, curve, predictor = learn(finetune(encoder, train, validation, chosen, device), own, every)
    else:
        epoch, curve, predictor = 0, [], probing(encoder.to(device), train, trial)
    made: list[results.Row] = []
    for one, rows, test in tests:
        found = predictor(test.images)
        final = results.measured(metrics.count(found, test.masks)) | {"epoch": epoch, "final": True}
        others = [row for row in curve if row["epoch"] != epoch] if test is own else []
        ordered = sorted((*others, final), key=lambda row: int(row["epoch"]))
        names = {"train_dataset": trial.train.name, "test_dataset": one.name, "seed": chosen.seed}
        made += [trial.subject.about | names | row for row in ordered]
        ious, called = np.asarray(final["image_iou"]), [one.names[row] for row in rows]
        sheet = overlay_sheet(test.images, test.masks, found, ious, BEST_AND_WORST, called)
        run.write_bytes(trial.picture(one), sheet)
    run.write_table(trial.path, results.table(made))
    return trial.path


def learn(epochs: Iterator[Epoch], test: Pairs | None, every: int) -> tuple[int, list[results.Row], Predictor]:
    """Fine-tune to the end: the epoch of the best validation IoU (the first of equals), the curve, a predictor.

    The curve has a row of scores on `test` after each `every` epochs, none where `every` is 0; it decides nothing.
    """
    best_iou, best_epoch, curve = -1.0, 0, []
    for epoch in epochs:
        model = epoch.model
        if epoch.metrics["validation_iou"] > best_iou:
            best_iou, best_epoch = epoch.metrics["validation_iou"], epoch.number
        if test is not None and every and epoch.number % every == 0:
            scores = metrics.summarise(metrics.count(predict(model, test.images), test.masks))
            known = {name: scores[name] for name in results.MEASURES if name in scores}
            curve.append({"images": len(test.images), "epoch": epoch.number, "final": False, **known})
    return best_epoch, curve, partial(predict, model)


def probing(encoder: VisionTransformer, train: Pairs, trial: Trial) -> Predictor:
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
