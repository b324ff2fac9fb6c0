"""Rates, lengths and parameter groups, by hand."""

import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.methods import config, mae, simclr
from training.pretraining import schedule


def test_both_readings_of_the_papers_rate() -> None:
    assert schedule.peak_learning_rate(1.5e-4, 4096, "scaled") == pytest.approx(2.4e-3)  # the MAE recipe
    assert schedule.peak_learning_rate(1.5e-4, 16, "scaled") == pytest.approx(9.375e-6)
    assert schedule.peak_learning_rate(1.5e-4, 16, "absolute") == 1.5e-4


def test_rates_by_hand() -> None:
    rates = [schedule.learning_rate(step, 8.0, 4, 12, minimum=2.0) for step in range(13)]
    assert rates[:5] == [0, 2, 4, 6, 8]
    assert rates[6] == pytest.approx(2 + 6 * 0.5 * (1 + math.sqrt(0.5)))
    assert rates[8] == pytest.approx(5)
    assert rates[10] == pytest.approx(2 + 6 * 0.5 * (1 - math.sqrt(0.5)))
    assert rates[12] == pytest.approx(2)
    assert schedule.learning_rate(99, 8.0, 4, 12, minimum=2.0) == pytest.approx(2)
    assert schedule.learning_rate(0, 8.0, 0, 12) == 8
    with pytest.raises(ValueError, match="warm-up of 12 steps does not fit a run of 12"):
        schedule.learning_rate(0, 8.0, 12, 12)


def test_warmup_is_the_recipes_share() -> None:
    assert schedule.warmup_steps(800) == 40
    assert schedule.warmup_steps(1000, 0.1) == 100
    assert schedule.warmup_steps(1) == 0
    assert schedule.warmup_steps(2, 0.9) == 1  # never the whole run
    with pytest.raises(ValueError, match="share is 1; it must be at least 0 and below 1"):
        schedule.warmup_steps(10, 1)


def test_lengths_by_hand() -> None:
    assert schedule.total_steps(100, 32, epochs=1) == 4
    assert schedule.total_steps(100, 32, epochs=8) == 25  # 800 images: batches run on from one epoch into the next
    assert schedule.total_steps(10, 32, epochs=3) == 1
    assert schedule.total_steps(88_282, 16, epochs=200) == 1_103_525
    assert schedule.total_steps(100, 32, steps=7) == 7
    assert schedule.total_steps(100, 32, images_seen=65) == 3
    assert schedule.epochs_to_images(2.5, 101) == 252  # to even
    with pytest.raises(ValueError, match="give one of epochs, steps and images_seen; found none"):
        schedule.total_steps(100, 32)
    with pytest.raises(ValueError, match="found epochs, steps"):
        schedule.total_steps(100, 32, epochs=1, steps=2)
    with pytest.raises(ValueError, match="epochs is 0; it must be above 0"):
        schedule.total_steps(100, 32, epochs=0)
    with pytest.raises(ValueError, match="0 frames in batches of 32"):
        schedule.total_steps(0, 32, epochs=1)


TABLE = [(1.0, 200), (0.5, 400), (1 / 3, 600), (0.2, 1000), (0.1, 2000), (0.05, 4000)]  # P1; it calls 1/3 0.33


@pytest.mark.parametrize(("ratio", "epochs"), TABLE)
def test_equal_compute_epochs_are_the_papers(ratio: float, epochs: int) -> None:
    assert schedule.equal_compute_epochs(200, ratio) == pytest.approx(epochs, rel=1e-12)


def test_equal_compute_is_as_many_images() -> None:
    assert schedule.equal_compute_epochs(200, 0.33) == pytest.approx(606.06, abs=0.01)
    for kept in (43_484, 28_352, 16_789, 9_055, 4_461):
        epochs = schedule.equal_compute_epochs(200, kept / 88_282)
        assert schedule.total_steps(kept, 16, epochs=epochs) == 1_103_525
    for ratio in (0, 1.1):
        with pytest.raises(ValueError, match=f"ratio is {ratio}; it must be above 0 and up to 1"):
            schedule.equal_compute_epochs(200, ratio)


@given(st.integers(2, 500), st.floats(0, 0.9), st.floats(1e-6, 10))
def test_the_rate_rises_then_falls(total: int, share: float, peak: float) -> None:
    warmup = schedule.warmup_steps(total, share)
    rates = [schedule.learning_rate(step, peak, warmup, total) for step in range(total)]
    assert rates == sorted(rates[:warmup]) + sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    assert min(rates) >= 0


def build(kind: str) -> torch.nn.Module:
    small = {"image_size": 32, "decoder_depth": 2, "decoder_width": 16, "decoder_heads": 1, "mask_ratio": 0.5}
    if kind == "simclr":
        return simclr.SimCLR(config.SimclrConfig(encoder="test_vit", image_size=32))
    if kind == "timm":
        return timm.create_model("test_vit2", num_classes=3, img_size=32)
    return mae.MaskedAutoencoder(config.MaeConfig(encoder=kind, **small))


@pytest.mark.parametrize("kind", ["test_vit", "test_vit2", "simclr", "timm"])
def test_groups_hold_every_trained_parameter_once(kind: str) -> None:
    module = build(kind)
    groups = schedule.parameter_groups(module, 0.05, layer_decay=0.8)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert sorted(held) == sorted(id(parameter) for parameter in trained.values())
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in trained.items():
        matrix = parameter.ndim > 1 and not any(part in name for part in ("token", "pos_embed"))
        assert decay[id(parameter)] == (0.05 if matrix else 0), name
    assert {0, 0.05} == set(decay.values())
    torch.optim.AdamW(groups, lr=1e-3)


def scales(module: torch.nn.Module, layer_decay: float) -> dict[str, float]:
    groups = schedule.parameter_groups(module, 0.05, layer_decay)
    by_id = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    return {name: by_id[id(parameter)] for name, parameter in module.named_parameters() if id(parameter) in by_id}


def test_layer_decay_by_hand() -> None:
    found = scales(build("test_vit"), 0.5)  # 6 blocks: layers 0 to 7
    assert found["encoder.patch_embed.proj.weight"] == found["encoder.cls_token"] == 0.5**7
    assert found["encoder.blocks.0.attn.qkv.weight"] == found["encoder.blocks.0.norm1.bias"] == 0.5**6
    assert found["encoder.blocks.5.mlp.fc2.weight"] == 0.5
    assert found["encoder.norm.weight"] == 1
    assert {value for name, value in found.items() if name.startswith("decoder.")} == {1}
    plain = scales(build("timm"), 0.5)  # 8 blocks
    assert plain["pos_embed"] == plain["reg_token"] == 0.5**9
    assert plain["blocks.7.ls1.gamma"] == 0.5
    assert plain["head.weight"] == plain["fc_norm.bias"] == 1


def test_without_layer_decay_two_groups_are_enough() -> None:
    groups = schedule.parameter_groups(build("test_vit"), 0.05)
    assert sorted((group["weight_decay"], group["lr_scale"]) for group in groups) == [(0, 1), (0.05, 1)]
