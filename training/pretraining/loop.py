"""One pre-training loop for every method: forward, backward, update, metrics. It knows no engine.

Legend: B images of a rank's share of one update; S their side.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.loader.order import Batches, Rank, slice_generator
from training.methods.method import Method, NotFiniteError
from training.pretraining.config import LengthConfig, OptimiserConfig
from training.pretraining.schedule import learning_rate, parameter_groups, peak_learning_rate, take_step, warmup_steps

State = dict[str, Any]
Update = tuple[int, dict[str, float], Callable[[], State]]


class FrameSource(Protocol):
    """The source of decoded frames."""

    def __len__(self) -> int:
        """How many frames there are."""

    def images(self, order: Batches, places: Iterator[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield uint8 [slice size, S, S, 3] for each (update, slice) of `places`, in their order."""

    def names(self, rows: Any) -> list[str]:
        """Return the ids of frames."""


@dataclass(frozen=True)
class Plan:
    """The settings of the loop: its length in updates, its batches and its optimiser."""

    total: int
    seed: int
    length: LengthConfig
    optimiser: OptimiserConfig
    precision: str  # float32 or bfloat16
    until: int | None = None  # end after this update, as if killed there: rates are for the whole length

    @property
    def last(self) -> int:
        """The update after which the loop ends."""
        return self.total if self.until is None else min(self.until, self.total)

    def order(self, frames: int) -> Batches:
        """The order in which `frames` are taken."""
        return Batches(frames, self.length.batch_size, self.length.slice_rows, self.seed)


class Trainer:
    """A method's module with its optimiser and moving average on one rank.

    `wrap` puts the module into DDP or compiles it; the unwrapped module is what is saved.
    """

    def __init__(self, method: Method, plan: Plan, rank: Rank, wrap: Callable[[nn.Module], nn.Module]) -> None:
        self.method, self.plan, self.rank = method, plan, rank
        self.module = method.module.to(rank.device).train()
        if rank.device == "cpu" and plan.precision == "bfloat16":
            unfuse_attention(self.module)
        optimiser = plan.optimiser
        self.peak = peak_learning_rate(optimiser.learning_rate, plan.length.batch_size, optimiser.learning_rate_reading)
        self.warmup = warmup_steps(plan.total, optimiser.warmup_share)
        groups = parameter_groups(self.module, optimiser.weight_decay, optimiser.layer_decay)
        betas = (optimiser.beta1, optimiser.beta2)
        self.optimiser = torch.optim.AdamW(groups, lr=self.peak, betas=betas, fused=True)
        decay = optimiser.ema_decay
        averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.module, multi_avg_fn=averaging) if decay else None
        self.model = wrap(self.module)
        self.done = 0

    def load(self, state: State) -> None:
        """Resume from a state."""
        self.module.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.done = state["update"]

    def state(self) -> State:
        """All that the next updates depend on. Tensors are not copied: save or copy them before the next update."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        kept = {"model": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "update": self.done}
        return kept | average

    def update(self, order: Batches, frames: Iterator[Tensor], names: Callable[[Any], list[str]]) -> dict[str, float]:
        """Do the next update; metrics: loss of the whole batch, gradient_norm, learning_rate, data_s (waited)."""
        settings = self.plan.optimiser
        rate = learning_rate(self.done, self.peak, self.warmup, self.plan.total, settings.minimum_learning_rate)
        loss, waited = self.accumulate(order, frames)
        norm = self.gradient_norm()
        total, finite = across_ranks(loss, norm, self.rank)
        if not finite:
            self.raise_not_finite(order, loss, norm, names)
        if settings.clip_norm > 0:
            nn.utils.clip_grads_with_norm_(self.module.parameters(), settings.clip_norm, norm)
        take_step(self.optimiser, rate)
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.done += 1
        return {"loss": total, "gradient_norm": float(norm), "learning_rate": rate, "data_s": waited}

    def accumulate(self, order: Batches, frames: Iterator[Tensor]) -> tuple[Tensor, float]:
        """Add up the gradients of this rank's share; return its part of the loss and the seconds spent on data."""
        share = order.share(self.rank)
        per_pass = self.plan.length.micro_batch // order.size or len(share)
        passes = [share[first : first + per_pass] for first in range(0, len(share), per_pass)]
        total, waited = torch.zeros((), device=self.rank.device), 0.0
        for slices in passes:
            began = time.perf_counter()
            images = dict(zip(slices, islice(frames, len(slices)), strict=True))
            views = views_of(self.method, images, self.plan.seed, self.done, self.rank.device)
            waited += time.perf_counter() - began
            with self.without_sync(last=slices is passes[-1]):
                with torch.autocast(
                    self.rank.device.split(":")[0], torch.bfloat16, enabled=self.plan.precision == "bfloat16"
                ):
                    loss = self.method.loss(self.model, views)
                part = loss * (len(slices) * self.rank.ranks / order.slices)  # DDP takes the mean over ranks
                torch.autograd.backward(part)
            total += part.detach()
        return total, waited

    def without_sync(self, *, last: bool) -> Any:
        """Skip DDP's gradient synchronisation in all passes but the last."""
        skip = isinstance(self.model, nn.parallel.DistributedDataParallel) and not last
        return self.model.no_sync() if skip else nullcontext()  # type: ignore[operator]

    def gradient_norm(self) -> Tensor:
        """Return the norm of all gradients together, a scalar."""
        return nn.utils.get_total_norm([each.grad for each in self.module.parameters() if each.grad is not None])

    def raise_not_finite(self, order: Batches, loss: Tensor, norm: Tensor, names: Callable[[Any], list[str]]) -> None:
        """Raise NotFiniteError on every rank, with the frames of ranks whose loss is not finite (or of all)."""
        mine = [name for number in order.share(self.rank) for name in names(order.rows(self.done, number))]
        gathered: list[tuple[bool, list[str]]] = [(bool(loss.isfinite()), mine)]
        if self.rank.ranks > 1:
            gathered = [(True, [])] * self.rank.ranks
            dist.all_gather_object(gathered, (bool(loss.isfinite()), mine))
        not_finite = [name for fine, frames in gathered if not fine for name in frames]
        frames = not_finite or [name for _, each in gathered for name in each]
        what = f"gradient norm {float(norm)}" if not not_finite else "loss is not finite"
        raise NotFiniteError(
            f"training stopped at update {self.done + 1} before any weight changed: {what}; the frames of its batch: "
            f"{', '.join(frames)}"
        )


