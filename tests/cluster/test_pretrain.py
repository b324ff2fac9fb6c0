"""`python -m training pretrain` on a subset, through Ray Train."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file

from training.__main__ import main

FLAGS = [
    f"--{name}={value}"
    for name, value in {
        "encoder": "vit_tiny_patch16_224",
        "image-size": 32,
        "decoder-depth": 1,
        "decoder-width": 32,
        "decoder-heads": 2,
        "batch-size": 8,
        "draw-rows": 4,
        "log-steps": 2,
        "checkpoint-steps": 2,
        "precision": "float32",
    }.items()
]


def test_a_subset_trains_an_encoder_that_plain_timm_loads(
    reference: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subset = str(next((reference[0] / "subsets").iterdir()))
    monkeypatch.chdir(tmp_path)  # relative paths hold for ranks too, which run elsewhere
    flags = ["pretrain", "--subset", os.path.relpath(subset), "--output", ".", *FLAGS]
    assert main([*flags, "--steps", "6"]) == 0
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    model.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    card = json.loads((tmp_path / "card.json").read_text())
    kept = pq.read_table(f"{subset}/kept.parquet")
    assert card["data"]["frames"] == len(kept)
    assert card["cost"]["images_seen"] == 48
    metrics = pq.read_table(tmp_path / "metrics.parquet")
    assert metrics["update"].to_pylist() == [2, 4, 6]
    assert np.isfinite(metrics["loss"].to_numpy()).all()
    cached = np.concatenate([np.load(path) for path in sorted((tmp_path / "cache").iterdir())])
    assert cached.shape == (len(kept), 40, 40, 3)
    before = load_file(tmp_path / "encoder.safetensors")
    assert main([*flags, "--steps", "6"]) == 0
    after = load_file(tmp_path / "encoder.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    capsys.readouterr()
    assert main([*flags, "--steps", "7"]) == 2
    assert "steps was 6, now 7" in capsys.readouterr().err


def test_no_subset_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--subset", str(tmp_path), "--output", str(tmp_path / "o"), *FLAGS, "--steps", "1"]) == 2
    assert "holds no exported subset" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
