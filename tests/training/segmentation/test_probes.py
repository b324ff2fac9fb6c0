"""Probes against brute force and scikit-learn, encoders loaded as they were saved, tokens as plain timm gives them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from training.methods.config import MaeConfig
from training.methods.mae import MaskedAutoencoder
from training.metrics import iou
from training.segmentation import probes
from training.segmentation.tokens import encode, input_size, load_encoder

SIZE = 32
pytestmark = pytest.mark.usefixtures("one_thread")


def noise(count: int, size: int = SIZE, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# Encoders and their tokens


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_tokens_are_plain_timm_s_of_normalised_pixels(name: str) -> None:
    encoder = load_encoder("random", SIZE, name)
    images = noise(5)
    found = torch.cat(list(encode(encoder, images, "float32", batch=2)))
    mean, std = (torch.tensor(encoder.pretrained_cfg[each])[:, None, None] for each in ("mean", "std"))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = encoder.fc_norm(encoder.forward_features(pixels))[:, encoder.num_prefix_tokens :]
    assert found.shape == (5, 4, encoder.embed_dim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_scaled() -> None:
    encoder = load_encoder("random", SIZE, "test_vit")
    small = np.full((2, SIZE, SIZE, 3), 90, np.uint8)
    large = np.full((2, 50, 50, 3), 90, np.uint8)
    first, second = (torch.cat(list(encode(encoder, each, "float32"))) for each in (small, large))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert next(encode(encoder, small, "bfloat16")).dtype == torch.bfloat16


def test_a_pretrained_folder_loads_at_another_size(tmp_path: Path) -> None:
    made = MaskedAutoencoder(
        MaeConfig(encoder="test_vit", image_size=64, decoder_depth=1, decoder_width=32, decoder_heads=2)
    ).encoder
    save_file({name: value.contiguous() for name, value in made.state_dict().items()}, tmp_path / "encoder.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"recipe": {"encoder": "test_vit", "image_size": 64}}))
    same, other = (load_encoder(str(tmp_path), size) for size in (64, SIZE))
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in same.state_dict().items())
    assert other.pos_embed.shape == (1, 5, 64)
    expected = timm.layers.resample_abs_pos_embed(made.pos_embed.data, [2, 2], num_prefix_tokens=1)
    torch.testing.assert_close(other.pos_embed.data, expected)
    assert input_size(other) == SIZE
    by_file = load_encoder(str(tmp_path / "encoder.safetensors"), 64, "test_vit")
    assert torch.equal(by_file.blocks[0].mlp.fc1.weight, made.blocks[0].mlp.fc1.weight)


def test_an_encoder_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder without encoder\.safetensors and card\.json"):
        load_encoder(str(tmp_path), SIZE)
    with pytest.raises(ValueError, match="is not named"):
        load_encoder(str(tmp_path / "x.safetensors"), SIZE)
    with pytest.raises(ValueError, match="does not exist"):
        load_encoder(str(tmp_path / "x.safetensors"), SIZE, "test_vit")
    with pytest.raises(ValueError, match="not a multiple of the encoder's patch, 16; use 32"):
        load_encoder("random", 40, "test_vit")


def test_the_seed_draws_a_random_encoder() -> None:
    first, again, other = (load_encoder("random", SIZE, "test_vit", seed) for seed in (1, 1, 2))
    assert torch.equal(first.patch_embed.proj.weight, again.patch_embed.proj.weight)
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)


# Shares


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(5, 12))
def test_shares_are_areas(seed: int, grid: int, side: int) -> None:
    masks = np.random.default_rng(seed).integers(0, 3, (2, side, side), dtype=np.uint8)
    fine = masks.repeat(grid, axis=1).repeat(grid, axis=2)  # each patch is now side * side whole pixels
    expected = [
        [(part == label).mean() for label in range(3)]
        for mask in fine
        for rows in np.split(mask, grid, axis=0)
        for part in np.split(rows, grid, axis=1)
    ]
    found = probes.patch_shares(masks, grid, 3)
    assert found.shape == (2, grid * grid, 3)
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-6)


def test_shares_come_back_as_masks() -> None:
    masks = np.zeros((1, 12, 12), np.uint8)
    masks[0, :6, 6:] = 2
    found = probes.shares_to_masks(probes.patch_shares(masks, 2, 3), 12)
    assert found.dtype == np.uint8
    assert (found == masks)[:, [2, 2, 9, 9], [2, 9, 2, 9]].all()
    assert set(np.unique(found)) == {0, 2}


# Segmentation


def drawn(images: int, seed: int, classes: int = 2) -> tuple[torch.Tensor, npt.NDArray[np.uint8]]:
    """Tokens [N, 9, 6] and masks [N, 12, 12]; the tokens' first values are their patches' shares and noise."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, classes + 1, (images, 3, 3), dtype=np.uint8)
    masks = cells.repeat(4, axis=1).repeat(4, axis=2)
    tokens = rng.normal(size=(images, 9, 6))
    tokens[:, :, : classes + 1] += 4 * probes.patch_shares(masks, 3, classes + 1).numpy()
    return torch.from_numpy(tokens).float(), masks


