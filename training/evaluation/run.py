"""One encoder fine-tuned or probed on one set with one seed, and tested: arrays in, results out. It knows no engine.

A run's file is named by the hash of its inputs, so what exists need not be done again.

Legend: rows are indices of a set's examples, sorted by name.
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
from training.datasets.prepared import Pairs, PreparedSet, RowNumbers, pairs
from training.evaluation.finetuned import FinetunedModel, FinetuneTask, finetune_task, load_model, save_model
from training.metrics import iou
from training.metrics.normdel import nominal_ratio
from training.reporting import results
from training.segmentation.config import FinetuneConfig
from training.segmentation.model import predict
from training.segmentation.outlines import outline_sheet
from training.segmentation.probes import linear_probe, neighbour_probe
from training.segmentation.tokens import encode, load_encoder

VERSION = 4  # increase whenever the same inputs would give other results
DROPPED = ("outlier", "duplicate", "over budget")  # why a usable frame is not in a subset
BEST_AND_WORST = 3  # images of each that a picture shows

UInt8 = npt.NDArray[np.uint8]
ProbeName = Literal["finetune", "linear", "knn"]
Predictor = Callable[[UInt8], UInt8]


@dataclass(frozen=True)
class Subject:
    """An encoder: where its weights are, their hash, and the columns of results that describe its pre-training."""

    source: str
    name: str | None
    sha256: str
    about: dict[str, Any]
    statistics: str = "auto"  # see EmbedConfig


@dataclass(frozen=True)
class EvaluationRun:
    """Encoder, sets and settings of a run.

    `config` holds the seed; `test_every` is 0 or the epochs between two points of the curve; `keep_model` says whether
    a fine-tuned model is kept.
    """

    subject: Subject
    train: PreparedSet
    tests: tuple[PreparedSet, ...]
    config: FinetuneConfig
    probe: ProbeName
    test_every: int
    keep_model: bool = True

    def test_sets(self) -> list[tuple[PreparedSet, RowNumbers]]:
        """Each set with its test rows, without copies of training and validation images; none without rows."""
        found = [(one, one.test_rows(self.train)) for one in self.tests]
        return [(one, rows) for one, rows in found if rows]

    @property
    def training_inputs(self) -> dict[str, Any]:
        """Everything that the trained model depends on."""
        return {
            "version": VERSION,
            "encoder": [self.subject.sha256, self.subject.name, self.subject.statistics],
            "trained": [self.train.fingerprint(self.train.parts[part]) for part in ("train", "validation")],
            "config": hashed_fields(self.config),
            "way": [self.probe, self.test_every],
        }

    @property
    def model_name(self) -> str:
        """The name of the fine-tuned model: the hash of everything that it and its curve depend on."""
        own = [
            one.fingerprint(rows) for one, rows in self.test_sets() if one.name == self.train.name and self.test_every
        ]
        return digest(self.training_inputs | {"own": own})

    @property
    def digest(self) -> str:
        """The hash of everything that the result depends on."""
        tested = [one.fingerprint(rows) for one, rows in self.test_sets()]
        return digest(self.training_inputs | {"tested": tested, "about": self.subject.about})

    @property
    def results_path(self) -> str:
        """Where its rows are kept below the output."""
        return f"results/{self.digest}.parquet"

    @property
    def cost_path(self) -> str:
        """Where its device-hours are kept: apart from its rows, which do not depend on them."""
        return f"costs/{self.digest}.json"

    def picture_path(self, test: PreparedSet) -> str:
        """Where the best and worst predictions on a set are kept below the output."""
        names = (self.subject.about["subset"], self.train.name, test.name, f"seed{self.config.seed}")
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(names))[:200]  # names may be long, and equal after this
        return f"outlines/{readable}-{digest([self.digest, test.name])[:8]}.png"


def subject_of(source: str, name: str | None) -> Subject:
    """Find an encoder (see training/segmentation/tokens.py), and its pre-training by its card, if it has one.

    A pre-trained folder's method is its subset's, or `full` where only exact copies and unusable frames were dropped.
    ValueError where the folder is not a finished pre-training.
    """
    folder = Path(source)
    unknown: dict[str, Any] = dict.fromkeys(("ratio_nominal", "ratio_actual", "pretrain_epochs"))
    if source == UNTRAINED:
        return Subject(source, name, UNTRAINED, {"subset": f"untrained {name}", "method": "untrained"} | unknown)
    if not folder.is_dir():
        require(
            folder.is_file(), f"encoder {source} is neither a folder, nor a file, nor `{UNTRAINED}`; check the path"
        )
        about = {"subset": folder.stem, "method": "weights"} | unknown
        recorded = statistics_beside(str(folder.absolute()))  # statistics that are not in the file itself
        sha256 = file_hash(folder)
        return Subject(str(folder.absolute()), name, digest([sha256, recorded]) if recorded else sha256, about)
    require(
        (folder / "card.json").is_file() and (folder / "encoder.safetensors").is_file(),
        f"{source} has no encoder.safetensors with a card.json; use the output folder of a finished "
        "`python -m training pretrain`",
    )
    card = json.loads((folder / "card.json").read_text())
    data = card["data"]
    about = {
        "subset": data["subset"],
        "method": data["selection"]["method"] if any(data["counts"][reason] for reason in DROPPED) else "full",
        "ratio_nominal": nominal_ratio(data["ratio"]),
        "ratio_actual": data["ratio"],
        "pretrain_epochs": card["cost"]["epochs"],
    }
    return Subject(str(folder.absolute()), None, file_hash(folder / "encoder.safetensors"), about)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def carry_out_run(run: RunDirectory, job: EvaluationRun, device: str) -> str:
    """Carry out a run, keep its model, rows (training/reporting/results.py), pictures and cost; return the rows' path.

    ValueError: no lesion in the training masks, weights that do not fit, a loss that is not finite.
    """
    chosen, watch = job.config, Stopwatch()
    encoder = load_encoder(job.subject.source, chosen.image_size, job.subject.name, chosen.seed, job.subject.statistics)
    train = pairs(run, job.train, job.train.parts["train"])
    tests = [(one, rows, pairs(run, one, rows)) for one, rows in job.test_sets()]
    own = next((test for one, _, test in tests if one.name == job.train.name), None)
    epoch, curve = 0, list[results.Row]()
    predictor: Predictor
    if job.probe == "finetune":
        task = FinetuneTask(train, pairs(run, job.train, job.train.parts["validation"]), own, job.test_every)
        found = finetuned_model(run, job, encoder, task, device)
        epoch, curve = found.best_epoch, found.curve
        predictor = partial(predict, found.model)
    else:
        predictor = probing(encoder.to(device), train, job)
    made: list[results.Row] = []
    for one, rows, test in tests:
        masks = predictor(test.images)
        final = results.measures_of(iou.confusion_counts(masks, test.masks, ignored=IGNORED)) | {
            "epoch": epoch,
            "final": True,
        }
        others = [row for row in curve if row["epoch"] != epoch] if test is own else []
        ordered = sorted((*others, final), key=lambda row: int(row["epoch"]))
        names = {"train_dataset": job.train.name, "test_dataset": one.name, "seed": chosen.seed}
        made += [job.subject.about | names | row for row in ordered]
        ious, image_names = np.asarray(final["image_iou"]), [one.names[row] for row in rows]
        sheet = outline_sheet(test.images, test.masks, masks, ious, BEST_AND_WORST, image_names)
        run.write_bytes(job.picture_path(one), sheet)
    run.write_json(job.cost_path, {"device_hours": watch.seconds / 3600, "device": chip(device).name})
    run.write_table(job.results_path, results.as_table(made))
    return job.results_path


def finetuned_model(
    run: RunDirectory, job: EvaluationRun, encoder: VisionTransformer, task: FinetuneTask, device: str
) -> FinetunedModel:
    """Load the fine-tuned model that is kept, or fine-tune now."""
    found = load_model(run, job.model_name, encoder, job.config, device)
    if found is None:
        found = finetune_task(encoder, task, job.config, device)
        if job.keep_model:
            save_model(run, job.model_name, found)
    return found


def probing(encoder: VisionTransformer, train: Pairs, job: EvaluationRun) -> Predictor:
    """Return a probe of frozen tokens as a predictor; the tokens of the training part are computed once, here."""
    precision = job.config.precision
    assert precision != "auto"
    known = torch.cat(list(encode(encoder, train.images, precision)))

    def predicted(images: UInt8) -> UInt8:
        tokens, side = torch.cat(list(encode(encoder, images, precision))), images.shape[1]
        if job.probe == "linear":
            return linear_probe(known, train.masks, tokens, side)
        return neighbour_probe(known, train.masks, tokens, side)

    return predicted
