"""The encoder against timm called directly: a ViT-tiny on 32 px, its weights drawn from a seed."""

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from safetensors.torch import save_file

from curation.embeddings import encoder
from curation.embeddings.config import EmbedConfig

NAME = "vit_tiny_patch16_224"
NO_CLASS_TOKEN = "vit_pwee_patch16_reg1_gap_256"
WITH_REGISTERS = "vit_small_patch14_reg4_dinov2"  # four, and a mean and deviation that differ by channel
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**values: Any) -> EmbedConfig:
    return EmbedConfig(**{"run_dir": "unused", "encoder": NAME, "weights": "random", "image_size": 32} | values)


@pytest.fixture(scope="module")
def pictures() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)


def embed(pictures: npt.NDArray[np.uint8], precision: str = "float32", **values: Any) -> npt.NDArray[np.float32]:
    return encoder.Encoder(config(**values), precision, "cpu")(pictures)


@torch.inference_mode()
def reference(
    pictures: npt.NDArray[np.uint8], pooling: str, tensors: dict[str, torch.Tensor], name: str = NAME, size: int = 32
) -> npt.NDArray[np.float64]:
    """Timm's own model and normalisation, a picture at a time, in float64."""
    model = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    model.load_state_dict(tensors)
    model.eval().double()
    data = timm.data.resolve_data_config(model=model)
    rows = []
    for picture in pictures:
        pixels = (picture / 255 - np.array(data["mean"])) / np.array(data["std"])
        tokens = model.forward_features(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))[0].numpy()
        row = tokens[0] if pooling == "cls" else tokens[model.num_prefix_tokens :].mean(axis=0)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def drawn_tensors(seed: int = 0, **values: Any) -> dict[str, torch.Tensor]:
    return encoder.configured(config(seed=seed, **values)).state_dict()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_equal_timms(pictures: npt.NDArray[np.uint8], pooling: str) -> None:
    units = embed(pictures, pooling=pooling)
    assert (units.dtype, units.shape) == (np.float32, (7, 192))
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(units, reference(pictures, pooling, drawn_tensors()), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_registers_are_left_out_and_the_encoders_own_mean_is_subtracted(
    pictures: npt.NDArray[np.uint8], pooling: str
) -> None:
    small = np.ascontiguousarray(pictures[:2, :28, :28])
    values = {"encoder": WITH_REGISTERS, "image_size": 28, "pooling": pooling}
    expected = reference(small, pooling, drawn_tensors(**values), WITH_REGISTERS, 28)
    np.testing.assert_allclose(embed(small, **values), expected, atol=1e-5)


def test_an_encoder_without_class_token_needs_the_mean(pictures: npt.NDArray[np.uint8]) -> None:
    assert embed(pictures[:1], encoder=NO_CLASS_TOKEN, pooling="mean").shape == (1, 256)
    with pytest.raises(ValueError, match="has no class token; use --pooling mean"):
        encoder.configured(config(encoder=NO_CLASS_TOKEN))


def test_batch_size_does_not_matter(pictures: npt.NDArray[np.uint8]) -> None:
    alone = embed(pictures, chunk_rows=1)
    for batch_size in (3, 7, 100):
        np.testing.assert_allclose(embed(pictures, chunk_rows=batch_size), alone, atol=1e-6)
    assert np.abs(alone @ alone.T - np.eye(7)).max() < 1 - 1e-5  # no two pictures are mistaken for each other


def test_the_seed_decides_the_weights_and_nothing_else_does(pictures: npt.NDArray[np.uint8]) -> None:
    torch.manual_seed(1)
    first = embed(pictures)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the global generator is left as it was
    assert np.array_equal(embed(pictures), first)
    assert np.abs(embed(pictures, seed=1) - first).max() > 0.01


def test_lower_precision_is_close(pictures: npt.NDArray[np.uint8]) -> None:
    exact, rounded = embed(pictures), embed(pictures, "bfloat16")
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)
    assert (exact * rounded).sum(axis=1).min() > 0.999
    assert np.abs(exact - rounded).max() > 0


