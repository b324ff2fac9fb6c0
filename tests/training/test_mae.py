"""The masked autoencoder against the paper written out in NumPy float64, and its encoder against plain timm."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from training import mae

Array = npt.NDArray[np.float64]
SIZE, PATCH, HEADS, DECODER_HEADS = 64, 16, 2, 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**values: Any) -> mae.MaeConfig:
    small = {"encoder": "test_vit", "image_size": SIZE, "decoder_depth": 2, "decoder_width": 32}
    return mae.MaeConfig(**small | {"decoder_heads": DECODER_HEADS} | values)


def draw(count: int, size: int = SIZE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images, torch.rand(count, (size // PATCH) ** 2, generator=generator)


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


def perturbed(**values: Any) -> mae.MaskedAutoencoder:
    """A model in float64 none of whose biases, norms and tokens are at their trivial starting values."""
    model = mae.MaskedAutoencoder(config(**values)).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return model


@pytest.mark.parametrize("normalised", [True, False])
def test_loss_and_prediction_equal_the_paper_written_out(normalised: bool) -> None:
    model = perturbed(normalise_pixels=normalised)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    images, noise = (each.double() for each in draw(2))
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
def test_mask_ratio_sets_what_is_visible(ratio: float, visible: int) -> None:
    assert mae.MaskedAutoencoder(config(mask_ratio=ratio)).visible == visible  # of 16


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit", 64),  # class token, flexible sizes
        ("test_vit2", 64),  # a register, no class token, norm behind the pooling, layer scale
        ("test_vit3", 64),  # pooling by attention
        ("vit_small_patch14_reg4_dinov2", 28),  # no row of the position table for class token and registers
        ("vit_xsmall_patch16_clip_224", 32),  # a norm before the blocks
    ],
)
def test_features_equal_timms_after_export(name: str, size: int, tmp_path: Path) -> None:
    model = mae.MaskedAutoencoder(config(encoder=name, image_size=size, mask_ratio=0.5)).eval()
    save_file(model.encoder.state_dict(), tmp_path / "encoder.safetensors")
    plain = timm.create_model(name, img_size=size, num_classes=0).eval()
    plain.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        features = plain.forward_features(images)
        everything = torch.arange(model.patches).repeat(2, 1)
        torch.testing.assert_close(model.encode(images, everything), features, atol=1e-5, rtol=1e-5)
        turned = model.encode(images, everything.flip(1))  # a set: the order does not matter
    prefix = plain.num_prefix_tokens
    rows = 0 if plain.no_embed_class else prefix
    assert torch.equal(plain.pos_embed, mae.fixed_positions(2 if size < 64 else 4, plain.embed_dim, rows))
    torch.testing.assert_close(turned[:, prefix:].flip(1), features[:, prefix:], atol=1e-5, rtol=1e-5)
    assert features[:, prefix:].std() > 0.01


def test_the_encoder_does_not_see_masked_patches() -> None:
    model = mae.MaskedAutoencoder(config())
    images, noise = draw(2)
    mask = mae.random_mask(noise, model.visible)
    hidden = mae.unpatchify(mask.masked_BT[:, :, None].expand(-1, -1, 768), PATCH)
    features = model.encode(images, mask.visible_BV)
    assert features.shape == (2, 1 + 4, 64)
    assert torch.equal(model.encode(images.masked_fill(hidden, 7.0), mask.visible_BV), features)
    assert (model.encode(images.masked_fill(~hidden, 7.0), mask.visible_BV) - features).abs().max() > 0.1


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_every_parameter_learns_but_the_position_tables(name: str) -> None:
    model = mae.MaskedAutoencoder(config(encoder=name))
    model(*draw(2)).backward()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad and not n.startswith("encoder.attn_pool")}
    assert frozen == {"encoder.pos_embed", "decoder.pos_embed"}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:  # DDP waits for ever for a gradient that never comes
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


def test_only_masked_patches_have_a_loss() -> None:
    model = mae.MaskedAutoencoder(config(normalise_pixels=False))
    images, noise = draw(2)
    with torch.no_grad():
        error, masked = model.errors(images, noise)
    assert model(images, noise).item() == pytest.approx(error[masked].mean().item(), rel=1e-6)
    assert error[masked].mean() != pytest.approx(error.mean().item(), rel=1e-3)


def test_position_tables_by_hand() -> None:
    table = mae.fixed_positions(3, 8, prefix=2)[0]
    assert table.shape == (11, 8)
    assert not table[:2].any()
    row, column = 2, 1
    expected = [wave(place * rate) for place in (column, row) for wave in (math.sin, math.cos) for rate in (1, 0.01)]
    np.testing.assert_allclose(table[2 + row * 3 + column], expected, atol=1e-7)
    model = mae.MaskedAutoencoder(config())
    assert torch.equal(model.encoder.get_parameter("pos_embed"), mae.fixed_positions(4, 64, prefix=1))
    assert torch.equal(model.decoder.pos_embed, mae.fixed_positions(4, 32, prefix=1))


def test_weights_start_as_the_recipe_says() -> None:
    model = mae.MaskedAutoencoder(config(decoder_width=128))
    matrices = {n: p for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith(("_token", "pos_embed"))}
    assert len(matrices) == 1 + 6 * 4 + 2 + 2 * 4
    for name, matrix in matrices.items():
        flat = matrix.detach().flatten(1)
        bound = math.sqrt(6 / sum(flat.shape))
        assert bound * 0.98 < flat.abs().max() <= bound, name
        assert flat.std() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        if name.endswith("_token"):
            assert parameter.detach().std() == pytest.approx(0.02, rel=0.3), name


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    first = mae.MaskedAutoencoder(config()).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the global generator is left as it was
    again, other = (mae.MaskedAutoencoder(config(seed=seed)).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.blocks.0.attn.qkv.weight"], other["encoder.blocks.0.attn.qkv.weight"])
    assert not torch.equal(first["decoder.mask_token"], other["decoder.mask_token"])


@pytest.mark.parametrize("normalised", [True, False])
def test_reconstruction_is_in_the_units_of_the_image(normalised: bool) -> None:
    model = mae.MaskedAutoencoder(config(normalise_pixels=normalised))
    images, noise = draw(2)
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


def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that published MAE checkpoints have, spelt out."""
    names = {"decoder.embed": "decoder_embed", "decoder.pos_embed": "decoder_pos_embed", "decoder.norm": "decoder_norm"}
    names |= {"decoder.mask_token": "mask_token", "decoder.pred": "decoder_pred", "decoder.blocks": "decoder_blocks"}
    names |= {"encoder.": ""}
    result = {}
    for key, value in state.items():
        ours = next(name for name in names if key.startswith(name))
        result[names[ours] + key[len(ours) :]] = value
    return result


