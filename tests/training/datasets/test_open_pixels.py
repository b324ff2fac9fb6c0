"""Losses, scores, probes and fine-tuned models are blind to pixels that a mask leaves open."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.datasets import codings, prepared
from training.metrics import iou
from training.segmentation import finetune, model, probes
from training.segmentation.config import FinetuneConfig
from training.segmentation.tokens import load_encoder

Truth = Callable[..., npt.NDArray[np.bool_]]
SIDE = 32


def test_loss_gradient_and_scores_are_blind_to_open_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    for outputs in (1, 3):
        logits = torch.randn(2, outputs, 8, 8, generator=generator, requires_grad=True)
        masks = torch.randint(0, max(2, outputs), (2, 8, 8), generator=generator).to(torch.uint8)
        masks[:, :, 5:] = codings.IGNORED
        loss = model.segmentation_loss(logits, masks)
        torch.autograd.backward(loss)
        assert logits.grad is not None
        assert not logits.grad[..., 5:].any()
        assert logits.grad[..., :5].abs().min() > 0
        torch.testing.assert_close(loss, model.segmentation_loss(logits[..., :5], masks[..., :5]))
        nothing = model.segmentation_loss(logits, torch.full_like(masks, codings.IGNORED))
        assert float(nothing.detach()) == 0
    found = np.random.default_rng(0).integers(0, 2, (2, 8, 8)).astype(np.uint8)
    truth = masks.numpy().clip(0, 1) + 254 * (masks.numpy() == codings.IGNORED).astype(np.uint8)
    assert np.array_equal(
        iou.confusion_counts(found, truth, ignored=255), iou.confusion_counts(found[..., :5], truth[..., :5])
    )
    assert np.array_equal(iou.image_ious(found, truth), iou.image_ious(found[..., :5], truth[..., :5]))
    with pytest.raises(ValueError, match="prediction holds values 0 to 255"):
        iou.confusion_counts(truth, found, ignored=255)


def test_probes_are_blind_to_open_pixels() -> None:
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 2, (3, 8, 8)).astype(np.uint8)
    masks[:, :, 6:] = codings.IGNORED  # the last patches of each row
    masks[:, :1, :2] = codings.IGNORED
    shares = probes.patch_shares(masks, 4, 2).reshape(3, 4, 4, 2)
    assert not shares[:, :, 3].any()
    assert torch.allclose(shares[:, :, :3].sum(dim=3), torch.ones(3, 4, 3))
    assert shares[0, 0, 0, 1] == pytest.approx(masks[0, 1, :2].mean())
    tokens = torch.from_numpy(rng.normal(size=(3, 16, 5))).float()
    other = tokens.clone().reshape(3, 4, 4, 5)
    other[:, :, 3] += 100
    for found in (probes.linear_probe, probes.neighbour_probe):
        first, second = (found(each, masks, tokens, 8) for each in (tokens, other.reshape(3, 16, 5)))
        assert np.array_equal(first, second)


def test_a_fine_tuned_model_does_not_see_what_is_open(disc: Truth) -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.stack([disc(number) for number in range(4)]).astype(np.uint8)
    masks[:, :, 20:] = codings.IGNORED
    config = FinetuneConfig(epochs=2, batch_size=4, image_size=SIDE, head_width=8, precision="float32")
    encoder = load_encoder("random", SIDE, "test_vit")
    epochs = list(finetune.finetune(encoder, prepared.Pairs(images, masks), prepared.Pairs(images, masks), config))
    assert epochs[-1].model.outputs == 1  # 255 is no class
    found = model.predict(epochs[-1].model, images)
    expected = iou.image_ious(found[:, :, :20], masks[:, :, :20]).mean()
    assert epochs[0].metrics["validation_iou"] <= expected
    assert np.isfinite(epochs[-1].metrics["loss"])
