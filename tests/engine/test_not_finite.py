"""An encoder that overflows for one frame: it and its copy are rejected, and nothing else changes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.embeddings.embed import embed
from curation.exports.config import ExportConfig
from curation.frames.ingest import ingest
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig

Rows = Callable[[Path, str], pa.Table]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Weights whose first feature exceeds float16 for a white image, and not for a grey one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model("test_vit", num_classes=0, img_size=32).state_dict()
    state["patch_embed.proj.weight"][0] = 200.0
    save_file(state, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


@pytest.fixture
def run_config(tmp_path: Path, weights: str) -> Callable[..., pipeline.RunConfig]:
    """run_config(name, frames): a run of grey frames, to which a white one and its copy may be added."""

    def make(name: str, white: bool) -> pipeline.RunConfig:
        where: dict[str, Any] = {"run_dir": str(tmp_path / name)}
        folder, generator = tmp_path / f"{name}-frames", np.random.default_rng(0)
        folder.mkdir()
        for number in range(11):
            pixels = generator.integers(110, 145, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        if white:
            for number in ("03-white", "07-copy"):
                Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(folder / f"{number}.png")
        encoder: dict[str, Any] = {"encoder": "test_vit", "weights": weights, "image_size": 32}
        return pipeline.RunConfig(
            ingest=IngestConfig(**where, source=(f"grey={folder}",)),
            embed=EmbedConfig(**where, **encoder, precision="float16", chunk_rows=4, max_rejected=0.2),
            cluster=ClusterConfig(**where, clusters=2),
            select=SelectConfig(**where, budget=1.0),
            export=ExportConfig(**where),
        )

    return make


def test_a_frame_without_a_finite_vector_is_rejected(
    *, local_ray: None, run_config: Callable[..., pipeline.RunConfig], rows: Rows
) -> None:
    spoilt, clean = run_config("spoilt", True), run_config("clean", False)
    markers = {marker["step"]: marker for marker in pipeline.run(spoilt)}
    ingest(clean.ingest)
    embed(clean.embed)
    run_dir = Path(spoilt.ingest.run_dir)
    rejected = [row for file in (run_dir / "rejected").glob("*") for row in pq.read_table(file).to_pylist()]
    assert sorted((row["path"], row["step"]) for row in rejected) == [
        ("03-white.png", "embed"),
        ("07-copy.png", "embed"),
    ]
    assert {row["reason"] for row in rejected} == {"no finite vector"}
    assert all("float16 gives no finite vector" in row["message"] for row in rejected)
    found, expected = (rows(Path(one.ingest.run_dir), "embeddings").to_pylist() for one in (spoilt, clean))
    assert [row["frame_id"] for row in found] == [row["frame_id"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(row.pop("embedding"), other.pop("embedding"), atol=2e-2)  # other frames beside it
        assert row == other
    decisions = pq.read_table(run_dir / "subsets/curated/decisions.parquet").to_pylist()
    assert Counter(row["reason"] for row in decisions) == {"kept": 11, "rejected": 2}
    assert (markers["embed"]["rejected"], markers["select"]["rows_out"], markers["select"]["rejected"]) == (2, 11, 2)
    assert "a budget of 1 keeps all that was left" in markers["select"]["note"]


def test_weights_that_are_not_finite_are_refused_by_name(
    local_ray: None, run_config: Callable[..., pipeline.RunConfig], weights: str
) -> None:
    state = load_file(weights)
    state["norm.weight"][3] = float("nan")
    save_file(state, weights)
    config = run_config("refused", False)
    ingest(config.ingest)
    with pytest.raises(ValueError, match=r"not finite, in 1 tensors \(norm.weight\)"):
        embed(config.embed)
    assert not Path(config.ingest.run_dir, "embeddings").exists()
