"""One pre-training loop for every method: order, crops and masks, updates, what is recorded. It knows no engine.

All randomness is a function of (seed, update, draw): a draw is a fixed number of neighbouring images of an update's
batch, and a rank takes whole draws. So a run continued from a checkpoint is the run that was never stopped, and two
ranks compute what one rank computes with all their draws, to rounding.

Legend: B images of a rank's share of one update.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from curation.config import require
from training.config import LengthConfig, OptimiserConfig
from training.methods import Method
from training.schedule import learning_rate, parameter_groups, peak_learning_rate, warmup_steps

State = dict[str, Any]


class NotFiniteError(ValueError):
    """A loss that is no number: the update, and the frames of its batch."""


@dataclass(frozen=True)
class Rank:
    """A process among those that train together."""

    number: int = 0
    ranks: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Plan:
    """What the loop does: its length in updates, its batches and its optimiser."""

    total: int
    seed: int
    length: LengthConfig
    optimiser: OptimiserConfig
    precision: str  # float32 or bfloat16

    def check(self, ranks: int) -> None:
        """ValueError where the draws of a batch do not come out even over the ranks."""
        draws = self.length.batch_size // self.length.draw_rows
        require(
            draws % ranks == 0,
            f"batch_size {self.length.batch_size} makes {draws} draws of {self.length.draw_rows} images, which {ranks} "
            "workers cannot share evenly; change --batch-size, --draw-rows or --workers",
        )


def batch_rows(update: int, frames: int, batch: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the frames of an update, int64 [batch]: a seeded permutation an epoch, one running into the next."""
    first, last = update * batch, (update + 1) * batch
    epochs = range(first // frames, (last - 1) // frames + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(frames) for epoch in epochs])
    start = first - epochs[0] * frames
    return order[start : start + batch]


def draw_generator(seed: int, update: int, draw: int) -> torch.Generator:
    """Return the generator of one draw of one update."""
    state = np.random.SeedSequence([seed, update, draw]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def train(
    method: Method,
    frames: "Frames",
    plan: Plan,
    rank: Rank,
    wrap: Callable[[nn.Module], nn.Module],
    state: State | None = None,
) -> Iterator[tuple[int, dict[str, float], Callable[[], State]]]:
    """Train from `state` or from the start; yields after each update: its number, metrics, and how to get the state.

    `wrap` puts the module into DDP or compiles it. Metrics: loss (this rank's mean), learning_rate, data_s and
    seconds of the update. Raises NotFiniteError before a loss that is no number changes any weight.
    """
    plan.check(rank.ranks)
    module = method.module.to(rank.device).train()
    model = wrap(module)
    peak = peak_learning_rate(
        plan.optimiser.learning_rate, plan.length.batch_size, plan.optimiser.learning_rate_reading
    )
    warmup = warmup_steps(plan.total, plan.optimiser.warmup_share)
    groups = parameter_groups(module, plan.optimiser.weight_decay, plan.optimiser.layer_decay)
    optimiser = torch.optim.AdamW(
        groups, lr=peak, betas=(plan.optimiser.beta1, plan.optimiser.beta2), fused=rank.device != "cpu" or None
    )
    start = 0
    if state is not None:
        module.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["update"]
    for update in range(start, plan.total):
        began = time.perf_counter()
        rate = learning_rate(update, peak, warmup, plan.total, plan.optimiser.minimum_learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss, waited = accumulate(method, model, frames, plan, rank, update)
        if plan.optimiser.clip_norm > 0:
            nn.utils.clip_grad_norm_(module.parameters(), plan.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        done = update + 1

        def snapshot(done: int = done) -> State:
            return {"model": module.state_dict(), "optimiser": optimiser.state_dict(), "update": done}

        spent = {"data_s": waited, "seconds": time.perf_counter() - began}
        yield done, {"loss": loss, "learning_rate": rate, **spent}, snapshot


def accumulate(
    method: Method, model: nn.Module, frames: "Frames", plan: Plan, rank: Rank, update: int
) -> tuple[float, float]:
    """Add up the gradients of this rank's share of an update; return its mean loss and the seconds spent on data."""
    size = plan.length.draw_rows
    rows = batch_rows(update, len(frames), plan.length.batch_size, plan.seed)
    share = len(rows) // size // rank.ranks
    draws = range(rank.number * share, (rank.number + 1) * share)
    together = plan.length.micro_batch // size or share
    passes = [draws[first : first + together] for first in range(0, share, together)]
    total, waited = 0.0, 0.0
    for place, drawn in enumerate(passes):
        began = time.perf_counter()
        size = plan.length.draw_rows
        images = {draw: frames.images(rows[draw * size : (draw + 1) * size]) for draw in drawn}
        views = views_of(method, images, plan.seed, update, rank.device)
        waited += time.perf_counter() - began
        last = place == len(passes) - 1
        quiet = (
            model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) and not last else nullcontext()
        )
        with quiet:
            with torch.autocast(rank.device.split(":")[0], torch.bfloat16, enabled=plan.precision == "bfloat16"):
                loss = method.loss(model, views)
            torch.autograd.backward(loss * (len(drawn) / share))
        total += float(loss.detach()) * len(drawn) / share
    if not np.isfinite(total):
        mine = rows[draws.start * size : draws.stop * size]
        names = ", ".join(frames.names(mine)[:8])
        raise NotFiniteError(f"the loss of update {update} is {total}; its frames: {names}, and {len(mine)} in all")
    return total, waited


def views_of(method: Method, images: dict[int, Tensor], seed: int, update: int, device: str) -> tuple[Tensor, ...]:
    """Return the views of the images [b, S, S, 3] of some draws together, each drawn by its own generator."""
    each = [
        method.views(pixels.to(device, non_blocking=True), draw_generator(seed, update, draw))
        for draw, pixels in images.items()
    ]
    return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


class Frames:
    """Cached frames, by number: uint8 parts [n, S, S, 3] (memory-mapped or not) and their frame ids."""

    def __init__(self, parts: list[npt.NDArray[np.uint8]], ids: list[str]) -> None:
        require(sum(map(len, parts)) == len(ids) and len(ids) > 0, f"{len(ids)} ids for {sum(map(len, parts))} frames")
        self.parts, self.ids = parts, ids
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return frames uint8 [B, S, S, 3]."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        return torch.from_numpy(
            np.stack([self.parts[p][row - self.starts[p]] for p, row in zip(part, rows, strict=True)])
        )

    def names(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of frames."""
        return [self.ids[row] for row in rows]
