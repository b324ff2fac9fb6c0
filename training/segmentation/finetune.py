"""Fine-tuning for segmentation: an encoder, a small head, image and mask cropped together. It knows no data set.

It sees no test part: it trains on one part, and stops early by the IoU on another. Every random choice is a function of
(seed, update): on the CPU the same seed gives the same weights, bit for bit.

Legend: N images of side S0, B per batch; S side of the encoder's input; T patches of D values; K outputs: one logit
for a single class, else background and each class.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from curation.embeddings.vectors import as_tensor
from curation.options import require
from curation.seeds import salted
from training.datasets.codings import highest_class
from training.datasets.prepared import Pairs
from training.loader.order import Batches, Rows, slice_generator
from training.methods.config import Augmentation
from training.methods.method import NotFiniteError
from training.metrics.iou import image_ious
from training.pretraining.schedule import learning_rate, parameter_groups, take_step, total_steps, warmup_steps
from training.segmentation.config import FinetuneConfig
from training.segmentation.crops import mask_crops, paired_crops
from training.segmentation.model import SegmentationModel, masks_of, segmentation_loss
from training.segmentation.tokens import encode, input_size, patch_tokens, whole_images

PAIRED = Augmentation(scale=(0.5, 1.0), vertical_flip=0.5)
MakeBatch = Callable[[Rows, torch.Generator], tuple[Tensor, Tensor]]


class Epoch(NamedTuple):
    """What is reported after each epoch."""

    number: int  # from 1
    metrics: dict[str, float]  # loss, validation_iou, images_per_second (of training), learning_rate
    model: "SegmentationModel"  # with the current weights; after the last epoch, the best


def cropped(model: SegmentationModel, train: Pairs, augmentation: Augmentation) -> MakeBatch:
    """Return a function from rows to tokens [B, T, D], with gradients, and masks [B, S, S] of random crops."""

    def make(rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, masks = (as_tensor(each[rows]).to(model.device) for each in (train.images, train.masks))
        pixels, cut = paired_crops(images, masks, input_size(model.encoder), augmentation, generator)
        return patch_tokens(model.encoder, pixels), cut

    return make


def cached(model: SegmentationModel, train: Pairs, augmentation: Augmentation) -> MakeBatch:
    """Like `cropped`, for a frozen encoder: whole images and random flips, by tokens that are computed here."""
    chances = (augmentation.vertical_flip, augmentation.horizontal_flip)
    vertical, horizontal = ((False, True) if chance > 0 else (False,) for chance in chances)
    views = [whole_images(vertical=v, horizontal=h) for v, h in itertools.product(vertical, horizontal)]
    tokens = torch.cat(
        [piece for view in views for piece in encode(model.encoder, train.images, model.precision, view)]
    )
    size, all_masks, unused = input_size(model.encoder), as_tensor(train.masks), torch.Generator()
    masks = torch.cat([mask_crops(all_masks, size, view, unused) for view in views]).to(model.device)

    def make(rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        up, left = torch.rand(2, len(rows), generator=generator) < torch.tensor(chances)[:, None]
        place = (up * len(horizontal) + left) * len(train.images) + torch.from_numpy(rows)
        return tokens[place.to(tokens.device)], masks[place.to(masks.device)]

    return make


def finetune(
    encoder: VisionTransformer,
    train: Pairs,
    validation: Pairs,
    config: FinetuneConfig,
    device: str = "cpu",
    augmentation: Augmentation = PAIRED,
) -> Iterator[Epoch]:
    """Train a copy of the encoder with a head, and yield after each epoch; see `Epoch`.

    The weights of the best validation IoU (the first of equals) are back in the model when the iterator ends.
    With `frozen`, tokens of whole images and of the flips that `augmentation` allows are computed once and kept on the
    device: up to 4 N T D values. ValueError, at the first epoch: an encoder for another image size, no lesion pixel to
    train on, a loss that is not finite.
    """
    highest = max(highest_class(train.masks), highest_class(validation.masks))
    require(
        highest_class(train.masks) > 0,
        f"no lesion pixel in {len(train.masks)} training masks; check how they are coded",
    )
    require(
        config.image_size == input_size(encoder),
        f"image_size is {config.image_size}, but the encoder was made for {input_size(encoder)}; load it for that size",
    )
    model = SegmentationModel(copy.deepcopy(encoder), 1 if highest == 1 else highest + 1, config).to(device).eval()
    model.encoder.requires_grad_(not config.frozen)
    make_batch = (cached if config.frozen else cropped)(model, train, augmentation)
    kept = list(encode(model.encoder, validation.images, model.precision)) if config.frozen else None
    batch = min(config.batch_size, len(train.images))
    order = Batches(len(train.images), batch, size=batch, seed=salted(config.seed, "fine-tuning"))
    ends = [0, *(total_steps(order.frames, order.batch, epochs=epoch + 1) for epoch in range(config.passes))]
    optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay, config.layer_decay), fused=True)
    best_iou, best_epoch, best = -1.0, 0, dict[str, Tensor]()
    for epoch, (first, last) in enumerate(itertools.pairwise(ends), start=1):
        began, losses = time.perf_counter(), []
        model.train()
        for update in range(first, last):
            rate = learning_rate(update, config.learning_rate, warmup_steps(ends[-1]), ends[-1])
            losses.append(backward(model, make_batch, order, update))
            take_step(optimiser, rate)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise NotFiniteError(f"the mean loss of epoch {epoch} is {loss}; lower the learning rate, or use float32")
        speed = (last - first) * order.batch / (time.perf_counter() - began)
        tokens = encode(model.eval().encoder, validation.images, model.precision) if kept is None else kept
        iou = float(image_ious(masks_of(model, tokens, validation.images.shape[1]), validation.masks).mean())
        if iou > best_iou:
            best_iou, best_epoch = iou, epoch
            best = {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}
        metrics = {"loss": loss, "validation_iou": iou, "images_per_second": speed, "learning_rate": rate}
        yield Epoch(epoch, metrics, model)
        if config.patience and epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(best, strict=False)


def backward(model: SegmentationModel, make_batch: MakeBatch, order: Batches, update: int) -> Tensor:
    """Add the gradients of one update's batch; return its loss, a scalar on the device."""
    with model.autocast():
        tokens, masks = make_batch(order.rows(update, 0), slice_generator(order.seed, update, 0))
        logits = model.decode(tokens, masks.shape[2])
    loss = segmentation_loss(logits, masks)
    torch.autograd.backward(loss)
    return loss.detach()