def test_published_checkpoints_load() -> None:
    model, other = mae.MaskedAutoencoder(config(seed=3)), mae.MaskedAutoencoder(config(seed=4))
    theirs = published(model.state_dict())
    assert {"cls_token", "blocks.0.attn.qkv.weight", "decoder_blocks.1.mlp.fc2.bias", "mask_token"} <= theirs.keys()
    assert "decoder_pred.weight" in theirs
    images, noise = draw(1)
    assert other(images, noise) != model(images, noise)
    for state in (theirs, {"model": theirs, "epoch": 3}, model.state_dict()):
        other.load_state_dict(mae.load_published(state), strict=True)
        assert torch.equal(other(images, noise), model(images, noise))
    classifier = timm.create_model("test_vit", img_size=SIZE, num_classes=5)
    mapped = mae.load_published(classifier.state_dict())
    assert mapped.keys() == {f"encoder.{name}" for name in model.encoder.state_dict()}
    with pytest.raises(ValueError, match="holds no tensors by name, nor under 'model'; found epoch"):
        mae.load_published({"epoch": 3})


def test_options_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="image_size 60 is not a multiple of the encoder's patch, 16; use 48"):
        mae.MaskedAutoencoder(config(image_size=60))
    with pytest.raises(ValueError, match=r"'vit_tiny_patch61_224' is no Vision Transformer .* vit_tiny_patch16_224"):
        mae.MaskedAutoencoder(config(encoder="vit_tiny_patch61_224"))
    with pytest.raises(ValueError, match=r"mask_ratio 0\.75 of 1 patches leaves 0 visible"):
        mae.MaskedAutoencoder(config(image_size=16))
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.0; it must be between 0 and 1"):
        config(mask_ratio=1.0)
    with pytest.raises(ValueError, match="decoder_width is 30; it must be a multiple of decoder_heads, 4"):
        config(decoder_width=30)


def test_bfloat16_autocast_is_close_and_the_loss_stays_float32() -> None:
    model = mae.MaskedAutoencoder(config())
    images, noise = draw(4)
    exact = model(images, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images, noise)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() - exact.item()) < 0.01 * exact.item()


def test_a_tiny_model_learns_eight_images_by_heart() -> None:
    """2 blocks, 8 colour gradients, 200 steps: the loss falls from 0.72 to 0.01 (0.58 without positions)."""
    model = mae.MaskedAutoencoder(config(decoder_depth=1, normalise_pixels=False))
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