@pytest.mark.parametrize("name", ["w.safetensors", "plain.pth", "model.pth", "state_dict.pth", "encoder.pth"])
def test_saved_weights_give_equal_features(name: str, tmp_path: Path, pictures: npt.NDArray[np.uint8]) -> None:
    tensors, path = drawn_tensors(seed=5), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors if path.stem == "plain" else {path.stem: tensors, "epoch": 3}, path)
    assert np.array_equal(embed(pictures, weights=str(path)), embed(pictures, seed=5))


def test_a_classifiers_head_is_left_out(tmp_path: Path, pictures: npt.NDArray[np.uint8]) -> None:
    classifier = timm.create_model(NAME, num_classes=10, img_size=32)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    tensors = {key: value for key, value in classifier.state_dict().items() if not key.startswith("head.")}
    units = embed(pictures[:3], weights=str(tmp_path / "w.pth"))
    np.testing.assert_allclose(units, reference(pictures[:3], "cls", tensors), atol=1e-5)


def test_a_position_table_of_another_image_size_is_resampled(tmp_path: Path) -> None:
    large = drawn_tensors(image_size=64)  # 4 x 4 patches, made to vary over the picture in one direction only
    ramp = torch.arange(4.0).repeat(4)
    large["pos_embed"] = torch.cat([torch.zeros(1), ramp])[None, :, None].repeat(1, 1, 192)
    torch.save(large, tmp_path / "w.pth")
    table = encoder.configured(config(weights=str(tmp_path / "w.pth"))).state_dict()["pos_embed"]
    assert table.shape == (1, 5, 192)
    rows = table[0, 1:, 0].reshape(2, 2)
    assert torch.allclose(rows[0], rows[1], atol=1e-4)
    assert rows[0].sum() == pytest.approx(3, abs=0.05)  # symmetric about the middle, 1.5
    assert rows[0, 1] - rows[0, 0] == pytest.approx(2, abs=0.5)
    units = embed(np.zeros((1, 32, 32, 3), np.uint8), weights=str(tmp_path / "w.pth"))
    expected = reference(np.zeros((1, 32, 32, 3), np.uint8), "cls", large | {"pos_embed": table})
    np.testing.assert_allclose(units, expected, atol=1e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    small = drawn_tensors(encoder=NO_CLASS_TOKEN, pooling="mean")
    torch.save(small, path)
    with pytest.raises(ValueError, match=f"w.pth do not fit {NAME}"):
        encoder.configured(config(weights=path))
    tensors = drawn_tensors()
    del tensors["blocks.3.attn.qkv.bias"]
    tensors["norm.weight"] = torch.ones(100)
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"1 tensors missing \(blocks.3.attn.qkv.bias\), 1 of another shape") as caught:
        encoder.configured(config(weights=path))
    assert "norm.weight is (100,), expected (192,)" in str(caught.value)


def test_weights_files_that_hold_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights file .*none.pth does not exist"):
        encoder.configured(config(weights=str(tmp_path / "none.pth")))
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"no weights " * 100)
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            encoder.configured(config(weights=str(tmp_path / name)))
    for value in (torch.zeros(3), {"model": {"lr": 0.1}}, {"epoch": 3}):
        torch.save(value, tmp_path / "other.pth")
        with pytest.raises(
            ValueError, match=r"other.pth holds no tensors by name \(nor under model, state_dict or another key\)"
        ):
            encoder.configured(config(weights=str(tmp_path / "other.pth")))


def test_an_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'vit_tiny_patch61_224' is not a Vision Transformer .* vit_tiny_patch16_224"):
        encoder.configured(config(encoder="vit_tiny_patch61_224"))
    with pytest.raises(ValueError, match="'resnet50' is not a Vision Transformer"):
        encoder.configured(config(encoder="resnet50"))


def test_an_image_size_that_patches_do_not_divide_names_one_that_they_do() -> None:
    with pytest.raises(ValueError, match="image_size 40 is not a multiple of the encoder's patch, 16; use 32"):
        encoder.configured(config(image_size=40))
    with pytest.raises(ValueError, match=r"image_size 10 .* use 16|images of 10 px"):
        encoder.configured(config(image_size=10))


@pytest.mark.parametrize("name", [NAME, "hf-hub:nobody/nothing"])
def test_without_network_both_ways_to_weights_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="could not be downloaded from the hub") as caught:
        encoder.configured(config(encoder=name, weights=None))
    assert "--weights FILE" in str(caught.value)
    assert "--weights random" in str(caught.value)
    assert name in str(caught.value)
