"""`python -m training pretrain` through Ray Train: what it leaves behind, on one rank and two, cached and streamed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curation.store.directory import RunDirectory
from training.__main__ import main
from training.pretraining import checkpoint

SMALL = {
    "encoder": "test_vit",
    "image-size": 32,
    "decoder-depth": 1,
    "decoder-width": 32,
    "decoder-heads": 2,
    "batch-size": 12,
    "slice-rows": 4,
    "steps": 6,
    "log-steps": 2,
    "checkpoint-steps": 2,
    "picture-steps": 4,
    "pictures": 2,
    "precision": "float32",
}


def flags(subset: str, output: Path | str, **changes: Any) -> list[str]:
    values = SMALL | {name.replace("_", "-"): value for name, value in changes.items()}
    spelt = [f"--{name}={value}" for name, value in values.items()]
    return ["pretrain", f"--subset={subset}", f"--output={output}", *spelt]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "encoder.safetensors")


def losses(output: Path) -> list[float]:
    return pq.read_table(output / "metrics.parquet")["loss"].to_pylist()


@pytest.fixture(scope="module")
def subset(reference: tuple[Path, list[dict[str, Any]]]) -> str:
    return str(next((reference[0] / "subsets").iterdir()))


@pytest.fixture(scope="module")
def trained(subset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed training on one rank. Not to be changed."""
    output = tmp_path_factory.mktemp("trained")
    assert main(flags(subset, output)) == 0
    return output


def test_the_encoder_is_plain_timm_and_the_card_says_how_it_came_about(subset: str, trained: Path) -> None:
    model = timm.create_model("test_vit", img_size=32, num_classes=0)
    model.load_state_dict(weights(trained), strict=True)
    card = json.loads((trained / "card.json").read_text())
    kept = pq.read_table(f"{subset}/kept.parquet")
    about = json.loads(Path(subset, "subset.json").read_text())
    assert card["data"]["frames"] == len(kept)
    assert card["data"]["ratio"] == about["ratio"]
    assert card["cost"]["images_seen"] == 72
    assert card["cost"]["bytes_read"] == sum(kept["byte_size"].to_pylist())
    assert card["cost"]["flops"] == pytest.approx(72 * card["cost"]["flops_per_image"])
    assert card["cost"]["device_hours"] > 0
    assert card["against_full_pool"]["storage_saved"] == pytest.approx(
        1 - sum(kept["byte_size"].to_pylist()) / about["pool_bytes"]
    )
    assert card["recipe"]["steps"] == 6


def test_records_and_pictures(subset: str, trained: Path) -> None:
    metrics = pq.read_table(trained / "metrics.parquet")
    assert metrics["update"].to_pylist() == [2, 4, 6]
    assert metrics["memory_gb"].to_numpy().min() > 0.1
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("loss")]
    assert seen == [(u, pytest.approx(v)) for u, v in zip(metrics["update"].to_pylist(), losses(trained), strict=True)]
    assert [event.step for event in events.Images("pictures")] == [4, 6]
    first, last = (np.asarray(Image.open(trained / f"pictures/update-{n:08d}.png")) for n in (4, 6))
    assert first.shape == (2 * 32 + 4, 3 * 32, 3)
    assert np.array_equal(first[:, :64], last[:, :64])  # the same crops and masks, reconstructed otherwise
    assert not np.array_equal(first[:, 64:], last[:, 64:])
    cached = np.concatenate([np.load(path) for path in sorted((trained / "cache").iterdir())])
    assert cached.shape == (pq.read_metadata(f"{subset}/kept.parquet").num_rows, 40, 40, 3)
    assert checkpoint.whole_updates(RunDirectory(str(trained))) == [4, 6]


def test_again_in_the_same_place_nothing_changes_and_other_settings_are_refused(
    subset: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*.safetensors")}
    monkeypatch.chdir(trained)
    assert main(flags(os.path.relpath(subset), ".")) == 0
    assert {path: path.read_bytes() for path in trained.rglob("*.safetensors")} == before
    capsys.readouterr()
    assert main(flags(subset, trained, steps=7)) == 2
    assert "steps was 6, now 7" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_and_streaming_compute_what_one_rank_computes_from_a_cache(
    subset: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths hold for ranks too, which run elsewhere
    assert main(flags(os.path.relpath(subset), "two", workers=2)) == 0  # three draws: one rank has two of them
    assert losses(tmp_path / "two") == pytest.approx(losses(trained), abs=1e-5)
    for name, value in weights(trained).items():
        assert torch.allclose(value, weights(tmp_path / "two")[name], atol=1e-5), name
    assert main(flags(os.path.relpath(subset), "streamed", cache_gb=0)) == 0
    assert losses(tmp_path / "streamed") == pytest.approx(losses(trained), abs=1e-5)
    assert not (tmp_path / "streamed" / "cache").exists()
    card = json.loads((tmp_path / "streamed" / "card.json").read_text())
    assert card["cost"]["bytes_read"] > 3 * json.loads((trained / "card.json").read_text())["cost"]["bytes_read"]


@pytest.mark.slow
def test_simclr_on_two_ranks_is_simclr_on_one(subset: str, tmp_path: Path) -> None:
    settings = {"method": "simclr", "batch_size": 16, "steps": 3, "clip_norm": 1.0, "ema_decay": 0.9}
    given = [
        flag
        for flag in flags(subset, "x", **settings)
        if "decoder" not in flag and not flag.startswith(("--subset", "--output", "pretrain"))
    ]
    for workers in (1, 2):
        place = [f"--subset={subset}", f"--output={tmp_path / str(workers)}", f"--workers={workers}"]
        assert main(["pretrain", *given, *place]) == 0
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), abs=1e-4)
    for name, value in weights(tmp_path / "1").items():
        assert torch.allclose(value, weights(tmp_path / "2")[name], atol=1e-4), name


@pytest.mark.slow
def test_a_rank_count_that_may_change_is_accepted(subset: str, trained: Path, tmp_path: Path) -> None:
    assert main(flags(subset, tmp_path / "elastic", workers=2, min_workers=1)) == 0
    assert losses(tmp_path / "elastic") == pytest.approx(losses(trained), abs=1e-5)
