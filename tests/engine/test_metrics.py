"""What Prometheus reads from a node while a run goes on."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from curation.embeddings.chunks import DECODED
from curation.embeddings.config import EmbedConfig
from curation.embeddings.embed import EncodeChunk


def exported(name: str) -> dict[str, float]:
    """The values of a counter by its labels, from the node's own exporter."""
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(f"ray_endosieve_{name}_total{{"))
    return {labels: float(value) for labels, _, value in found}


def of(values: dict[str, float], **labels: str) -> float:
    """The sum of the values that have these labels."""
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(value for found, value in values.items() if all(label in found for label in wanted))


def test_a_run_is_counted(reference: tuple[Path, list[dict[str, Any]]], wait_until: Callable[..., None]) -> None:
    run, markers = str(reference[0]), {marker["step"]: marker for marker in reference[1]}
    wait_until(lambda: of(exported("frames"), run=run, step="score") > 0, "no frames of score")
    for step in ("ingest", "embed", "score"):
        assert of(exported("frames"), run=run, step=step) == markers[step]["rows_out"]
    assert of(exported("parts"), run=run, step="ingest") == 8  # of 20 files each


def test_an_encoder_reports_how_busy_it_is(local_ray: None, tmp_path: Path, wait_until: Callable[..., None]) -> None:
    config = EmbedConfig(
        run_dir=str(tmp_path), encoder="vit_tiny_patch16_224", weights="random", image_size=32, precision="float32"
    )
    row = {"part": 0, "chunk": 0, "chunks": 1, "frame_ids": ["a"], "measures": [0.0], "rejected": []}
    batch = pa.Table.from_pylist([row | {"pixels": bytes(32 * 32 * 3)}], DECODED)
    actor = ray.remote(EncodeChunk).remote(config, "float32")
    for _ in range(2):
        ray.get(actor.__call__.remote(batch))
    run = str(tmp_path)
    wait_until(lambda: of(exported("busy_seconds"), run=run, step="embed", device="cpu") > 0, "no busy seconds")
    assert 0 < of(exported("busy_seconds"), run=run) < 60
    assert 0 < of(exported("waiting_seconds"), run=run) < 60
    ray.kill(actor)
