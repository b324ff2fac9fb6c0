"""The interface between the training loop and a pre-training method. It knows no method."""

from collections.abc import Mapping
from typing import Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Method(Protocol):
    """One method with its module. A step is `method.loss(wrapped, method.views(images, generator))`."""

    @property
    def module(self) -> nn.Module:
        """What is trained, kept in checkpoints, and wrapped by DDP or torch.compile."""

    @property
    def encoder(self) -> VisionTransformer:
        """The part of `module` that is exported: plain timm. Views are normalised by its own statistics."""

    @property
    def compares_images(self) -> bool:
        """Whether the loss compares the images of a batch with each other, so that ranks need equal shares of it."""

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Turn uint8 images [B, H, W, 3] or [B, 3, H, W] into what `loss` takes, on their device.

        Every random choice of a step is made here, from `generator`; how many depends only on B.
        """

    def loss(self, model: nn.Module, views: tuple[Tensor, ...]) -> Tensor:
        """Return this rank's mean loss, a scalar; `model` is `module` or its wrapper, and runs once.

        The mean over ranks is the loss of the whole batch.
        """

    def remaining_tensors(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Name the tensors of a file for `module` without the encoder; `prefix` is the encoder's in the file."""

    def picture(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the model's output for each image: uint8 [B, 3, S, n S], n panels side by side."""


class NotFiniteError(ValueError):
    """A loss or gradient that is not finite: the update, and the frames of its batch."""
