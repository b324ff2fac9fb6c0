"""What tests of training share: a small masked autoencoder's config and input."""

from collections.abc import Callable

import pytest
import torch

from training.methods.config import MaeConfig


@pytest.fixture(scope="session")
def mae_config() -> Callable[..., MaeConfig]:
    """mae_config(**values): a tiny model for images of 64 px, with patches of 16 and a decoder of 4 heads."""
    small = {"encoder": "test_vit", "image_size": 64, "decoder_depth": 2, "decoder_width": 32, "decoder_heads": 4}
    return lambda **values: MaeConfig(**small | values)


@pytest.fixture(scope="session")
def images_and_noise() -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """images_and_noise(count): what such a model takes, drawn from a seed."""

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, 64, 64, generator=generator), torch.rand(count, 16, generator=generator)

    return draw
