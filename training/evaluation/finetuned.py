"""Fine-tuned models and where they are kept: a set that is named later is tested without fine-tuning again. No engine.

Below models/ a model is HASH.safetensors, and HASH.json, written last: the epoch it is of and its curve.
"""

from dataclasses import dataclass

from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from timm.models.vision_transformer import VisionTransformer

from curation.store.directory import RunDirectory
from training.datasets.codings import IGNORED
from training.datasets.prepared import Pairs
from training.metrics import iou
from training.reporting import results
from training.segmentation.config import FinetuneConfig
from training.segmentation.finetune import finetune
from training.segmentation.model import SegmentationModel, predict

FOLDER = "models"


@dataclass(frozen=True)
class FinetunedModel:
    """A fine-tuned model, the epoch of its best validation IoU (the first of equals), and rows of its curve."""

    model: SegmentationModel
    epoch: int
    curve: list[results.Row]


@dataclass(frozen=True)
class FinetuneTask:
    """What a model learns from and is stopped by. `own` is the test part of the same set, tested every few epochs."""

    train: Pairs
    validation: Pairs
    own: Pairs | None
    every: int


def finetune_task(
    encoder: VisionTransformer, lesson: FinetuneTask, config: FinetuneConfig, device: str
) -> FinetunedModel:
    """Fine-tune to the end.

    The curve has a row of scores on the own test part after each `every` epochs, none where that is 0; it decides
    nothing. ValueError: no lesion to learn from, a loss that is no number.
    """
    best_iou, best_epoch, curve, own = -1.0, 0, list[results.Row](), lesson.own
    for epoch in finetune(encoder, lesson.train, lesson.validation, config, device):
        model = epoch.model
        if epoch.metrics["validation_iou"] > best_iou:
            best_iou, best_epoch = epoch.metrics["validation_iou"], epoch.number
        if own is not None and lesson.every and epoch.number % lesson.every == 0:
            scores = iou.summarise(iou.confusion_counts(predict(model, own.images), own.masks, ignored=IGNORED))
            known = {name: scores[name] for name in results.MEASURES if name in scores}
            curve.append({"images": len(own.images), "epoch": epoch.number, "final": False, **known})
    return FinetunedModel(model, best_epoch, curve)


def save_model(run: RunDirectory, name: str, learned: FinetunedModel) -> None:
    """Keep a model as `name`."""
    tensors = {key: value.contiguous().cpu() for key, value in learned.model.state_dict().items()}
    run.write_bytes(f"{FOLDER}/{name}.safetensors", to_safetensors(tensors))
    about = {"outputs": learned.model.outputs, "epoch": learned.epoch, "curve": learned.curve}
    run.write_json(f"{FOLDER}/{name}.json", about)


def load_model(
    run: RunDirectory, name: str, encoder: VisionTransformer, config: FinetuneConfig, device: str
) -> FinetunedModel | None:
    """The model that is kept as `name`, if there is one, upon the encoder that it began with."""
    if not run.exists(f"{FOLDER}/{name}.json"):
        return None
    about = run.read_json(f"{FOLDER}/{name}.json")
    model = SegmentationModel(encoder, about["outputs"], config)
    model.load_state_dict(from_safetensors(run.read_bytes(f"{FOLDER}/{name}.safetensors")))
    return FinetunedModel(model.to(device).eval(), about["epoch"], about["curve"])
