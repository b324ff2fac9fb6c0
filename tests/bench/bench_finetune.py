"""Fine-tuning against a bare PyTorch loop: images a second of the same model and batch, epochs in turn, one process.

Two peers. `bare` does what one writes first: each image's crop and flips by torchvision, its mask's with it, then
forward, BCE + Dice, backward, AdamW. `bare, no crops` gets whole images at the encoder's size, made beforehand, so it
draws and scales nothing: it is the model alone, and the floor. Ours draws crops and flips for the whole batch on the
device. Only training counts, on all sides; the first epoch of each does not. Images are random: speed does not depend
on what is in them.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from harness import report
from torch import Tensor, nn
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2

from curation.engine.chips import chip, resolve_precision
from training.datasets.prepared import Pairs
from training.methods.mae import pixel_statistics
from training.segmentation.config import FinetuneConfig
from training.segmentation.finetune import finetune
from training.segmentation.tokens import load_encoder

Batch = tuple[Tensor, Tensor]


class Bare(nn.Module):
    """The encoder, and a head of the same size as ours."""

    def __init__(self, encoder: nn.Module, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder, self.cells = copy.deepcopy(encoder).requires_grad_(True), config.head_cells
        last = nn.Linear(config.head_width, config.head_cells**2)
        self.head = nn.Sequential(nn.Linear(encoder.embed_dim, config.head_width), nn.GELU(), last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, S, S] of normalised pixels [B, 3, S, S]."""
        tokens = self.encoder.forward_features(pixels)[:, self.encoder.num_prefix_tokens :]
        grid = round(tokens.shape[1] ** 0.5)
        laid = self.head(tokens).transpose(1, 2).reshape(len(tokens), -1, grid, grid)
        finer = functional.pixel_shuffle(laid.float(), self.cells)
        return functional.interpolate(finer, size=pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy and soft Dice."""
    chances = logits.sigmoid()
    overlap, total = (chances * truth).sum(dim=(1, 2)), (chances + truth).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return functional.binary_cross_entropy_with_logits(logits, truth) + dice.mean()


def one_by_one(pairs: Pairs, size: int) -> Callable[[Tensor], Batch]:
    """Crops and flips by torchvision, image by image."""
    views = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=3),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
        ]
    )
    images, masks = torch.from_numpy(pairs.images).permute(0, 3, 1, 2), torch.from_numpy(pairs.masks)

    def batch(rows: Tensor) -> Batch:
        drawn = [views(tv_tensors.Image(images[row]), tv_tensors.Mask(masks[row])) for row in rows.tolist()]
        return torch.stack([image for image, _ in drawn]), torch.stack([mask for _, mask in drawn])

    return batch


def ready_made(pairs: Pairs, size: int) -> Callable[[Tensor], Batch]:
    """Whole images and masks, scaled beforehand."""
    images = torch.from_numpy(pairs.images).permute(0, 3, 1, 2)
    small = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    masks = functional.interpolate(torch.from_numpy(pairs.masks)[:, None].float(), size=(size, size), mode="nearest")
    small, masks = small.round().clamp(0, 255).to(torch.uint8), masks[:, 0].to(torch.uint8)
    return lambda rows: (small[rows], masks[rows])


class Loop:
    """A bare loop over epochs."""

    def __init__(
        self, encoder: nn.Module, config: FinetuneConfig, batch: Callable[[Tensor], Batch], device: str
    ) -> None:
        torch.manual_seed(0)
        self.model, self.config, self.batch, self.device = Bare(encoder, config).to(device), config, batch, device
        fused = device != "cpu" or None
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused)
        self.bfloat16 = resolve_precision(config.precision, chip(device)) == "bfloat16"
        mean, std = pixel_statistics(encoder)
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))

    def epoch(self, images: int) -> float:
        """Train for one epoch; images a second."""
        began, seen, losses = time.perf_counter(), 0, []
        for rows in torch.randperm(images).split(self.config.batch_size):
            pixels, masks = (each.to(self.device) for each in self.batch(rows))
            pixels = (pixels.float() / 255 - self.mean) / self.std
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
                logits = self.model(pixels)
            loss = loss_of(logits, masks.float())
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            seen += len(rows)
        assert torch.isfinite(torch.stack(losses).mean())  # waits for the device, too
        return seen / (time.perf_counter() - began)


def random_pairs(count: int, side: int) -> Pairs:
    """Random images with a random rectangle as lesion."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, side, side), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, side // 2, 2)
        mask[top : top + side // 3, left : left + side // 3] = 1
    return Pairs(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8), masks)


def main() -> None:
    """Run all three in turn and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=320, help="of the training part; a multiple of the batch")
    parser.add_argument("--decoded-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, train = given.image_size, random_pairs(given.images, given.decoded_size)
    validation = Pairs(train.images[:2], train.masks[:2])
    config = FinetuneConfig(epochs=given.epochs + 1, batch_size=given.batch_size, image_size=size, patience=0)
    encoder = load_encoder("random", size, given.encoder)
    ours = finetune(encoder, train, validation, config, device)
    peers = {
        "bare": Loop(encoder, config, one_by_one(train, size), device),
        "bare, no crops": Loop(encoder, config, ready_made(train, size), device),
    }
    rates: dict[str, list[float]] = {"ours": [], **{name: [] for name in peers}}
    for epoch in ours:
        rates["ours"].append(epoch.metrics["images_per_second"])
        for name, loop in peers.items():
            rates[name].append(loop.epoch(given.images))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}
    rows = [
        {"way": name, "images/s": rate, "ours over it": median["ours"] / rate, "epochs": given.epochs}
        for name, rate in median.items()
    ]
    precision = resolve_precision(config.precision, chip(device))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{given.threads} threads"
    report(
        "finetune",
        rows,
        f"{given.images} images of {given.decoded_size} px, {given.encoder} at {size} px, batch {given.batch_size}, "
        f"{precision}, {where}; goal: ours at least 0.95 of bare",
    )


if __name__ == "__main__":
    main()
