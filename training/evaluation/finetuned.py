"""Fine-tuned models on disk: a set that is added later is tested without fine-tuning again. No engine.

Below models/ a model is HASH.safetensors, and HASH.json, written last: its epoch and its curve.
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

MODELS = "models"


@dataclass(frozen=True)
class FinetunedModel:
    """A fine-tuned model, the epoch of its best validation IoU (the first of equals), and rows of its curve."""

    model: SegmentationModel
    best_epoch: int
    curve: list[results.Row]


@dataclass(frozen=True)
class FinetuneTask:
    """Training and validation part, and the test part of the same set, tested every `test_every` epochs."""

    train: Pairs
    validation: Pairs
    own_test: Pairs | None
    test_every: int


def finetune_task(
    encoder: VisionTransformer, task: FinetuneTask, config: FinetuneConfig, device: str
) -> FinetunedModel:
    """Fine-tune to the end.

    The curve has a row of scores on the own test part every `test_every` epochs, none where that is 0; it decides
    nothing. ValueError: no lesion in the training masks, a loss that is not finite.
    """
    best_iou, best_epoch, curve, own = -1.0, 0, list[results.Row](), task.own_test
    for epoch in finetune(encoder, task.train, task.validation, config, device):
        model = epoch.model
        if epoch.metrics["validation_iou"] > best_iou:
            best_iou, best_epoch = epoch.metrics["validation_iou"], epoch.number
        if own is not None and task.test_every and epoch.number % task.test_every == 0:
            scores = iou.summarise(iou.confusion_counts(predict(model, own.images), own.masks, ignored=IGNORED))
            known = {name: scores[name] for name in results.MEASURES if name in scores}
            curve.append({"images": len(own.images), "epoch": epoch.number, "final": False, **known})
    return FinetunedModel(model, best_epoch, curve)


def save_model(run: RunDirectory, name: str, finetuned: FinetunedModel) -> None:
    """Keep a model as `name`."""
    tensors = {key: value.contiguous().cpu() for key, value in finetuned.model.state_dict().items()}
    run.write_bytes(f"{MODELS}/{name}.safetensors", to_safetensors(tensors))
    about = {"outputs": finetuned.model.outputs, "epoch": finetuned.best_epoch, "curve": finetuned.curve}
    run.write_json(f"{MODELS}/{name}.json", about)


def load_model(
    run: RunDirectory, name: str, encoder: VisionTransformer, config: FinetuneConfig, device: str
) -> FinetunedModel | None:
    """The model kept as `name`, if there is one, built on its initial encoder."""
    if not run.exists(f"{MODELS}/{name}.json"):
        return None
    about = run.read_json(f"{MODELS}/{name}.json")
    model = SegmentationModel(encoder, about["outputs"], config)
    model.load_state_dict(from_safetensors(run.read_bytes(f"{MODELS}/{name}.safetensors")))
    return FinetunedModel(model.to(device).eval(), about["epoch"], about["curve"])
