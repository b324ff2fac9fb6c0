"""What Prometheus reads from a node while a run goes on."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from curation.embeddings.encoder import resolved
from curation.embeddings.encoding import EncodeUnit, Work
from curation.embeddings.units import Unit, cut
from curation.store.directory import File, RunDirectory
from curation.store.markers import marker_of


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


class Encoding(EncodeUnit):
    """An encoder that is asked for one unit after the other."""

    def records(self, unit: Unit) -> list[dict[str, Any]]:
        """All records of a unit."""
        batch = pa.Table.from_pylist([unit.to_row()])
        return [row for table in self(batch) for row in table.to_pylist()]


def test_an_encoder_reports_how_busy_it_is(
    begun: Callable[..., Path], settings: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    run = RunDirectory(str(begun("frames")))
    before = marker_of(run, "frames", "ingest")
    work = Work(run, resolved(settings(Path(run.uri)).embed), "float32", before["output_hash"])
    files = [File(**entry) for entry in before["files"] if entry["path"].startswith("frames/part-")]
    actor = ray.remote(Encoding).remote(work)
    for unit in cut(files[:2], 4, 1):
        [record] = ray.get(actor.records.remote(unit))
        assert (record["part"], record["slices"], record["frames"]) == (unit.part, 1, record["files"][0]["rows"])
        assert min(record[name] for name in ("read_s", "decode_s", "encode_s", "write_s")) > 0
    labels = {"run": run.uri, "step": "embed", "device": "cpu"}
    wait_until(lambda: of(exported("busy_seconds"), **labels) > 0, "no busy seconds")
    assert 0 < of(exported("busy_seconds"), **labels) < 60
    assert 0 < of(exported("waiting_seconds"), **labels) < 60
    ray.kill(actor)
