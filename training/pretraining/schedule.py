"""How long, how fast and with what decay: learning rates, steps, parameter groups. Pure arithmetic, no optimiser."""

import math
import re
from typing import Any, Literal

import torch
from torch import nn

from curation.options import require

BLOCK_NAME = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.")
STEM = re.compile(r"(?:encoder\.)?(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)\b")
WARMUP_SHARE = 0.05  # of the steps: the MAE recipe's 40 epochs of 800


def peak_learning_rate(base: float, batch: int, reading: Literal["scaled", "absolute"]) -> float:
    """Return the highest learning rate. The paper gives one number; it can be read in two ways.

    scaled: base * batch / 256, where `batch` counts the images of one update over all ranks and accumulations.
    absolute: base.
    """
    return base * batch / 256 if reading == "scaled" else base


def learning_rate(step: int, peak: float, warmup: int, total: int, minimum: float = 0.0) -> float:
    """Return the rate of update `step`, counted from 0, of `total`: linear from 0 to `peak`, then half a cosine.

    The rate is `peak` at step `warmup` and would be `minimum` at step `total`; it stays there.
    """
    require(0 <= warmup < total, f"warm-up of {warmup} steps does not fit a run of {total}; make it shorter")
    if step < warmup:
        return peak * step / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_steps(total: int, share: float = WARMUP_SHARE) -> int:
    """Return the steps of the warm-up: a share of all, rounded."""
    require(0 <= share < 1, f"the warm-up's share is {share}; it must be at least 0 and below 1")
    return min(round(total * share), total - 1)


def total_steps(
    frames: int,
    batch: int,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    images_seen: int | None = None,
) -> int:
    """Return the number of updates of one of the three lengths, rounded up to whole batches.

    Batches continue from one epoch into the next, so a subset smaller than a batch loses nothing. ValueError unless
    exactly one length is given and it is above 0.
    """
    given = {"epochs": epochs, "steps": steps, "images_seen": images_seen}
    named = {name: value for name, value in given.items() if value is not None}
    require(len(named) == 1, f"give one of epochs, steps and images_seen; found {', '.join(named) or 'none'}")
    require(frames >= 1 and batch >= 1, f"{frames} frames in batches of {batch}: both must be at least 1")
    name, value = next(iter(named.items()))
    require(value > 0, f"{name} is {value}; it must be above 0")
    if steps is not None:
        return steps
    images = value if name == "images_seen" else epochs_to_images(value, frames)
    return math.ceil(images / batch)


def epochs_to_images(epochs: float, frames: int) -> int:
    """Return how many images are seen, counted each time."""
    return round(epochs * frames)


def equal_compute_epochs(epochs_at_full: float, ratio: float) -> float:
    """Return the epochs over a share `ratio` of the data that see as many images as `epochs_at_full` over all of it.

    The paper's epochs are E / ratio with nominal ratios; its 600 belongs to 1/3, which it calls 33 and 30 %.
    """
    require(0 < ratio <= 1, f"ratio is {ratio}; it must be above 0 and up to 1")
    return epochs_at_full / ratio


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Sort the parameters that are trained into groups for an optimiser, each parameter into one.

    A group has `params`, `weight_decay` (0 for biases, norms, layer scales, tokens and position tables) and
    `lr_scale`, a factor on the learning rate: layer_decay to the power of a layer's distance from the last; embeddings
    and tokens count as one layer, each encoder block as one, all after them as the last (Clark et al. 2020, Bao et al.
    2021). `module` is not wrapped: a timm model, or one with it as `encoder`. timm's param_groups_layer_decay takes the
    last block for the last layer where a model has no head, so that it would not be decayed.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    blocks = [int(found[1]) + 1 for name, _ in trained if (found := BLOCK_NAME.match(name))]
    last = max(blocks, default=0) + 1
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained:
        found = BLOCK_NAME.match(name)
        layer = int(found[1]) + 1 if found else 0 if STEM.match(name) else last
        plain = parameter.ndim <= 1 or name.endswith(("_token", "pos_embed"))
        decay, scale = 0.0 if plain else weight_decay, layer_decay ** (last - layer)
        empty = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((decay, scale), empty)["params"].append(parameter)
    return list(groups.values())


def take_step(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Update the parameters at a learning rate, times each group's own scale, and drop the gradients."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
