"""The loop: exact resuming, the same result however a batch is cut, and a stop before a bad loss does harm."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import checkpoint, loop
from training.augment import Augmentation
from training.config import LengthConfig, OptimiserConfig
from training.mae import MaeConfig, MaeMethod

SMALL = MaeConfig(encoder="vit_tiny_patch16_224", image_size=32, decoder_depth=1, decoder_width=32, decoder_heads=2)
UPDATES = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames() -> loop.Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 40, 40, 3), dtype=np.uint8)
    return loop.Frames([pixels[:5], pixels[5:]], [f"frame-{number}" for number in range(13)])


def plan(**length: Any) -> loop.Plan:
    sizes = {"steps": UPDATES, "batch_size": 8, "draw_rows": 2} | length
    return loop.Plan(UPDATES, 3, LengthConfig(**sizes), OptimiserConfig(learning_rate=1e-2), "float32")


def trained(
    frames: loop.Frames, state: loop.State | None = None, stop: int = UPDATES, **length: Any
) -> tuple[list[float], loop.State]:
    losses: list[float] = []
    kept: loop.State = {}
    method = MaeMethod(SMALL, Augmentation())
    for update, metrics, snapshot in loop.train(method, frames, plan(**length), loop.Rank(), lambda m: m, state):
        losses.append(metrics["loss"])
        if update == stop:
            kept = copy.deepcopy(snapshot())
            break
    return losses, kept


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_continued_from_a_checkpoint_is_the_undisturbed_run(
    frames: loop.Frames, tmp_path: Any, stop: int
) -> None:
    whole, expected = trained(frames)
    first, state = trained(frames, stop=stop)
    checkpoint.save(state, str(tmp_path))
    rest, found = trained(frames, checkpoint.load(str(tmp_path)))
    assert first + rest == whole
    assert all(torch.equal(expected["model"][name], found["model"][name]) for name in expected["model"])
    assert list(tmp_path.iterdir()) == [tmp_path / checkpoint.CHECKPOINT]


def test_cutting_a_batch_into_passes_changes_rounding_only(frames: loop.Frames) -> None:
    whole, expected = trained(frames)
    cut, found = trained(frames, micro_batch=2)
    assert cut == pytest.approx(whole, abs=1e-5)
    for name, value in expected["model"].items():
        assert torch.allclose(value, found["model"][name], atol=1e-4), name


@settings(deadline=None)
@given(frames=st.integers(1, 30), batch=st.integers(1, 40), seed=st.integers(0, 9))
def test_batches_run_through_one_permutation_after_the_other(frames: int, batch: int, seed: int) -> None:
    epochs = 3
    updates = -(-epochs * frames // batch)
    order = np.concatenate([loop.batch_rows(update, frames, batch, seed) for update in range(updates)])
    for epoch in range(epochs):
        assert sorted(order[epoch * frames : (epoch + 1) * frames]) == list(range(frames))


def test_frames_come_from_the_part_that_holds_them(frames: loop.Frames) -> None:
    rows = np.array([12, 0, 5, 4])
    whole = np.concatenate(frames.parts)
    assert np.array_equal(frames.images(rows).numpy(), whole[rows])
    assert frames.names(rows) == ["frame-12", "frame-0", "frame-5", "frame-4"]


def test_a_loss_that_is_no_number_stops_before_it_changes_a_weight(frames: loop.Frames) -> None:
    method = MaeMethod(SMALL, Augmentation())
    with torch.no_grad():
        method.module.decoder.mask_token.fill_(float("nan"))
    before = copy.deepcopy(method.encoder.state_dict())
    with pytest.raises(loop.NotFiniteError, match=r"update 0 is nan.*frame-"):
        next(loop.train(method, frames, plan(), loop.Rank(), lambda m: m))
    assert all(torch.equal(before[name], value) for name, value in method.encoder.state_dict().items())


def test_draws_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="makes 4 draws of 2 images, which 3 workers cannot share"):
        plan().check(3)


def test_init_takes_an_encoder_and_refuses_another(tmp_path: Any) -> None:
    source = MaeMethod(SMALL, Augmentation())
    with torch.no_grad():
        source.encoder.blocks[0].attn.qkv.weight.fill_(0.5)
    checkpoint.export_encoder(source.encoder, str(tmp_path), {"name": "a"})
    target = MaeMethod(SMALL, Augmentation())
    checkpoint.initialise_from(target, str(tmp_path / "encoder.safetensors"))
    assert torch.all(target.encoder.blocks[0].attn.qkv.weight == 0.5)
    wide = MaeConfig(**vars(SMALL) | {"encoder": "vit_small_patch16_224"})
    with pytest.raises(ValueError, match="do not fit the encoder"):
        checkpoint.initialise_from(MaeMethod(wide, Augmentation()), str(tmp_path / "encoder.safetensors"))
