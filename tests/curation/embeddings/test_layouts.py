"""Weights whose position tables, norms and biases are laid out in another way than the encoder's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from curation.embeddings import encoder
from curation.embeddings.checkpoints import read_weights
from curation.embeddings.config import EmbedConfig

NAME, SIZE = "test_vit", 64
pytestmark = pytest.mark.usefixtures("one_thread")


def test_position_tables_of_other_sizes_and_rows(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], features: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    source, path = model(), str(tmp_path / "w.pth")
    tensors = source.state_dict()
    bare = tensors | {"pos_embed": tensors["pos_embed"][:, 1:]}
    torch.save(bare, path)  # no row for the class token: it has no position
    expected = copy.deepcopy(source)
    expected.pos_embed.data[:, :1] = 0
    torch.testing.assert_close(features(encoder.configured(config(weights=path))), features(expected), atol=0, rtol=0)
    large = model(size=96)
    torch.save(large.state_dict(), path)
    with_row = encoder.configured(config(weights=path)).state_dict()["pos_embed"]
    assert torch.equal(with_row[:, :1], large.pos_embed[:, :1])
    torch.save(large.state_dict() | {"pos_embed": large.pos_embed[:, 1:]}, path)
    without = encoder.configured(config(weights=path)).state_dict()["pos_embed"]
    assert torch.equal(without[:, 1:], with_row[:, 1:])
    torch.save(tensors | {"pos_embed": torch.zeros(1, 13, 64)}, path)  # 3 x 4, or 4 x 3, or 2 x 6
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 13, 64\), expected \(1, 17, 64\)"):
        encoder.configured(config(weights=path))


def test_a_class_token_whose_position_the_encoder_does_not_keep(
    model: Callable[..., Any], features: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    """DINOv2 with registers, as published: a row for the class token, none for the registers."""
    name = "vit_small_patch14_reg4_dinov2"
    source = model(name, size=28, depth=2)
    tensors = dict(source.state_dict())
    row = torch.randn(1, 1, 384)
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors["pos_embed"] = torch.cat([row, tensors["pos_embed"]], dim=1)
    tensors["cls_token"] = tensors["cls_token"] - row
    torch.save(tensors | {"mask_token": torch.zeros(1, 384)}, tmp_path / "w.pth")
    target = timm.create_model(name, num_classes=0, img_size=28, depth=2).eval()
    encoder.load_into(target, read_weights(str(tmp_path / "w.pth")), name)
    torch.testing.assert_close(features(target, 28), features(source, 28), atol=1e-5, rtol=1e-5)


def test_norms_before_and_behind_the_pooling(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], features: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    source, path = model(), str(tmp_path / "w.pth")
    behind = timm.create_model(NAME, num_classes=0, img_size=SIZE, global_pool="avg").eval()
    assert {"fc_norm.weight"} <= behind.state_dict().keys()
    torch.save(source.state_dict(), path)
    encoder.load_into(behind, read_weights(path), NAME)
    assert torch.equal(behind.fc_norm.weight, source.norm.weight)
    torch.testing.assert_close(behind.fc_norm(features(behind)), features(source), atol=0, rtol=0)
    torch.save(behind.state_dict(), path)  # and the other way
    torch.testing.assert_close(features(encoder.configured(config(weights=path))), features(source), atol=0, rtol=0)


def test_layers_without_a_bias_of_qkv(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], features: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    source = model(qkv_bias=False)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    loaded = encoder.configured(config(weights=str(tmp_path / "w.pth")))
    torch.testing.assert_close(features(loaded), features(source), atol=0, rtol=0)


def test_dinov3_embeds(
    config: Callable[..., EmbedConfig], features: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    built = encoder.configured(
        config(encoder="vit_small_patch16_dinov3", weights="random", image_size=32, pooling="cls")
    )
    assert built.num_prefix_tokens == 5
    assert features(built, 32).shape == (1, 9, 384)
