"""A masked autoencoder's weights: how they start, what timm and published checkpoints make of them, wrong options."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from training.methods import config, mae
from training.methods.config import Augmentation
from training.methods.mae import pixel_statistics
from training.pretraining import weights

Config = Callable[..., config.MaeConfig]
Draw = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
SIZE = 64  # of the model that mae_config makes
pytestmark = pytest.mark.usefixtures("one_thread")


def test_weights_start_as_the_recipe_says(mae_config: Config) -> None:
    model = mae.MaskedAutoencoder(mae_config(decoder_width=128))
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


def test_the_seed_decides_the_weights_and_nothing_else_does(mae_config: Config) -> None:
    torch.manual_seed(1)
    first = mae.MaskedAutoencoder(mae_config()).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the global generator is left as it was
    again, other = (mae.MaskedAutoencoder(mae_config(seed=seed)).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.blocks.0.attn.qkv.weight"], other["encoder.blocks.0.attn.qkv.weight"])
    assert not torch.equal(first["decoder.mask_token"], other["decoder.mask_token"])


def test_position_tables_by_hand(mae_config: Config) -> None:
    table = mae.fixed_positions(3, 8, prefix=2)[0]
    assert table.shape == (11, 8)
    assert not table[:2].any()
    row, column = 2, 1
    expected = [wave(place * rate) for place in (column, row) for wave in (math.sin, math.cos) for rate in (1, 0.01)]
    np.testing.assert_allclose(table[2 + row * 3 + column], expected, atol=1e-7)
    model = mae.MaskedAutoencoder(mae_config())
    assert torch.equal(model.encoder.get_parameter("pos_embed"), mae.fixed_positions(4, 64, prefix=1))
    assert torch.equal(model.decoder.pos_embed, mae.fixed_positions(4, 32, prefix=1))


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
def test_features_equal_timms_after_export(mae_config: Config, name: str, size: int, tmp_path: Path) -> None:
    model = mae.MaskedAutoencoder(mae_config(encoder=name, image_size=size, mask_ratio=0.5)).eval()
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


def test_published_checkpoints_load(mae_config: Config, images_and_noise: Draw, tmp_path: Path) -> None:
    model = mae.MaskedAutoencoder(mae_config(seed=3))
    theirs, path = published(model.state_dict()), str(tmp_path / "w.pth")
    assert {"cls_token", "blocks.0.attn.qkv.weight", "decoder_blocks.1.mlp.fc2.bias", "mask_token"} <= theirs.keys()
    assert "decoder_pred.weight" in theirs
    images, noise = images_and_noise(1)
    for state in (theirs, {"model": theirs, "epoch": 3}, model.state_dict(), {"model": model.state_dict()}):
        torch.save(state, path)
        method = mae.MaeMethod(mae_config(seed=4), Augmentation())
        assert method.module(images, noise) != model(images, noise)
        weights.initialise_from(method, path, method.config)
        assert torch.equal(method.module(images, noise), model(images, noise))
    torch.save(theirs, path)
    method = mae.MaeMethod(mae_config(seed=4), Augmentation())
    assert pixel_statistics(method.encoder)[0] == (0.5, 0.5, 0.5)  # timm's for the name
    weights.initialise_from(method, path, method.config)
    assert pixel_statistics(method.encoder) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )  # those of all published MAEs


def test_options_that_cannot_be(mae_config: Config) -> None:
    with pytest.raises(ValueError, match="image_size 60 is not a multiple of the encoder's patch, 16; use 48"):
        mae.MaskedAutoencoder(mae_config(image_size=60))
    with pytest.raises(ValueError, match=r"'vit_tiny_patch61_224' is not a Vision Transformer .* vit_tiny_patch16_224"):
        mae.MaskedAutoencoder(mae_config(encoder="vit_tiny_patch61_224"))
    with pytest.raises(ValueError, match=r"mask_ratio 0\.75 of 1 patches leaves 0 visible"):
        mae.MaskedAutoencoder(mae_config(image_size=16))
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.0; it must be between 0 and 1"):
        mae_config(mask_ratio=1.0)
    with pytest.raises(ValueError, match="decoder_width is 30; it must be a multiple of decoder_heads, 4"):
        mae_config(decoder_width=30)
