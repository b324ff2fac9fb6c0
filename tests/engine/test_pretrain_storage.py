"""Pre-training whose output is an object store: a real S3 server on loopback, and decoded frames in Ray's own store."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file

from curation.store.directory import RunDirectory
from training.__main__ import main
from training.pretraining import checkpoint

FLAGS = [
    "--encoder=test_vit",
    "--image-size=32",
    "--decoder-depth=1",
    "--decoder-width=32",
    "--decoder-heads=2",
    "--batch-size=8",
    "--slice-rows=4",
    "--log-steps=2",
    "--checkpoint-steps=4",
    "--picture-steps=8",
    "--precision=float32",
    "--steps=8",
]


@pytest.mark.slow
def test_an_output_in_object_storage_holds_all_that_a_folder_holds(
    reference: tuple[Path, list[dict[str, Any]]], bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = f"--subset={next((reference[0] / 'subsets').iterdir())}"
    away = bucket.format("encoder")
    assert main(["pretrain", subset, f"--output={away}", *FLAGS]) == 0
    assert main(["pretrain", subset, f"--output={tmp_path}", *FLAGS]) == 0
    run, here = RunDirectory(away), RunDirectory(str(tmp_path))
    expected, found = load_file(tmp_path / "encoder.safetensors"), load(run.read_bytes("encoder.safetensors"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert checkpoint.whole_updates(run) == checkpoint.whole_updates(here) == [4, 8]
    assert run.names("pictures") == here.names("pictures") == ["update-00000008.png"]
    assert len(run.names("tensorboard")) == 1
    losses = [place.read_table("metrics.parquet", ["update", "loss"]) for place in (run, here)]
    assert losses[0].equals(losses[1])
    assert run.names("cache") == []
    before = run.read_bytes("card.json")
    capsys.readouterr()
    assert main(["pretrain", subset, f"--output={away}", *FLAGS]) == 0  # finished: it trains nothing anew
    assert run.read_bytes("card.json") == before
