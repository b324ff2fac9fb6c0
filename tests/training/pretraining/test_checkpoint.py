"""Checkpoints that are whole or not there, and weights taken from files, from timm by name, and from elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf

from curation.store.directory import RunDirectory
from training.methods.config import Augmentation, MaeConfig
from training.methods.mae import MaeMethod
from training.pretraining import checkpoint, weights

SMALL = MaeConfig(encoder="vit_tiny_patch16_224", image_size=32, decoder_depth=1, decoder_width=32, decoder_heads=2)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    output = RunDirectory(str(tmp_path / "output") if request.param == "local" else "memory://checkpoints")
    for name in output.folders(""):
        output.delete_folder(name)
    return output


def method(**changes: Any) -> MaeMethod:
    return MaeMethod(MaeConfig(**vars(SMALL) | changes), Augmentation())


def test_checkpoints_come_back_and_the_last_stay(run: RunDirectory, tmp_path: Path) -> None:
    assert checkpoint.whole_updates(run) == []
    for update in (5, 10, 100):
        checkpoint.save({"update": update, "model": {"w": torch.full((3,), float(update))}}, str(tmp_path))
        checkpoint.upload_checkpoint(str(tmp_path), run, checkpoint.name_of(update))
    assert checkpoint.whole_updates(run) == [5, 10, 100]
    run.write_bytes("checkpoints/update-00000200/.tmp-1-checkpoint.pt", b"half of one, of a writer that was killed")
    assert checkpoint.whole_updates(run) == [5, 10, 100]
    checkpoint.prune(run, 2)
    assert run.folders("checkpoints") == ["update-00000010", "update-00000100"]
    state = checkpoint.load(run, 10)
    assert state["update"] == 10
    assert state["model"]["w"].tolist() == [10.0] * 3


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(state: Any, target: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    checkpoint.save({"update": 1}, str(tmp_path))
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save({"update": 2}, str(tmp_path))
    assert list(tmp_path.iterdir()) == [tmp_path / checkpoint.CHECKPOINT]


def test_an_exported_encoder_is_plain_timm_and_begins_another_training(run: RunDirectory, tmp_path: Path) -> None:
    source = method(seed=1)
    weights.export_encoder(source.encoder.state_dict(), run, {"name": "a"})
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(run.read_bytes("encoder.safetensors"))
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    plain.load_state_dict(load_file(path), strict=True)
    assert run.read_json("card.json") == {"name": "a"}
    target = method(seed=2)
    weights.initialise_from(target, str(path), target.config)
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(value, target.encoder.state_dict()[name]), name


def test_weights_of_another_image_size_get_a_resampled_position_table(tmp_path: Path) -> None:
    source = method(image_size=64)
    run = RunDirectory(str(tmp_path))
    weights.export_encoder(source.encoder.state_dict(), run, {})
    target = method()
    weights.initialise_from(target, f"{run.root}/encoder.safetensors", target.config)
    assert target.encoder.pos_embed.shape == (1, 5, 192)
    assert torch.equal(target.encoder.blocks[3].mlp.fc1.weight, source.encoder.blocks[3].mlp.fc1.weight)


def test_a_timm_name_brings_timms_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32)
    save_for_hf(theirs, tmp_path, safe_serialization=False)
    target = method()
    weights.initialise_from(target, f"local-dir:{tmp_path}", target.config)
    for name, value in target.encoder.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    weights.export_encoder(method().encoder.state_dict(), run, {})
    path = f"{run.root}/encoder.safetensors"
    wide = method(encoder="vit_small_patch16_224")
    with pytest.raises(ValueError, match=r"do not fit the encoder vit_small_patch16_224.*\(192,\), expected \(384,\)"):
        weights.initialise_from(wide, path, wide.config)
    with pytest.raises(ValueError, match="weights file no-such-thing does not exist"):
        weights.initialise_from(wide, "no-such-thing", wide.config)
