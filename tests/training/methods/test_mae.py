"""The masked autoencoder against the paper written out in NumPy float64: masks, loss, gradients and learning."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.methods import mae
from training.methods.config import MaeConfig

Array = npt.NDArray[np.float64]
Config = Callable[..., MaeConfig]
Draw = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
SIZE, PATCH, HEADS, DECODER_HEADS = 64, 16, 2, 4  # of the model that mae_config makes
pytestmark = pytest.mark.usefixtures("one_thread")


def norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def block(x: Array, weights: dict[str, Array], name: str, heads: int) -> Array:
    qkv = linear(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv")
    width = x.shape[1] // heads
    mixed = np.zeros_like(x)
    for head in range(heads):
        query, key, value = (qkv[:, part * x.shape[1] + head * width :][:, :width] for part in range(3))
        for i in range(len(x)):
            scores = np.array([query[i] @ key[j] for j in range(len(x))]) / math.sqrt(width)
            chances = np.exp(scores - scores.max())
            mixed[i, head * width : (head + 1) * width] = (chances / chances.sum()) @ value
    x = x + linear(mixed, weights, f"{name}.attn.proj")
    hidden = linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
    return x + linear(hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))), weights, f"{name}.mlp.fc2")


def reference_loss(weights: dict[str, Array], image: Array, noise: Array, normalised: bool) -> tuple[float, Array]:
    """The loss of one image [3, S, S], and the prediction for every patch, pixels in the order row, column, channel."""
    grid, count = SIZE // PATCH, (SIZE // PATCH) ** 2
    cuts = [image[:, r * PATCH :, c * PATCH :][:, :PATCH, :PATCH] for r in range(grid) for c in range(grid)]
    visible = sorted(range(count), key=lambda place: noise[place])[: count // 4]
    kernel, table = weights["encoder.patch_embed.proj.weight"], weights["encoder.pos_embed"][0]
    tokens = [weights["encoder.cls_token"][0, 0] + table[0]]
    for place in visible:
        embedded = np.array([(kernel[d] * cuts[place]).sum() for d in range(len(kernel))])
        tokens.append(embedded + weights["encoder.patch_embed.proj.bias"] + table[1 + place])
    x = np.array(tokens)
    for i in range(6):
        x = block(x, weights, f"encoder.blocks.{i}", HEADS)
    x = linear(norm(x, weights, "encoder.norm"), weights, "decoder.embed")
    full = np.array([x[0]] + [weights["decoder.mask_token"][0, 0]] * count)
    for row, place in enumerate(visible):
        full[1 + place] = x[1 + row]
    full = full + weights["decoder.pos_embed"][0]
    for i in range(2):
        full = block(full, weights, f"decoder.blocks.{i}", DECODER_HEADS)
    predicted = linear(norm(full, weights, "decoder.norm"), weights, "decoder.pred")[1:]
    errors = []
    for place in set(range(count)) - set(visible):
        target = cuts[place].transpose(1, 2, 0).reshape(-1)
        if normalised:
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        errors.append(((predicted[place] - target) ** 2).mean())
    return float(np.mean(errors)), predicted


def perturbed(config: MaeConfig) -> mae.MaskedAutoencoder:
    """A model in float64 none of whose biases, norms and tokens are at their trivial starting values."""
    model = mae.MaskedAutoencoder(config).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return model


@pytest.mark.parametrize("normalised", [True, False])
def test_loss_and_prediction_equal_the_paper_written_out(
    images_and_noise: Draw, mae_config: Config, normalised: bool
) -> None:
    model = perturbed(mae_config(normalise_pixels=normalised))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    images, noise = (each.double() for each in images_and_noise(2))
    images = images * 0.3 + 0.5
    expected = [reference_loss(weights, i.numpy(), n.numpy(), normalised) for i, n in zip(images, noise, strict=True)]
    assert model(images, noise).item() == pytest.approx(np.mean([loss for loss, _ in expected]), rel=1e-10)
    predicted = model.predict(images, mae.random_mask(noise, 4)).detach().numpy()
    np.testing.assert_allclose(predicted, [prediction for _, prediction in expected], atol=1e-10)


def test_patches_run_by_row_column_channel_and_go_back() -> None:
    images = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    patches = mae.patchify(images, 2)
    assert patches.shape == (2, 9, 12)
    assert patches[1, 5].tolist() == [
        images[1, c, 2 + y, 4 + x].item() for y in (0, 1) for x in (0, 1) for c in (0, 1, 2)
    ]
    assert torch.equal(mae.unpatchify(patches, 2), images)


def test_masks_hide_an_exact_share_by_the_noise_alone() -> None:
    noise = torch.rand(3000, 49, generator=torch.Generator().manual_seed(1))
    mask = mae.random_mask(noise, 12)
    assert torch.equal(mask.masked_BT.sum(dim=1), torch.full((3000,), 37))
    assert not mask.masked_BT.gather(1, mask.visible_BV).any()
    assert torch.equal(mae.random_mask(noise.clone(), 12).masked_BT, mask.masked_BT)
    shares = mask.masked_BT.double().mean(dim=0)
    assert (shares - 37 / 49).abs().max() < 4 * math.sqrt(37 / 49 * 12 / 49 / 3000)  # four standard errors
    together = (mask.masked_BT[:, 0] & mask.masked_BT[:, 1]).double().mean().item()
    assert together == pytest.approx(37 / 49 * 36 / 48, abs=0.04)  # neighbours are hidden independently
    by_hand = mae.random_mask(torch.tensor([[0.5, 0.1, 0.9, 0.3]]), 2)
    assert by_hand.masked_BT.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 4), (0.5, 8), (0.9, 2)])
def test_mask_ratio_sets_what_is_visible(mae_config: Config, ratio: float, visible: int) -> None:
    assert mae.MaskedAutoencoder(mae_config(mask_ratio=ratio)).visible == visible  # of 16


def test_the_encoder_does_not_see_masked_patches(mae_config: Config, images_and_noise: Draw) -> None:
    model = mae.MaskedAutoencoder(mae_config())
    images, noise = images_and_noise(2)
    mask = mae.random_mask(noise, model.visible)
    hidden = mae.unpatchify(mask.masked_BT[:, :, None].expand(-1, -1, 768), PATCH)
    features = model.encode(images, mask.visible_BV)
    assert features.shape == (2, 1 + 4, 64)
    assert torch.equal(model.encode(images.masked_fill(hidden, 7.0), mask.visible_BV), features)
    assert (model.encode(images.masked_fill(~hidden, 7.0), mask.visible_BV) - features).abs().max() > 0.1


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_every_parameter_learns_but_the_position_tables(mae_config: Config, images_and_noise: Draw, name: str) -> None:
    model = mae.MaskedAutoencoder(mae_config(encoder=name))
    model(*images_and_noise(2)).backward()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad and not n.startswith("encoder.attn_pool")}
    assert frozen == {"encoder.pos_embed", "decoder.pos_embed"}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:  # DDP waits for ever for a gradient that never comes
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


def test_only_masked_patches_have_a_loss(mae_config: Config, images_and_noise: Draw) -> None:
    model = mae.MaskedAutoencoder(mae_config(normalise_pixels=False))
    images, noise = images_and_noise(2)
    with torch.no_grad():
        error, masked = model.errors(images, noise)
    assert model(images, noise).item() == pytest.approx(error[masked].mean().item(), rel=1e-6)
    assert error[masked].mean() != pytest.approx(error.mean().item(), rel=1e-3)


@pytest.mark.parametrize("normalised", [True, False])
def test_reconstruction_is_in_the_units_of_the_image(
    mae_config: Config, images_and_noise: Draw, normalised: bool
) -> None:
    model = mae.MaskedAutoencoder(mae_config(normalise_pixels=normalised))
    images, noise = images_and_noise(2)
    images = images * 3 + 5
    with torch.no_grad():  # a decoder that says nothing but 0.5
        model.decoder.pred.weight.zero_()
        model.decoder.pred.bias.fill_(0.5)
    predicted, masked = model.reconstruct(images, noise)
    assert torch.equal(masked, mae.random_mask(noise, 4).masked_BT)
    patch, expected = images[1, :, 16:32, 48:], torch.tensor(0.5)
    if normalised:
        expected = patch.mean() + 0.5 * patch.std()
    torch.testing.assert_close(predicted[1, :, 16:32, 48:], expected.expand(3, 16, 16), atol=1e-4, rtol=0)


def test_bfloat16_autocast_is_close_and_the_loss_stays_float32(mae_config: Config, images_and_noise: Draw) -> None:
    model = mae.MaskedAutoencoder(mae_config())
    images, noise = images_and_noise(4)
    exact = model(images, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images, noise)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() - exact.item()) < 0.01 * exact.item()


def test_a_tiny_model_learns_eight_images_by_heart(mae_config: Config) -> None:
    """2 blocks, 8 colour gradients, 200 steps: the loss falls from 0.72 to 0.01 (0.58 without positions)."""
    model = mae.MaskedAutoencoder(mae_config(decoder_depth=1, normalise_pixels=False))
    model.encoder.blocks = model.encoder.blocks[:2]
    generator = torch.Generator().manual_seed(0)
    ramp, slopes = torch.linspace(-1, 1, SIZE), torch.randn(8, 3, 2, 1, 1, generator=generator)
    images = slopes[:, :, 0] * ramp + slopes[:, :, 1] * ramp[:, None]
    judged = torch.rand(8, 16, generator=generator)
    before = model(images, judged).item()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(200):
        optimiser.zero_grad()
        model(images, torch.rand(8, 16, generator=generator)).backward()
        optimiser.step()
    assert before == pytest.approx(0.72, abs=0.02)
    assert model(images, judged).item() < before / 20
