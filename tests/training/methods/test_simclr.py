"""NT-Xent against a double loop in float64, on one rank and on two; the model against timm.

Run as a script, this file is the second of two ranks.
"""

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from training.methods import mae, simclr
from training.methods.config import MaeConfig, SimclrConfig

RANKS, IMAGES, TEMPERATURE = 2, 3, 0.2
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**values: Any) -> SimclrConfig:
    return SimclrConfig(**{"encoder": "test_vit", "image_size": 32, "temperature": TEMPERATURE} | values)


def draw(count: int, dimensions: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, dimensions, generator=generator, dtype=torch.float64)
    return first, first + 0.5 * second


def naive(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], temperature: float) -> float:
    """Equation 1 and Algorithm 1 of the paper: views 2k and 2k + 1 are a pair."""
    views = [view for pair in zip(first, second, strict=True) for view in pair]

    def similarity(i: int, j: int) -> float:
        u, v = views[i], views[j]
        return float(u @ v / math.sqrt(u @ u) / math.sqrt(v @ v))

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(similarity(i, k) / temperature) for k in range(len(views)) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / others)

    pairs = range(0, len(views), 2)
    return sum(loss(k, k + 1) + loss(k + 1, k) for k in pairs) / len(views)


@pytest.mark.parametrize(("count", "temperature"), [(1, 0.1), (2, 0.5), (7, 0.1), (7, 1.0)])
def test_loss_equals_a_double_loop(count: int, temperature: float) -> None:
    first, second = draw(count, 5)
    expected = naive(first.numpy(), second.numpy(), temperature)
    assert simclr.nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    swapped = simclr.nt_xent(second.flip(0) * 9, first.flip(0), temperature)  # views, order and length do not matter
    assert swapped.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_loss_by_hand() -> None:
    """Pairs alike, images orthogonal: a view has its partner at similarity 1 and 2 N - 2 others at 0."""
    views = torch.eye(4, dtype=torch.float64)
    for temperature in (0.1, 1.0):
        expected = math.log(1 + 6 * math.exp(-1 / temperature))
        assert simclr.nt_xent(views, views, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_loss_is_stable() -> None:
    first, second = torch.eye(2) * 1e4, torch.eye(2).flip(0) * 1e-4  # each view's partner is the most unlike
    first.requires_grad_()
    loss = simclr.nt_xent(first, second, 1e-3)
    assert loss.item() == pytest.approx(1000, rel=1e-5)  # exp(1000) is beyond any float
    loss.backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_loss_is_computed_in_float32_under_autocast() -> None:
    first, second = (each.float() for each in draw(6, 16))
    exact = simclr.nt_xent(first, second, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(simclr.nt_xent(first, second, 0.1), exact)
    rounded = simclr.nt_xent(first.bfloat16(), second.bfloat16(), 0.1)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize(("name", "pooling"), [("test_vit", "cls"), ("test_vit", "mean"), ("test_vit2", "mean")])
@pytest.mark.parametrize("layers", [2, 3])
def test_projections_equal_timm_and_the_head_by_hand(name: str, pooling: str, layers: int) -> None:
    model = simclr.SimCLR(config(encoder=name, pooling=pooling, head_layers=layers, head_width=24)).eval()
    plain = timm.create_model(name, img_size=32, num_classes=0).eval()
    plain.load_state_dict(model.encoder.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pooled = plain.forward_head(plain.forward_features(images), pre_logits=True)
        if (name, pooling) == ("test_vit", "mean"):
            pooled = plain.forward_features(images)[:, 1:].mean(dim=1)
        matrices = [p for n, p in model.head.named_parameters() if n.endswith("weight")]
        assert [tuple(m.shape) for m in matrices] == [(24, 64), (24, 24), (128, 24)][:: 1 if layers == 3 else 2]
        for matrix in matrices[:-1]:
            pooled = (pooled @ matrix.T).clamp(min=0)
        first, second = model(images[:2], images[2:])
        torch.testing.assert_close(torch.cat([first, second]), pooled @ matrices[-1].T, atol=1e-5, rtol=1e-4)


def test_the_encoder_starts_as_that_of_mae() -> None:
    encoder = simclr.SimCLR(config()).encoder.state_dict()
    small = {"decoder_depth": 1, "decoder_width": 16, "decoder_heads": 1, "mask_ratio": 0.5}
    other = mae.MaskedAutoencoder(MaeConfig(encoder="test_vit", image_size=32, **small)).encoder.state_dict()
    assert all(torch.equal(encoder[name], other[name]) for name in other)


def test_every_parameter_learns_but_the_position_table() -> None:
    model = simclr.SimCLR(config())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    simclr.nt_xent(*model(images[:2], images[2:]), 0.5).backward()
    for name, parameter in model.named_parameters():
        if name == "encoder.pos_embed":
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_options_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="encoder test_vit2 has no class token; use pooling mean"):
        simclr.SimCLR(config(encoder="test_vit2"))
    with pytest.raises(ValueError, match=r"temperature is 0.0; it must be above 0"):
        config(temperature=0.0)
    with pytest.raises(ValueError, match="head_layers is 4; it must be 2 or 3"):
        config(head_layers=4)


def batch() -> torch.Tensor:
    """Two views of the images of all ranks, [2, W N, 3, 32, 32]."""
    shape = (2, RANKS * IMAGES, 3, 32, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def model_in_float64() -> simclr.SimCLR:
    model = simclr.SimCLR(config(dimensions=8)).double()
    model.encoder.blocks = model.encoder.blocks[:2]
    return model


def one_of_two(rank: int, folder: Path) -> None:
    store, limit = f"file://{folder}/store", timedelta(seconds=100)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=limit)
    mine = batch()[:, rank * IMAGES : (rank + 1) * IMAGES]
    wrapped = DistributedDataParallel(model_in_float64())
    loss = simclr.nt_xent(*wrapped(*mine), TEMPERATURE)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in wrapped.module.named_parameters()}
    torch.save({"loss": loss.item(), "gradients": gradients}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, __file__, str(tmp_path)]) as other:
        try:
            one_of_two(0, tmp_path)
            assert other.wait(timeout=60) == 0
        finally:
            other.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
    model = model_in_float64()
    projections = model(*batch())
    loss = simclr.nt_xent(*projections, TEMPERATURE)
    loss.backward()
    expected = naive(*(each.detach().numpy() for each in projections), TEMPERATURE)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS)]
    assert np.mean([result["loss"] for result in results]) == pytest.approx(expected, rel=1e-12)
    assert results[0]["loss"] != pytest.approx(results[1]["loss"], rel=1e-3)
    for name, parameter in model.named_parameters():
        for result in results:
            if parameter.requires_grad:
                torch.testing.assert_close(result["gradients"][name], parameter.grad, atol=1e-12, rtol=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_of_two(1, Path(sys.argv[1]))
