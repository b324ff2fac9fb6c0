"""FLOPs against a count by hand, and the arithmetic of what was saved."""

import os
import subprocess
import sys

import pytest

from training.methods.config import Augmentation, MaeConfig, SimclrAugmentation, SimclrConfig
from training.methods.mae import MaeMethod
from training.methods.simclr import SimclrMethod
from training.pretraining.cost import Cost, flops_per_image


def blocks(depth: int, width: int, tokens: int) -> int:
    """Forward FLOPs of transformer blocks: qkv, projection and a fourfold MLP, and attention's two products."""
    return depth * (2 * 12 * width**2 * tokens + 2 * 2 * width * tokens**2)


def test_flops_of_mae_are_those_of_its_layers() -> None:
    config = MaeConfig(encoder="vit_tiny_patch16_224", decoder_depth=2, decoder_width=64, decoder_heads=2)
    width, patches, visible, values = 192, 196, 49, 768
    patching = 2 * values * width * patches
    around = 2 * width * 64 * (visible + 1) + 2 * 64 * values * patches
    forward = patching + blocks(12, width, visible + 1) + around + blocks(2, 64, patches + 1)
    counted = flops_per_image(MaeMethod(config, Augmentation()), 280)
    assert counted == 3 * forward - patching  # backward is twice forward, but the image needs no gradient


COUNT = """
from training.methods.config import Augmentation, MaeConfig, SimclrAugmentation, SimclrConfig
from training.methods.mae import MaeMethod
from training.methods.simclr import SimclrMethod
from training.pretraining.cost import flops_per_image
small = {"encoder": "vit_tiny_patch16_224", "image_size": 64}
mae = MaeMethod(MaeConfig(decoder_depth=1, decoder_width=32, decoder_heads=2, **small), Augmentation())
print(flops_per_image(mae, 80), flops_per_image(SimclrMethod(SimclrConfig(**small), SimclrAugmentation()), 80))
"""


@pytest.mark.parametrize(
    "chip", [{"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "default"}]
)
def test_flops_are_the_same_on_every_chip(chip: dict[str, str]) -> None:
    """By hand: 16 patches, 4 of them visible to the MAE, all of them in both views of SimCLR."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=os.environ | chip, capture_output=True, text=True, check=True, timeout=120
    )
    width, patching = 192, 2 * 768 * 192 * 16
    mae = patching + blocks(12, width, 5) + 2 * width * 32 * 5 + blocks(1, 32, 17) + 2 * 32 * 768 * 16
    simclr = 2 * (patching + blocks(12, width, 17) + 2 * width * (width + 128))
    compared = 2 * 128 * 2 * 4  # the logits: a batch of two images has four views, each against four
    counted = [float(text) for text in done.stdout.split()]
    assert counted == [3 * mae - patching, 3 * (simclr + compared) - 2 * patching]


def test_counting_leaves_the_method_as_it_was_and_takes_simclr_too() -> None:
    method = SimclrMethod(SimclrConfig(encoder="test_vit", image_size=32), SimclrAugmentation())
    before = [parameter.detach().clone() for parameter in method.module.parameters()]
    assert flops_per_image(method, 40) > 0
    for old, parameter in zip(before, method.module.parameters(), strict=True):
        assert parameter.grad is None
        assert old.equal(parameter)


def test_the_card_by_hand() -> None:
    cost = Cost(
        updates=100,
        images_seen=1600,
        frames=200,
        flops_per_image=5e9,
        device_seconds=7200.0,
        encoded_bytes=30_000,
        decoded_bytes=9,
    )
    assert cost.card() == {
        "updates": 100,
        "images_seen": 1600,
        "epochs": 8.0,
        "flops": 8e12,
        "flops_per_image": 5e9,
        "device_hours": 2.0,
        "bytes_read": 30_000,
        "decoded_bytes_kept": 9,
    }
    assert Cost(**vars(cost) | {"decoded_bytes": 0}).card()["bytes_read"] == 240_000
    saved = cost.saved(pool=1000, pool_bytes=120_000, reference_epochs=4)
    assert saved["images_seen"] == 4000
    assert saved["device_hours"] == pytest.approx(5.0)
    assert saved["compute_saved"] == pytest.approx(0.6)
    assert saved["storage_saved"] == pytest.approx(0.75)
    equal = Cost(**vars(cost) | {"images_seen": 4000})
    assert equal.saved(1000, 120_000, 4)["compute_saved"] == 0
