"""SimCLR (Chen et al., arXiv 2002.05709) over a timm Vision Transformer. It knows neither files nor the loop.

Legend: N images of this rank, W ranks; D dimensions; two views of each image, first and second.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from curation.options import require
from training.methods.augment import normalise, simclr_views, to_bytes
from training.methods.config import SimclrAugmentation, SimclrConfig
from training.methods.mae import build_encoder, initialise, pixel_statistics


class SimCLR(nn.Module):
    """`encoder` is plain timm, as in `MaskedAutoencoder`; `head` is dropped after pre-training.

    The head is the paper's g(h) = W2 relu(W1 h), with one more such layer by option and without batch norm (OURS: its
    statistics would make two ranks differ from one with twice the batch).
    """

    def __init__(self, config: SimclrConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.encoder = build_encoder(config.encoder, config.image_size, generator)
        self.pooling = config.pooling
        require(
            config.pooling == "mean" or bool(self.encoder.has_class_token),
            f"encoder {config.encoder} has no class token; use pooling mean",
        )
        hidden = config.head_width or self.encoder.embed_dim
        widths = [self.encoder.embed_dim, *[hidden] * (config.head_layers - 1)]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for before, after in pairwise(widths):
                layers += [nn.Linear(before, after), nn.ReLU()]
            self.head = nn.Sequential(*layers, nn.Linear(hidden, config.dimensions))
        initialise(self.head, generator)

    def project(self, images_NCSS: Tensor) -> Tensor:
        """Return projections [N, D], not of unit length."""
        tokens = self.encoder.forward_features(images_NCSS)
        prefix = self.encoder.num_prefix_tokens
        pooled = tokens[:, 0] if self.pooling == "cls" else tokens[:, prefix:].mean(dim=1)
        return cast(Tensor, self.head(self.encoder.fc_norm(pooled)))

    def forward(self, first_NCSS: Tensor, second_NCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Project both views in one pass."""
        first, second = self.project(torch.cat([first_NCSS, second_NCSS])).chunk(2)
        return first, second


def nt_xent(first_ND: Tensor, second_ND: Tensor, temperature: float, group: ProcessGroup | None = None) -> Tensor:
    """Return this rank's mean of the paper's loss (eq. 1) over its 2 N views, each against the views of all ranks.

    Every rank has equally many images. The mean over ranks is the loss of the whole batch, and gradients reach every
    rank's projections: so gradients averaged over ranks, as DDP does, are equal to one rank's with the whole batch.
    Costs 4 W N^2 D multiplications, in float32 or a wider type of the projections.
    """
    assert first_ND.shape == second_ND.shape
    both = torch.cat([first_ND, second_ND])
    with torch.autocast(both.device.type, enabled=False):
        own = nn.functional.normalize(both.to(torch.promote_types(both.dtype, torch.float32)), dim=1)
        distributed = dist.is_available() and dist.is_initialized()
        everyone = _gather(own, group) if distributed else own
        views, images = len(own), len(first_ND)
        own_index = torch.arange(views, device=own.device) + (dist.get_rank(group) * views if distributed else 0)
        partner = own_index.roll(images)
        logits = own @ everyone.T / temperature
        logits = logits.scatter(1, own_index[:, None], -torch.inf)  # a view is not compared with itself
        return nn.functional.cross_entropy(logits, partner)


class _Gather(torch.autograd.Function):
    """Stack the rows of all ranks; the gradient of a rank's rows is the sum over all ranks.

    PyTorch deprecates its own (torch.distributed.nn.functional.all_gather) for one that only new versions have.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, rows.contiguous(), group=group)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(dist.get_world_size(ctx.group))[dist.get_rank(ctx.group)], None


def _gather(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    return cast(Tensor, _Gather.apply(rows, group))


class SimclrMethod:
    """The training loop's interface of SimCLR; see training/methods/method.py."""

    compares_images = True

    def __init__(self, config: SimclrConfig, augmentation: SimclrAugmentation) -> None:
        self.config, self.augmentation = config, augmentation
        self.module = SimCLR(config)
        self.encoder = self.module.encoder

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Two views of each image, normalised as the encoder expects."""
        pixels = simclr_views(torch.cat([images, images]), self.config.image_size, self.augmentation, generator)
        return normalise(pixels, *pixel_statistics(self.encoder)).chunk(2)

    def loss(self, model: nn.Module, views: tuple[Tensor, ...]) -> Tensor:
        """Project by `model`, the module or its wrapper, and compare."""
        first, second = model(*views)
        return nt_xent(first, second, self.config.temperature)

    def remaining_tensors(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The projection head's tensors of a checkpoint of ours."""
        parent = prefix.removesuffix("encoder.")
        head = f"{parent}head."
        return {name.removeprefix(parent): tensor for name, tensor in tensors.items() if name.startswith(head)}

    @torch.no_grad()
    def picture(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Both views side by side."""
        shown = [to_bytes(view, *pixel_statistics(self.encoder)) for view in self.views(images, generator)]
        return torch.cat(shown, dim=3)
