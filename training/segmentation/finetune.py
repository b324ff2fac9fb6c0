"""Fine-tuning for segmentation: an encoder, a small head, image and mask cropped together. It knows no data set.

Nor has it a test part: it trains on one part and stops by another. Every random choice is a function of
(seed, update): on the CPU the same seed gives the same weights, bit for bit.

Legend: N images of side S0, B of a batch; S side of the encoder's input; T patches of D values; K outputs: one logit
for a single class, else background and each class.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from curation.embeddings.vectors import as_tensor
from curation.engine.chips import Precision, chip, resolve_precision
from curation.options import option, require
from curation.seeds import salted
from training.datasets.codings import IGNORED
from training.loader.order import Draws, Rows, draw_generator
from training.methods.augment import Augmentation
from training.methods.mae import grid_of
from training.pretraining.loop import NotFiniteError
from training.pretraining.schedule import learning_rate, parameter_groups, total_steps, warmup_steps
from training.segmentation.crops import mask_crops, paired_crops
from training.segmentation.probes import UInt8, encode, highest_class, image_ious, input_size, patch_tokens, whole

PAPER_EPOCHS = {"paper-short": 200, "paper-long": 500}
PAIRED = Augmentation(scale=(0.5, 1.0), vertical_flip=0.5)
Drawn = Callable[[Rows, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How an encoder learns to segment. Batch and lengths are the paper's; it gives no other number."""

    epochs: int | Literal["paper-short", "paper-long"] = option(
        "Passes at most; the paper's are 200 and 500.", "paper-short"
    )
    batch_size: int = option("Images of one update.", 16)
    learning_rate: float = option("Highest rate of AdamW, after a warm-up over 5 % of the updates.", 3e-4)
    weight_decay: float = option("Decoupled weight decay.", 0.05)
    layer_decay: float = option("Factor on the rate for each layer farther from the head.", 0.75)
    frozen: bool = option("Train the head alone, on tokens computed once: whole images and flips, no crops.", False)
    image_size: int = option("Side in pixels of the squares that the encoder sees.", 224)
    patience: int = option("Stop after this many epochs without a better validation IoU; 0: never.", 50)
    head_width: int = option("Width of the head's hidden layer.", 256)
    head_cells: int = option("Logits a patch and side: the head's grid before upsampling.", 4)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "Arithmetic of forward and backward; auto: what was begun with, else bfloat16 where every chip has it.", "auto"
    )
    seed: int = option("Seed of the head, the order, crops and flips.", 0)

    def __post_init__(self) -> None:
        for name in ("passes", "batch_size", "image_size", "head_width", "head_cells"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("weight_decay", "patience", "seed"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be above 0")
        require(0 < self.layer_decay <= 1, f"layer_decay is {self.layer_decay}; it must be above 0 and up to 1")

    @property
    def passes(self) -> int:
        """The epochs, as a number."""
        return PAPER_EPOCHS[self.epochs] if isinstance(self.epochs, str) else self.epochs


@dataclass(frozen=True)
class Pairs:
    """Images uint8 [N, S0, S0, 3] and their masks uint8 [N, S0, S0]: 0 for background, classes from 1, IGNORED."""

    images: UInt8
    masks: UInt8

    def __post_init__(self) -> None:
        shape = self.images.shape
        require(
            len(shape) == 4 and shape[0] > 0 and shape[1] == shape[2] and shape[3] == 3,
            f"images are {shape}; expected some squares in colour, [N, S0, S0, 3]; scale them to one size",
        )
        require(
            self.masks.shape == shape[:3],
            f"masks are {self.masks.shape} for images {shape}; expected {shape[:3]}, a mask of its size each",
        )
        types = str(self.images.dtype), str(self.masks.dtype)
        require(types == ("uint8", "uint8"), f"images are {types[0]}, masks {types[1]}; expected uint8")


class Epoch(NamedTuple):
    """What is told after each epoch."""

    number: int  # from 1
    metrics: dict[str, float]  # loss, validation_iou, images_per_second (of training), learning_rate
    model: "SegmentationModel"  # with the weights of now; when all epochs are through, the best


class SegmentationModel(nn.Module):
    """A timm encoder and a two-layer head that turns each patch's token into cells * cells logits an output."""

    def __init__(self, encoder: VisionTransformer, outputs: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder, self.outputs, self.config = encoder, outputs, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(salted(config.seed, "segmentation head"))
            last = nn.Linear(config.head_width, outputs * config.head_cells**2)
            self.head = nn.Sequential(nn.Linear(encoder.embed_dim, config.head_width), nn.GELU(), last)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def precision(self) -> Precision:
        """The arithmetic on this device."""
        return resolve_precision(self.config.precision, chip(self.device.type))

    def autocast(self) -> torch.autocast:
        """Return the context in which the model computes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def decode(self, tokens_BTD: Tensor, side: int) -> Tensor:
        """Logits float32 [B, K, side, side], upsampled bilinearly, from tokens."""
        cells_BTP = self.head(tokens_BTD).float()
        laid = cells_BTP.transpose(1, 2).unflatten(2, (grid_of(self.encoder), -1))
        fine = functional.pixel_shuffle(laid, self.config.head_cells)
        return functional.interpolate(fine, size=(side, side), mode="bilinear", align_corners=False)

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """Logits [B, K, S, S] of pixels in 0 to 1."""
        return self.decode(patch_tokens(self.encoder, pixels_BCSS), pixels_BCSS.shape[3])


def segmentation_loss(logits_BKSS: Tensor, masks_BSS: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice, a scalar; binary cross-entropy where there is one output.

    Dice, over an image's pixels, is 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1); its mean over images and lesions.
    Pixels that are IGNORED are in no sum and no mean, and have no gradient; a batch of nothing else has the loss 0.
    """
    counted = (masks_BSS != IGNORED)[:, None].to(logits_BKSS.dtype)
    pixels = counted.sum().clamp(min=1)
    if logits_BKSS.shape[1] == 1:
        truth = ((masks_BSS > 0)[:, None] & (counted > 0)).to(logits_BKSS.dtype)
        each = functional.binary_cross_entropy_with_logits(logits_BKSS, truth, reduction="none")
        entropy, chances = (each * counted).sum() / pixels, logits_BKSS.sigmoid()
    else:
        each = functional.cross_entropy(logits_BKSS, masks_BSS.long(), ignore_index=IGNORED, reduction="sum")
        entropy, chances = each / pixels, logits_BKSS.softmax(dim=1)[:, 1:]
        classes = torch.arange(1, logits_BKSS.shape[1], device=masks_BSS.device)[:, None, None]
        truth = (masks_BSS[:, None] == classes).to(logits_BKSS.dtype)
    chances = chances * counted
    overlap, total = (chances * truth).sum(dim=(2, 3)), (chances + truth).sum(dim=(2, 3))
    return entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()


def cropped(model: SegmentationModel, train: Pairs, augmentation: Augmentation) -> Drawn:
    """Return what makes tokens [B, T, D] and masks [B, S, S] of some rows: anew each time, with gradients."""

    def draw(rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, masks = (as_tensor(each[rows]).to(model.device) for each in (train.images, train.masks))
        pixels, cut = paired_crops(images, masks, input_size(model.encoder), augmentation, generator)
        return patch_tokens(model.encoder, pixels), cut

    return draw


def cached(model: SegmentationModel, train: Pairs, augmentation: Augmentation) -> Drawn:
    """Return the like of `cropped` for a frozen encoder: whole images, their flips drawn from tokens computed here."""
    chances = (augmentation.vertical_flip, augmentation.horizontal_flip)
    vertical, horizontal = ((False, True) if chance > 0 else (False,) for chance in chances)
    views = [whole(vertical=v, horizontal=h) for v, h in itertools.product(vertical, horizontal)]
    tokens = torch.cat(
        [piece for view in views for piece in encode(model.encoder, train.images, model.precision, view)]
    )
    size, all_masks, unused = input_size(model.encoder), as_tensor(train.masks), torch.Generator()
    masks = torch.cat([mask_crops(all_masks, size, view, unused) for view in views]).to(model.device)

    def draw(rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        up, left = torch.rand(2, len(rows), generator=generator) < torch.tensor(chances)[:, None]
        place = (up * len(horizontal) + left) * len(train.images) + torch.from_numpy(rows)
        return tokens[place.to(tokens.device)], masks[place.to(masks.device)]

    return draw


def finetune(
    encoder: VisionTransformer,
    train: Pairs,
    validation: Pairs,
    config: FinetuneConfig,
    device: str = "cpu",
    augmentation: Augmentation = PAIRED,
) -> Iterator[Epoch]:
    """Train a copy of the encoder with a head, and yield after each epoch; see `Epoch`.

    The weights of the best validation IoU (the first of equals) are back in the model when the iterator has ended.
    With `frozen`, tokens of whole images and of the flips that `augmentation` allows are computed once and kept on the
    device: up to 4 N T D values. ValueError, at the first epoch: an encoder for another image size, no lesion pixel to
    learn from, a loss that is no number.
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
    drawn = (cached if config.frozen else cropped)(model, train, augmentation)
    kept = list(encode(model.encoder, validation.images, model.precision)) if config.frozen else None
    batch = min(config.batch_size, len(train.images))
    order = Draws(len(train.images), batch, size=batch, seed=salted(config.seed, "fine-tuning"))
    ends = [0, *(total_steps(order.frames, order.batch, epochs=epoch + 1) for epoch in range(config.passes))]
    optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay, config.layer_decay), fused=True)
    best_iou, best_epoch, best = -1.0, 0, dict[str, Tensor]()
    for epoch, (first, last) in enumerate(itertools.pairwise(ends), start=1):
        began, losses = time.perf_counter(), []
        model.train()
        for update in range(first, last):
            rate = learning_rate(update, config.learning_rate, warmup_steps(ends[-1]), ends[-1])
            for group in optimiser.param_groups:
                group["lr"] = rate * group["lr_scale"]
            losses.append(backward(model, drawn, order, update))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
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


def backward(model: SegmentationModel, drawn: Drawn, order: Draws, update: int) -> Tensor:
    """Add the gradients of one update's batch; return its loss, a scalar on the device."""
    with model.autocast():
        tokens, masks = drawn(order.rows(update, 0), draw_generator(order.seed, update, 0))
        logits = model.decode(tokens, masks.shape[2])
    loss = segmentation_loss(logits, masks)
    torch.autograd.backward(loss)
    return loss.detach()


def predict(model: SegmentationModel, images: UInt8, batch: int = 64) -> UInt8:
    """Return the class of every pixel, uint8 [N, S0, S0], of images uint8 [N, S0, S0, 3] of any one size.

    An image is scaled to the encoder's input, its logits back to its own size.
    """
    return masks_of(model.eval(), encode(model.encoder, images, model.precision, batch=batch), images.shape[1])


@torch.no_grad()
def masks_of(model: SegmentationModel, tokens: Iterable[Tensor], side: int) -> UInt8:
    """Return masks uint8 [N, side, side] of pieces of tokens [B, T, D]: where a logit is above 0, or the highest."""
    pieces = []
    for tokens_BTD in tokens:
        with model.autocast():
            logits = model.decode(tokens_BTD, side)
        classes = logits[:, 0] > 0 if model.outputs == 1 else logits.argmax(dim=1)
        pieces.append(classes.to(torch.uint8).cpu())
    return torch.cat(pieces).numpy()
