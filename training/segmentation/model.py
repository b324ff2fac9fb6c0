"""A segmentation model: an encoder and a small head, its loss, and the masks that it predicts. It trains nothing."""

from collections.abc import Iterable

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from curation.engine.chips import Precision, chip, resolve_precision
from curation.seeds import salted
from training.datasets.codings import IGNORED, UInt8
from training.methods.mae import grid_of
from training.segmentation.config import FinetuneConfig
from training.segmentation.tokens import encode, patch_tokens


class SegmentationModel(nn.Module):
    """A timm encoder and a two-layer head that turns each patch's token into cells * cells logits per output."""

    def __init__(self, encoder: VisionTransformer, outputs: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder, self.outputs, self.config = encoder, outputs, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(salted(config.seed, "segmentation head"))
            last = nn.Linear(config.head_width, outputs * config.head_cells**2)
            self.head = nn.Sequential(nn.Linear(encoder.embed_dim, config.head_width), nn.GELU(), last)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
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
    IGNORED pixels are in no sum and no mean, and have no gradient; a batch of nothing else has the loss 0.
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


def predict(model: SegmentationModel, images: UInt8, batch: int = 64) -> UInt8:
    """Return the class of every pixel, uint8 [N, S0, S0], of images uint8 [N, S0, S0, 3] of any size.

    An image is scaled to the encoder's input, its logits back to its own size.
    """
    return masks_of(model.eval(), encode(model.encoder, images, model.precision, batch=batch), images.shape[1])


@torch.no_grad()
def masks_of(model: SegmentationModel, tokens: Iterable[Tensor], side: int) -> UInt8:
    """Return masks uint8 [N, side, side] of batches of tokens [B, T, D]: where a logit is above 0, or the highest."""
    pieces = []
    for tokens_BTD in tokens:
        with model.autocast():
            logits = model.decode(tokens_BTD, side)
        classes = logits[:, 0] > 0 if model.outputs == 1 else logits.argmax(dim=1)
        pieces.append(classes.to(torch.uint8).cpu())
    return torch.cat(pieces).numpy()
