"""Weights that do not fit, or that bring code, are refused with what was seen in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from curation.embeddings import encoder
from curation.embeddings.checkpoints import read_weights
from curation.embeddings.config import EmbedConfig

Tensors = dict[str, torch.Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def no_patches(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("patch_embed")}


MISFITS: dict[str, tuple[Callable[[Tensors], Any], tuple[str, ...]]] = {
    "almost nothing": (
        lambda t: {"x.patch_embed.proj.weight": t["patch_embed.proj.weight"], "x.norm.weight": t["norm.weight"]},
        ("tensors missing", "'x.' 2 of", "width 64, 0 blocks and patches of 16"),
    ),
    "no class token": (
        lambda t: {name: each for name, each in t.items() if name != "cls_token"},
        ("1 tensors missing (cls_token)", "'(none)'"),
    ),
    "a deeper encoder": (
        lambda t: t | {"blocks.6.norm1.weight": t["blocks.5.norm1.weight"]},
        ("1 that this encoder does not have (blocks.6.norm1.weight)", "7 blocks"),
    ),
    "registers": (lambda t: t | {"register_tokens": torch.zeros(1, 4, 64)}, ("does not have (reg_token)",)),
    "layer scale": (lambda t: t | {"blocks.0.ls1.gamma": torch.ones(64)}, ("does not have (blocks.0.ls1.gamma)",)),
    "other patches": (
        lambda t: t | {"patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)},
        ("patch_embed.proj.weight is (64, 3, 14, 14), expected (64, 3, 16, 16)", "patches of 14"),
    ),
    "no patches": (no_patches, ("no prefix holds patch_embed.proj.weight", "blocks (72)")),
    "another width": (
        lambda _: timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=6).state_dict(),
        ("of another shape", "vit_tiny_patch16_224"),
    ),
    "names of transformers": (
        lambda t: {"vit.embeddings.patch_embeddings.projection.weight": t["patch_embed.proj.weight"]},
        ("names of the transformers library", "vit (1)"),
    ),
    "a convolutional network": (
        lambda _: {"layer1.0.conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)},
        ("found fc (1), layer1 (1)",),
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_with_what_was_seen(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    change, told = MISFITS[name]
    torch.save(change(model().state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth do not fit test_vit: ") as caught:
        encoder.configured(config(weights=str(tmp_path / "w.pth")))
    for text in (*told, "--encoder"):
        assert text in str(caught.value)


class Config:
    """A class that a checkpoint may bring."""


def test_a_file_that_brings_code_is_refused_by_the_name_of_its_class(model: Callable[..., Any], tmp_path: Path) -> None:
    torch.save({"model": model().state_dict(), "cfg": Config()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"an object of the class [\w.]*Config, .*torch.save\("):
        read_weights(str(tmp_path / "w.pth"))