def unfuse_attention(module: nn.Module) -> None:
    """Make timm's blocks write attention out: on CPUs SDPA's backward in bfloat16 takes 2.5 to 5 times as long."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]


def across_ranks(loss: Tensor, norm: Tensor, rank: Rank) -> tuple[float, bool]:
    """Return the loss of the whole batch, and whether it and all gradients are finite, the same on every rank."""
    both = torch.stack([loss, norm.to(loss.device)]).float()
    if rank.ranks > 1:
        dist.all_reduce(both)
        both /= rank.ranks
    values = both.tolist()
    return values[0], bool(torch.isfinite(torch.tensor(values)).all())


def train(
    method: Method,
    source: FrameSource,
    plan: Plan,
    rank: Rank,
    wrap: Callable[[nn.Module], nn.Module],
    state: State | None = None,
) -> Iterator[Update]:
    """Train from `state` or from the start; yields after each update: its number, metrics, a function for the state.

    Metrics are as of `Trainer.update`, and seconds. Raises NotFiniteError before a loss or a gradient that is not
    finite changes any weight.
    """
    order = plan.order(len(source))
    trainer = Trainer(method, plan, rank, wrap)
    if state is not None:
        trainer.load(state)
    frames = source.images(order, order.places(rank, trainer.done, plan.last))
    while trainer.done < plan.last:
        began = time.perf_counter()
        metrics = trainer.update(order, frames, source.names)
        yield trainer.done, metrics | {"seconds": time.perf_counter() - began}, trainer.state


def views_of(method: Method, images: dict[int, Tensor], seed: int, update: int, device: str) -> tuple[Tensor, ...]:
    """Return the views of the images [b, S, S, 3] of some slices, each by its own generator."""
    each = [
        method.views(pixels.to(device, non_blocking=True), slice_generator(seed, update, number))
        for number, pixels in images.items()
    ]
    return tuple(torch.cat(parts) for parts in zip(*each, strict=True))
