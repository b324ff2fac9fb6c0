"""What tests of weights share: a small encoder's config, a model with drawn tensors, and its outputs."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from curation.embeddings.config import EmbedConfig

NAME, SIZE = "test_vit", 64


@pytest.fixture(scope="session")
def config() -> Callable[..., EmbedConfig]:
    """config(**values): of the small encoder."""

    def make(**values: Any) -> EmbedConfig:
        return EmbedConfig(**{"run_dir": "unused", "encoder": NAME, "image_size": SIZE, "pooling": "mean"} | values)

    return make


@pytest.fixture(scope="session")
def model() -> Callable[..., Any]:
    """model(name, seed, size, ...): a timm model whose every tensor is drawn, so that none is neutral."""

    def make(name: str = NAME, seed: int = 1, size: int = SIZE, **values: Any) -> Any:
        made = timm.create_model(name, num_classes=0, img_size=size, **values)
        generator = torch.Generator().manual_seed(seed)
        for parameter in made.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        return made.eval()

    return make


@pytest.fixture(scope="session")
def features() -> Callable[..., torch.Tensor]:
    """features(model, size): the model's outputs for one image."""

    def of(one: Any, size: int = SIZE) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = one.forward_features(torch.linspace(-1, 1, 3 * size**2).reshape(1, 3, size, size))
        return found

    return of