def unlevelled(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What a probe gives `levelled`, which then changes nothing: predictions, those of the training, its shares."""
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(probes, "calibrated", lambda *given: kept.extend(given) or given[0])
    return kept


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_the_linear_probe_is_ridge_regression(ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    (train, masks), (test, _) = drawn(5, 0), drawn(4, 1)
    kept = unlevelled(monkeypatch)
    found = probes.linear_probe(train, masks, test, 12, ridge)
    rows = train.double().reshape(-1, 6).numpy()
    wanted = np.array(
        [[mask[r * 4, c * 4] == k for k in range(3)] for mask in masks for r in range(3) for c in range(3)]
    )
    penalty = math.sqrt(ridge * rows.var(axis=0).mean() * len(rows)) * np.eye(6)
    centred, middle = rows - rows.mean(axis=0), wanted.mean(axis=0)
    weights, *_ = np.linalg.lstsq(np.vstack([centred, penalty]), np.vstack([wanted - middle, np.zeros((6, 3))]))
    expected = (test.double().reshape(-1, 6).numpy() - rows.mean(axis=0)) @ weights + middle
    np.testing.assert_allclose(kept[0].reshape(-1, 3), expected, atol=1e-5)
    np.testing.assert_allclose(kept[1], centred @ weights + middle, atol=1e-5)
    np.testing.assert_allclose(kept[2], wanted, atol=1e-7)
    assert found.shape == (4, 12, 12)


@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_neighbours_vote_as_by_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SIMILARITIES", block)
    (train, masks), (test, _) = drawn(5, 0), drawn(4, 1)
    kept = unlevelled(monkeypatch)
    found = probes.neighbour_probe(train, masks, test, 12, k=3)
    known = train.double().reshape(-1, 6).numpy()
    shares = probes.patch_shares(masks, 3, 3).reshape(-1, 3).numpy()

    def voted(asked: Any, without: int | None = None) -> Any:
        cosines = [row @ asked / math.sqrt((row @ row) * (asked @ asked)) for row in known]
        others = [place for place in range(len(known)) if place != without]
        nearest = sorted(others, key=lambda place: -cosines[place])[:3]
        weights = np.array([math.exp(cosines[place] / 0.1) for place in nearest])
        return weights @ shares[nearest] / weights.sum()

    votes = [voted(asked) for asked in test.double().reshape(-1, 6).numpy()]
    np.testing.assert_allclose(kept[0].reshape(-1, 3), votes, atol=1e-4)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(kept[1], [voted(known[place], place) for place in order], atol=1e-4)
    np.testing.assert_allclose(kept[2], shares[order], atol=1e-7)
    assert found.shape == (4, 12, 12)


def test_levelled_shares_by_hand() -> None:
    truth = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    known = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.7, 0.3]])  # the lesion's never passes a half
    found = torch.tensor([[[0.76, 0.24], [0.75, 0.25], [0.6, 0.4]]])
    levelled = probes.calibrated(found, known, truth)
    torch.testing.assert_close(levelled[..., 0], torch.zeros(1, 3))
    torch.testing.assert_close(levelled[..., 1], torch.tensor([[-0.02, 0.0, 0.3]]))  # the lead of -0.5 parts them


@pytest.mark.parametrize("kind", [probes.linear_probe, probes.neighbour_probe])
def test_a_rare_lesion_that_tokens_hardly_show_is_found_about_as_often_as_it_is_there(kind: Any) -> None:
    (train, masks), (test, truth) = drawn(200, 0, classes=1), drawn(200, 1, classes=1)
    for seed, tokens, mask in ((2, train, masks), (3, test, truth)):
        mask[np.arange(200) % 5 > 0] = 0
        tokens[:] = torch.from_numpy(np.random.default_rng(seed).normal(size=tokens.shape)).float()
        tokens[:, :, 1] += 1.5 * probes.patch_shares(mask, 3, 2)[..., 1]
    found = kind(train, masks, test, 12)
    middles = np.array([1, 5, 9])
    area = (found[:, middles[:, None], middles] > 0).mean()
    assert 0.5 < area / (truth > 0).mean() < 2


@pytest.mark.parametrize("kind", [probes.linear_probe, probes.neighbour_probe])
def test_probes_find_what_the_tokens_show(kind: Any) -> None:
    (train, masks), (test, truth) = drawn(40, 0), drawn(10, 1)
    found = kind(train * 1.0, masks, test, 12)
    middles = np.array([1, 5, 9])  # away from the borders that upsampling smooths
    assert (found == truth)[:, middles[:, None], middles].mean() > 0.9


def test_a_smaller_memory_is_the_same_each_time() -> None:
    (train, masks), (test, truth) = drawn(40, 0), drawn(10, 1)
    first, again = (probes.neighbour_probe(train, masks, test, 12, memory=60) for _ in range(2))
    assert (first == again).all()
    assert (first == truth).mean() > 0.5


def test_masks_that_do_not_fit_are_told() -> None:
    train, masks = drawn(4, 0)
    for kind in (probes.linear_probe, probes.neighbour_probe):
        with pytest.raises(ValueError, match="no lesion pixel in 4 training masks"):
            kind(train, masks * 0, train, 12)
        with pytest.raises(ValueError, match="pass one square mask per image"):
            kind(train, masks[1:], train, 12)


def test_ious_of_degenerate_masks() -> None:
    truth = np.array([[[0, 0]], [[1, 1]], [[0, 0]], [[1, 0]], [[1, 2]], [[2, 2]]], np.uint8)
    found = np.array([[[0, 0]], [[1, 1]], [[1, 0]], [[1, 1]], [[1, 1]], [[2, 1]]], np.uint8)
    np.testing.assert_allclose(iou.image_ious(found, truth), [1, 1, 0, 0.5, 0.25, 0.25])


# Sources


def grouped(seed: int, spread: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1])
    middles = {"a": [0, 0, 0, 0], "b": [spread, 0, 0, 0], "c": [0, spread, 0, 0]}
    features = np.array([middles[label] for label in labels]) + rng.normal(size=(300, 4))
    return (features * [1, 10, 100, 1] + 5).astype(np.float32), labels


@pytest.mark.parametrize("spread", [0.0, 1.5, 8.0])
def test_sources_are_told_apart_as_scikit_learn_does(spread: float) -> None:
    features, labels = grouped(0, spread)
    train, validation = np.arange(0, 300, 2), np.arange(1, 300, 2)
    found = probes.source_probe(features, labels, train, validation, penalty=1e-2)
    standard = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    # Ours is the mean loss (weighted) plus 0.01 |w|^2; theirs C times the sum plus |w|^2 / 2.
    peer = LogisticRegression(C=1 / (2 * 1e-2 * len(train)), class_weight="balanced", max_iter=1000, tol=1e-8)
    predicted = peer.fit(standard[train], labels[train]).predict(standard[validation])
    assert found == pytest.approx(balanced_accuracy_score(labels[validation], predicted), abs=1e-9)
    assert (found > 0.98) == (spread == 8)
    assert (found < 0.5) == (spread == 0)


def test_a_constant_feature_and_bad_parts() -> None:
    features, labels = grouped(0, 8.0)
    features[:, 3] = 2
    train, validation = np.arange(200), np.arange(200, 300)
    assert probes.source_probe(features, labels, train, validation) > 0.98
    with pytest.raises(ValueError, match="10 rows in both"):
        probes.source_probe(features, labels, train, np.arange(190, 300))
    with pytest.raises(ValueError, match="show 1 of the classes"):
        probes.source_probe(features, labels, np.flatnonzero(labels == "a"), np.flatnonzero(labels == "b"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [probes.linear_probe, probes.neighbour_probe])
def test_a_gpu_predicts_what_the_cpu_predicts(kind: Any) -> None:
    (train, masks), (test, _) = drawn(40, 0), drawn(10, 1)
    first, second = (kind(train.to(on), masks, test.to(on), 12) for on in ("cpu", "cuda"))
    assert (first == second).mean() > 0.99
