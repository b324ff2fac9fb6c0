"""What was begun or finished on one kind of chip, and resumes or is used on another; where weights lie is no matter."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from curation.embeddings import embed
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import configured
from curation.engine import resources
from curation.engine.chips import Chip, chip
from training.__main__ import main

OTHER = [Chip("another chip", True)]
pytestmark = pytest.mark.usefixtures("local_ray")
SMALL = "--encoder=test_vit --image-size=32 --decoder-depth=1 --decoder-width=32 --decoder-heads=2 --batch-size=12"
SHORT = "--slice-rows=4 --steps=4 --checkpoint-steps=2 --picture-steps=0"


@pytest.mark.slow
def test_finished_embeddings_are_used_on_any_chip(
    begun: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = begun("frames")
    files = [tmp_path / "here.safetensors", tmp_path / "moved/there.safetensors"]
    files[1].parent.mkdir()
    small = {"run_dir": str(run_dir), "encoder": "test_vit", "image_size": 32, "pooling": "mean"}
    tensors = configured(EmbedConfig(**small, weights="random")).state_dict()
    for file in files:
        save_file(tensors, file)
    config = EmbedConfig(**small, weights=str(files[0]), precision="float32")
    made = embed.embed(config)
    assert made["device"] == chip().name
    assert made["inputs"]["precision"] == "float32"
    monkeypatch.setattr(resources, "chips", lambda: OTHER)
    again = embed.embed(dataclasses.replace(config, precision="auto", weights=str(files[1])))
    assert again["reused"]
    assert again["output_hash"] == made["output_hash"]
    with pytest.raises(ValueError, match="precision was 'float32', now 'bfloat16'"):
        embed.embed(dataclasses.replace(config, precision="bfloat16"))
    (run_dir / "embeddings/_SUCCESS.json").unlink()  # as if killed at the end
    resumed = embed.embed(dataclasses.replace(config, precision="auto"))
    assert resumed["inputs"]["precision"] == "float32"
    assert resumed["output_hash"] == made["output_hash"]
    save_file({name: value + 0.01 for name, value in tensors.items()}, files[0])
    with pytest.raises(ValueError, match="weights was"):
        embed.embed(config)


@pytest.mark.slow
def test_a_training_resumes_in_its_arithmetic_and_with_its_cache(
    reference: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    subset, output = next((reference[0] / "subsets").iterdir()), tmp_path / "trained"
    flags = ["pretrain", f"--subset={subset}", f"--output={output}", *SMALL.split(), *SHORT.split()]
    assert main([*flags, "--precision=float32"]) == 0
    card = json.loads((output / "card.json").read_text())
    kept = pq.read_metadata(subset / "kept.parquet").num_rows * 40 * 40 * 3
    assert card["cost"]["decoded_bytes_kept"] == kept
    assert card["device"] == chip().name
    shutil.rmtree(output / "checkpoints/update-00000004")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=kept // 2))
    monkeypatch.setattr(resources, "chips", lambda: OTHER)
    assert main(flags) == 0
    resumed = json.loads((output / "card.json").read_text())
    assert resumed["cost"]["decoded_bytes_kept"] == kept
    assert resumed["recipe"]["arithmetic"] == "float32"
    assert resumed["recipe_hash"] == card["recipe_hash"]
    assert resumed["loss"] == card["loss"]
    capsys.readouterr()
    assert main([*flags, "--precision=bfloat16"]) == 2
    assert "arithmetic was 'float32', now 'bfloat16'" in capsys.readouterr().err
    shutil.rmtree(output / "cache")
    assert main(flags) == 0  # nothing is left to train, so nothing is decoded
    assert not (output / "cache").exists()
    assert json.loads((output / "card.json").read_text())["cost"]["decoded_bytes_kept"] == kept


def test_each_node_is_asked_for_its_chip(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    resources.chips_of.cache_clear()
    assert resources.chips() == [chip()]
    nodes = resources.ray.nodes()
    monkeypatch.setattr(resources, "count", lambda _: 1)
    monkeypatch.setattr(resources.ray, "nodes", lambda: [node | {"Resources": {"GPU": 1.0}} for node in nodes])
    assert resources.chips() == [chip("cuda")]  # asked by a task, which holds no GPU
    resources.chips_of.cache_clear()
