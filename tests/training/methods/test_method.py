"""Both methods through the protocol that the training loop uses."""

from typing import get_args, get_type_hints

import pytest
import timm
import torch
from torch import nn

from training.__main__ import recipe_configs
from training.methods import augment, config, mae, simclr
from training.methods.config import METHODS
from training.methods.mae import pixel_statistics
from training.methods.method import Method
from training.pretraining.config import PretrainConfig

SMALL = {"mae": {"decoder_depth": 1, "decoder_width": 16, "decoder_heads": 1}, "simclr": {"dimensions": 8}}
pytestmark = pytest.mark.usefixtures("one_thread")


def make(name: str) -> Method:
    config, augmentation, method = (METHODS[name].load(part) for part in ("config", "augmentation", "method"))
    made: Method = method(config(encoder="test_vit", image_size=64, **SMALL[name]), augmentation())
    return made


def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 80, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Wrapper(nn.Module):
    """What DDP or torch.compile puts around a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = module, 0

    def forward(self, *views: torch.Tensor) -> object:
        self.calls += 1
        return self.inner(*views)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_depends_on_the_generator_alone(name: str) -> None:
    method = make(name)
    wrapper = Wrapper(method.module)
    losses = [method.loss(wrapper, method.views(images(), seeded(seed))) for seed in (0, 0, 1)]
    assert wrapper.calls == 3  # once a step
    assert losses[0].shape == ()
    assert losses[0] == losses[1] != losses[2]
    assert method.encoder is method.module.get_submodule("encoder")
    losses[2].backward()
    assert method.encoder.get_parameter("blocks.0.attn.qkv.weight").grad.abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_views_are_normalised_as_timm_users_will(name: str) -> None:
    method = make(name)
    data = timm.data.resolve_model_data_config(timm.create_model("test_vit"))
    assert pixel_statistics(method.encoder) == (data["mean"], data["std"])
    grey = torch.full((2, 70, 70, 3), 51, dtype=torch.uint8)
    expected = (0.2 - torch.tensor(data["mean"])) / torch.tensor(data["std"])
    pixels = method.views(grey, seeded())[0]
    assert pixels.shape == (2, 3, 64, 64)
    if name == "mae":
        torch.testing.assert_close(pixels, expected[:, None, None].expand(2, 3, 64, 64), atol=1e-5, rtol=0)


def test_mae_masks_by_the_generators_noise_and_loss_is_the_modules() -> None:
    method = make("mae")
    pixels, noise = method.views(images(), seeded())
    generator = seeded()
    crops = augment.random_crops(images(), 64, config.Augmentation(), generator)
    assert torch.equal(pixels, augment.normalise(crops, *pixel_statistics(method.encoder)))
    assert torch.equal(noise, torch.rand(4, 16, generator=generator))
    assert method.loss(method.module, (pixels, noise)) == method.module(pixels, noise)


def test_simclr_compares_two_different_views_of_the_same_images() -> None:
    method = make("simclr")
    first, second = method.views(images(), seeded())
    assert first.shape == second.shape == (4, 3, 64, 64)
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 0.1
    with torch.no_grad():
        expected = simclr.nt_xent(*method.module(first, second), 0.1)
        assert method.loss(method.module, (first, second)) == expected
    flat = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    flat[1] = 255  # a black and a white image: views of one image stay together
    one, other = method.views(flat, seeded())
    assert one[0].max() == other[0].max() < one[1].min()


def test_pictures_show_the_original_the_masked_and_the_reconstructed() -> None:
    method = make("mae")
    picture = method.picture(images(), seeded())
    assert (picture.shape, picture.dtype) == ((4, 3, 64, 192), torch.uint8)
    original, masked, reconstructed = picture.split(64, dim=3)
    pixels, noise = method.views(images(), seeded())
    assert torch.equal(original, augment.to_bytes(pixels, *pixel_statistics(method.encoder)))
    hidden = mae.random_mask(noise, 4).masked_BT.view(4, 4, 4).repeat_interleave(16, 1).repeat_interleave(16, 2)
    hidden = hidden[:, None].expand(-1, 3, -1, -1)
    assert masked[hidden].unique().tolist() == [128]
    assert torch.equal(masked[~hidden], original[~hidden])
    assert torch.equal(reconstructed[~hidden], original[~hidden])
    predicted = augment.to_bytes(method.module.reconstruct(pixels, noise)[0], *pixel_statistics(method.encoder))
    assert torch.equal(reconstructed[hidden], predicted[hidden])
    views = make("simclr").picture(images(), seeded())
    assert (views.shape, views.dtype) == ((4, 3, 64, 128), torch.uint8)


def test_the_command_line_offers_every_method_and_its_own_options() -> None:
    assert get_args(get_type_hints(PretrainConfig)["method"]) == tuple(METHODS)
    for name, parts in METHODS.items():
        *_, model, augmentation = recipe_configs(["--method", name])
        assert (model, augmentation) == (parts.load("config"), parts.load("augmentation"))
    assert recipe_configs([]) == recipe_configs(["--method", "mae"])
