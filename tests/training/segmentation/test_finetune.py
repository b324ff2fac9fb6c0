"""Fine-tuning: the loss by hand, image and mask kept together, learning, and what comes back from it."""

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.datasets.prepared import Pairs
from training.loader.order import slice_generator
from training.methods.config import Augmentation
from training.segmentation import finetune
from training.segmentation.config import FinetuneConfig
from training.segmentation.model import SegmentationModel, predict, segmentation_loss
from training.segmentation.tokens import load_encoder, whole_images

SIZE = 32
FAST: dict[str, Any] = {"learning_rate": 4e-3, "layer_decay": 1.0, "head_cells": 8}
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("random", SIZE, "test_vit")


def config(**values: Any) -> FinetuneConfig:
    small = {"epochs": 3, "batch_size": 8, "image_size": SIZE, "precision": "float32", "head_width": 64, "patience": 0}
    return FinetuneConfig(**small | {"learning_rate": 2e-3} | values)


def squares(count: int, seed: int, classes: int = 1, size: int = SIZE) -> Pairs:
    """A square of each image is bright; the others are noise in the dark."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (count, size, size, 3), dtype=np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for place in range(count):
        side = int(rng.integers(8, 17))
        top, left = rng.integers(0, size - side, 2)
        masks[place, top : top + side, left : left + side] = place % classes + 1
    images[masks == 1] += 150
    images[masks == 2, 1] += 150
    return Pairs(images, masks)


def trained(encoder: Any, train: Pairs, validation: Pairs, chosen: FinetuneConfig) -> tuple[list[Any], Any]:
    epochs, weights = [], []
    for epoch in finetune.finetune(encoder, train, validation, chosen):
        epochs.append(epoch)
        weights.append(copy.deepcopy(epoch.model.state_dict()))
    return epochs, weights


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_loss_is_what_it_says_by_hand(outputs: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, outputs, 3, 3))
    masks = rng.integers(0, max(2, outputs), (2, 3, 3))
    masks[1] = 0
    classes = range(1, max(2, outputs))
    entropy, dice = [], []
    for image in range(2):
        sums = {label: [0.0, 0.0] for label in classes}
        for row in range(3):
            for column in range(3):
                here, truth = logits[image, :, row, column], masks[image, row, column]
                if outputs == 1:
                    chance = 1 / (1 + math.exp(-here[0]))
                    chances = [1 - chance, chance]
                else:
                    chances = [math.exp(each) / sum(map(math.exp, here)) for each in here]
                entropy.append(-math.log(chances[truth]))
                for label in classes:
                    sums[label][0] += chances[label] * (truth == label)
                    sums[label][1] += chances[label] + (truth == label)
        dice += [1 - (2 * both + 1) / (total + 1) for both, total in sums.values()]
    expected = sum(entropy) / len(entropy) + sum(dice) / len(dice)
    found = segmentation_loss(torch.from_numpy(logits), torch.from_numpy(masks))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_sure_and_right_prediction_costs_nothing() -> None:
    masks = torch.tensor([[[0, 1], [1, 0]]])
    assert float(segmentation_loss((masks * 2.0 - 1)[:, None] * 50, masks)) == pytest.approx(0, abs=1e-6)


# Image and mask together


def painted(count: int, size: int, cell: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of square cells of random classes, and images that show each class in its colour."""
    drawn = np.random.default_rng(seed).integers(0, 3, (count, size // cell, size // cell), dtype=np.uint8)
    masks = drawn.repeat(cell, axis=1).repeat(cell, axis=2)
    return torch.from_numpy(COLOURS[masks]), torch.from_numpy(masks)


def shown(pixels: torch.Tensor) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The class that each pixel has the colour of, and whether it is that colour and no mixture."""
    distance = (pixels.permute(0, 2, 3, 1)[:, :, :, None] - torch.from_numpy(COLOURS) / 255).abs().amax(dim=4)
    return distance.argmin(dim=3).to(torch.uint8).numpy(), (distance.amin(dim=3) < 1e-5).numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_unscaled_flips_keep_every_pixel_with_its_class(seed: int, vertical: float, horizontal: float) -> None:
    images, masks = painted(4, 12, 1, seed)
    chosen = Augmentation(
        scale=(1, 1), ratio=(1, 1), vertical_flip=vertical, horizontal_flip=horizontal, interpolation="bilinear"
    )
    pixels, cut = finetune.paired_crops(images, masks, 12, chosen, slice_generator(seed, 0, 0))
    label, pure = shown(pixels)
    assert pure.all()
    assert (label == cut.numpy()).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([16, 37, 96]))
def test_crops_keep_every_pure_pixel_with_its_class(seed: int, size: int) -> None:
    images, masks = painted(4, 60, 15, seed)
    chosen = Augmentation(scale=(0.1, 1), vertical_flip=0.5, interpolation="bilinear")
    pixels, cut = finetune.paired_crops(images, masks, size, chosen, slice_generator(seed, 0, 0))
    label, pure = shown(pixels)
    assert cut.dtype == torch.uint8
    assert pure.mean() > 0.3
    assert (label == cut.numpy())[pure].all()
    assert set(np.unique(cut)) <= {0, 1, 2}


def test_crops_differ_and_a_seed_repeats_them() -> None:
    images, masks = painted(8, 60, 15, 0)
    cuts = [finetune.paired_crops(images, masks, 32, finetune.PAIRED, slice_generator(*key)) for key in [(0, 1, 0)] * 2]
    other = finetune.paired_crops(images, masks, 32, finetune.PAIRED, slice_generator(0, 2, 0))
    assert torch.equal(cuts[0][0], cuts[1][0])
    assert torch.equal(cuts[0][1], cuts[1][1])
    assert not torch.equal(cuts[0][1], other[1])


def test_it_learns_bright_squares(encoder: Any) -> None:
    train, validation, unseen = squares(96, 0), squares(16, 1), squares(32, 2)
    chosen = config(epochs=30, **FAST)
    before = SegmentationModel(encoder, 1, chosen)
    untrained = finetune.image_ious(predict(before, unseen.images), unseen.masks).mean()
    epochs, _ = trained(encoder, train, validation, chosen)
    found = predict(epochs[-1].model, unseen.images, batch=5)
    assert found.dtype == np.uint8
    assert found.shape == unseen.masks.shape
    assert untrained < 0.4
    assert finetune.image_ious(found, unseen.masks).mean() > 0.8
    assert epochs[-1].metrics["loss"] < epochs[0].metrics["loss"]
    assert epochs[-1].metrics["images_per_second"] > 0


def test_it_tells_two_classes_apart(encoder: Any) -> None:
    epochs, _ = trained(encoder, squares(96, 0, 2), squares(16, 1, 2), config(epochs=20, **FAST))
    unseen = squares(32, 2, 2)
    found = predict(epochs[-1].model, unseen.images)
    assert epochs[-1].model.outputs == 3
    assert finetune.image_ious(found, unseen.masks).mean() > 0.6


@pytest.mark.parametrize("frozen", [False, True])
def test_the_same_seed_gives_the_same_weights(encoder: Any, frozen: bool) -> None:
    train, validation = squares(12, 0), squares(4, 1)
    first, second, other = (
        trained(encoder, train, validation, config(seed=seed, epochs=2, frozen=frozen)) for seed in (5, 5, 6)
    )
    assert equal(first[1][-1], second[1][-1])
    assert [each.metrics["loss"] for each in first[0]] == [each.metrics["loss"] for each in second[0]]
    assert not equal(first[1][-1], other[1][-1])


def test_the_best_epoch_comes_back_and_not_the_last(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.2, 0.7, 0.7, 0.5, 0.6, 0.9])
    monkeypatch.setattr(finetune, "image_ious", lambda *_: np.array([next(told)]))
    epochs, weights = trained(encoder, squares(8, 0), squares(4, 1), config(epochs=6, patience=2))
    assert [each.number for each in epochs] == [1, 2, 3, 4]
    assert [each.metrics["validation_iou"] for each in epochs] == [0.2, 0.7, 0.7, 0.5]
    assert equal(epochs[-1].model.state_dict(), weights[1])
    assert not equal(epochs[-1].model.state_dict(), weights[3])


def test_an_epoch_sees_each_image_once(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = finetune.cropped

    def watched(*given: Any) -> Any:
        draw = original(*given)
        return lambda rows, generator: seen.extend(rows) or draw(rows, generator)

    monkeypatch.setattr(finetune, "cropped", watched)
    trained(encoder, squares(12, 0), squares(4, 1), config(epochs=2, batch_size=4))
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))


# The frozen encoder


def test_a_frozen_encoder_keeps_its_weights_and_a_free_one_does_not(encoder: Any) -> None:
    before = copy.deepcopy(encoder.state_dict())
    for frozen in (True, False):
        epochs, weights = trained(encoder, squares(8, 0), squares(4, 1), config(epochs=2, frozen=frozen))
        assert equal(epochs[-1].model.encoder.state_dict(), before) == frozen
        assert not torch.equal(weights[0]["head.0.weight"], weights[1]["head.0.weight"])
        assert equal(encoder.state_dict(), before)


@pytest.mark.parametrize(("vertical", "horizontal"), [(0.5, 0.5), (0.0, 0.5), (0.5, 0.0), (0.0, 0.0)])
def test_cached_tokens_are_those_computed_anew(encoder: Any, vertical: float, horizontal: float) -> None:
    train = squares(6, 0, 2, size=40)
    chosen = Augmentation(scale=(1, 1), ratio=(1, 1), vertical_flip=vertical, horizontal_flip=horizontal)
    model = SegmentationModel(encoder, 1, config())
    draw = finetune.cached(model, train, chosen)
    for update in range(5):
        rows = np.array([5, 2, 2, 0])
        tokens, masks = draw(rows, slice_generator(0, update, 0))
        flips = torch.rand(2, 4, generator=slice_generator(0, update, 0)) < torch.tensor([[vertical], [horizontal]])
        for place, row in enumerate(rows):
            view = whole_images(vertical=bool(flips[0, place]), horizontal=bool(flips[1, place]))
            [token], [mask] = finetune.cropped(model, train, view)(np.array([row]), torch.Generator())
            torch.testing.assert_close(tokens[place], token.detach(), rtol=1e-4, atol=1e-4)
            assert torch.equal(masks[place], mask)


def test_frozen_learns_too_and_predicts_from_images_as_from_tokens(encoder: Any) -> None:
    train, validation = squares(32, 0, size=40), squares(8, 1, size=40)
    epochs, _ = trained(encoder, train, validation, config(epochs=60, frozen=True, **FAST))
    best = max(each.metrics["validation_iou"] for each in epochs)
    found = predict(epochs[-1].model, validation.images)
    assert found.shape == validation.masks.shape
    assert finetune.image_ious(found, validation.masks).mean() == pytest.approx(best, abs=0.01)
    assert best > epochs[0].metrics["validation_iou"] + 0.1


def test_bfloat16_follows_float32(encoder: Any) -> None:
    losses = [
        [each.metrics["loss"] for each in trained(encoder, squares(8, 0), squares(4, 1), config(precision=kind))[0]]
        for kind in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_settings_and_data_that_do_not_fit_are_told(encoder: Any) -> None:
    pairs = squares(4, 0)
    with pytest.raises(ValueError, match="no lesion pixel in 4 training masks"):
        next(iter(finetune.finetune(encoder, Pairs(pairs.images, pairs.masks * 0), pairs, config())))
    with pytest.raises(ValueError, match="image_size is 48, but the encoder was made for 32"):
        next(iter(finetune.finetune(encoder, pairs, pairs, config(image_size=48))))
    with pytest.raises(ValueError, match="one mask of that size each"):
        Pairs(pairs.images, pairs.masks[:, 1:])
    with pytest.raises(ValueError, match="expected square colour images"):
        Pairs(pairs.images[:, 1:], pairs.masks[:, 1:])
    with pytest.raises(ValueError, match="expected uint8"):
        Pairs(pairs.images, pairs.masks.astype(np.int64))


@pytest.mark.parametrize("field", ["epochs", "batch_size", "learning_rate", "layer_decay", "head_cells"])
def test_a_setting_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="it must be"):
        config(**{field: 0})


def test_the_lengths_of_the_paper() -> None:
    assert [config(epochs=each).passes for each in ("paper-short", "paper-long", 7)] == [200, 500, 7]


def test_a_loss_that_is_no_number_stops_it(encoder: Any) -> None:
    broken = copy.deepcopy(encoder)
    broken.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the mean loss of epoch 1 is nan"):
        list(finetune.finetune(broken, squares(4, 0), squares(4, 1), config()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gpu_learns_what_the_cpu_learns(encoder: Any, frozen: bool) -> None:
    runs = [
        finetune.finetune(encoder, squares(8, 0), squares(4, 1), config(frozen=frozen), on) for on in ("cpu", "cuda")
    ]
    losses = [[each.metrics["loss"] for each in run] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
