"""The loop: exact resuming, the same result however a batch is cut, and a stop before a bad loss does harm."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curation.store.directory import RunDirectory
from training.loader.decoded import DecodedFrames
from training.loader.order import Rank
from training.methods.config import Augmentation, MaeConfig
from training.methods.mae import MaeMethod
from training.methods.method import NotFiniteError
from training.pretraining import checkpoint, loop
from training.pretraining.config import LengthConfig, OptimiserConfig

SMALL = MaeConfig(encoder="vit_tiny_patch16_224", image_size=32, decoder_depth=1, decoder_width=32, decoder_heads=2)
UPDATES = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames() -> DecodedFrames:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 40, 40, 3), dtype=np.uint8)
    return DecodedFrames([pixels[:5], pixels[5:]], [f"frame-{number}" for number in range(13)])


def same(module: torch.nn.Module) -> torch.nn.Module:
    return module


def plan(optimiser: dict[str, Any] | None = None, **length: Any) -> loop.Plan:
    sizes = {"steps": UPDATES, "batch_size": 8, "slice_rows": 2} | length
    rates = {"learning_rate": 1e-2} | (optimiser or {})
    return loop.Plan(UPDATES, 3, LengthConfig(**sizes), OptimiserConfig(**rates), "float32")


def trained(
    frames: DecodedFrames, state: loop.State | None = None, stop: int = UPDATES, **settings: Any
) -> tuple[list[float], loop.State]:
    losses: list[float] = []
    kept: loop.State = {}
    method = MaeMethod(SMALL, Augmentation())
    for update, metrics, snapshot in loop.train(method, frames, plan(**settings), Rank(), same, state):
        losses.append(metrics["loss"])
        if update == stop:
            kept = copy.deepcopy(snapshot())
            break
    return losses, kept


@pytest.mark.parametrize(("stop", "optimiser"), [(1, {}), (3, {"ema_decay": 0.9, "clip_norm": 0.1}), (4, {})])
def test_a_run_continued_from_a_checkpoint_is_the_undisturbed_run(
    frames: DecodedFrames, tmp_path: Path, stop: int, optimiser: dict[str, Any]
) -> None:
    whole, expected = trained(frames, optimiser=optimiser)
    first, state = trained(frames, stop=stop, optimiser=optimiser)
    run = RunDirectory(str(tmp_path / "output"))
    checkpoint.save(state, str(tmp_path))
    checkpoint.upload_checkpoint(str(tmp_path), run, checkpoint.name_of(stop))
    rest, found = trained(frames, checkpoint.load(run, stop), optimiser=optimiser)
    assert first + rest == whole
    for part in ("model", "average") if optimiser else ("model",):
        assert all(torch.equal(expected[part][name], found[part][name]) for name in expected[part])


def test_cutting_a_batch_into_passes_changes_rounding_only(frames: DecodedFrames) -> None:
    whole, expected = trained(frames)
    cut, found = trained(frames, micro_batch=2)
    assert cut == pytest.approx(whole, abs=1e-5)
    for name, value in expected["model"].items():
        assert torch.allclose(value, found["model"][name], atol=1e-4), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what tracing imports
def test_a_compiled_module_computes_the_same_and_keeps_plain_names(frames: DecodedFrames) -> None:
    method = MaeMethod(SMALL, Augmentation())
    compiled: list[float] = []

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        whole: Any = torch.compile(module, backend="aot_eager", fullgraph=True)
        return whole

    for _, metrics, _ in loop.train(method, frames, plan(), Rank(), wrap):
        compiled.append(metrics["loss"])
    assert compiled == pytest.approx(trained(frames)[0], abs=1e-5)
    assert not any("_orig_mod" in name for name in method.module.state_dict())


def test_the_average_follows_the_weights_as_its_decay_says(frames: DecodedFrames) -> None:
    method = MaeMethod(SMALL, Augmentation())
    weight = method.encoder.blocks[0].attn.qkv.weight
    expected = None
    for update, _, snapshot in loop.train(method, frames, plan({"ema_decay": 0.75}), Rank(), same):
        now = weight.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
        if update == 4:
            kept = snapshot()["average"]["module.encoder.blocks.0.attn.qkv.weight"]
            assert torch.allclose(kept, expected, atol=1e-7)
            assert not torch.allclose(kept, now, atol=1e-5)
            break


def test_gradients_are_clipped_to_the_norm(frames: DecodedFrames, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *given: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    method = MaeMethod(SMALL, Augmentation())
    found = [m["gradient_norm"] for _, m, _ in loop.train(method, frames, plan({"clip_norm": 0.05}), Rank(), same)]
    assert min(found) > 0.05
    assert norms == pytest.approx([0.05] * UPDATES, rel=1e-4)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_what_is_no_number_stops_before_it_changes_a_weight(frames: DecodedFrames, part: str) -> None:
    method = MaeMethod(SMALL, Augmentation())
    if part == "loss":
        with torch.no_grad():
            method.module.decoder.mask_token.fill_(float("nan"))
    else:
        method.module.decoder.pred.bias.register_hook(lambda gradient: gradient * float("inf"))
    before = copy.deepcopy(method.encoder.state_dict())
    with pytest.raises(NotFiniteError, match=rf"stopped at update 1 .*{part}.*frame-") as caught:
        next(loop.train(method, frames, plan(), Rank(), same))
    order = plan().order(len(frames))
    named = [name for draw in range(4) for name in frames.names(order.rows(0, draw))]
    assert str(caught.value).endswith(": " + ", ".join(named))
    assert all(torch.equal(before[name], value) for name, value in method.encoder.state_dict().items())
