"""What tests that run Ray share: one local Ray, a small phantom and a run of it, made-up embeddings, and commands."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.console import StepSummary
from curation.embeddings.config import EmbedConfig
from curation.exports.config import ExportConfig
from curation.frames import frame
from curation.phantom import polyps as phantom_polyps
from curation.phantom.colonoscopy import PhantomConfig, draw
from curation.sources.config import IngestConfig
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.markers import Step
from curation.subsets.config import SelectConfig
from training.pretraining.weights import export_encoder
from training.segmentation import tokens


def load(path: Path) -> Any:
    """The module in a file that is in no package."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes = load(Path(__file__).parents[1] / "bench" / "nodes.py")
# center_a and center_b are sources of their own here, so center stays null; shot is metadata of the user.
LINEAGE = r"(?P<patient>patient_\d+)/(?P<procedure>procedure_\d+)/.*frame_(?P<shot>\d+)"
FOLDERS = ("frames", "embeddings", "clusters", "scores", "subsets")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task warns about the future
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}  # of the S3 servers in tests
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it logs at DEBUG under pytest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's default context sets an option that Ray deprecates
        DataContext.get_current()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """The folder with the phantom's frames, and its truth: 150 files in two centers, 9 of them exact copies."""
    output = tmp_path_factory.mktemp("phantom")
    small = {"procedures": 3, "scenes": 8, "frames_per_scene": 5, "width": 160, "height": 128}
    truth = draw(PhantomConfig(output=str(output), invalid_share=0.1, copy_share=0.15, **small))
    return output / "frames", truth


@pytest.fixture(scope="session")
def polyps(drawn: tuple[Path, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's frames with a polyp and their masks, a patient a part. Not to be changed."""
    folder = tmp_path_factory.mktemp("polyps")
    phantom_polyps.lay_out(drawn[1], str(drawn[0].parent), str(folder))
    return folder


@pytest.fixture(scope="session")
def settings(drawn: tuple[Path, pa.Table]) -> Callable[..., pipeline.RunConfig]:
    """settings(run_dir, source=..., embed={...}, ...): a RunConfig for the phantom, with changes to each step."""
    frames, _ = drawn
    both = (f"beta={frames}/center_b", f"alpha={frames}/center_a")

    def make(run_dir: Path, source: tuple[str, ...] = both, **changes: dict[str, Any]) -> pipeline.RunConfig:
        where = {"run_dir": str(run_dir)}
        ingest = {"source": source, "lineage_pattern": LINEAGE, "part_rows": 20}
        embed = {"encoder": "vit_tiny_patch16_224", "weights": "random", "image_size": 112}
        embed |= {"precision": "float32", "pooling": "mean", "chunk_rows": 4}
        cluster = {"clusters": 5, "iterations": 50, "shard_rows": 40, "center": True}
        return pipeline.RunConfig(
            ingest=IngestConfig(**where | ingest | changes.get("ingest", {})),
            embed=EmbedConfig(**where | embed | changes.get("embed", {})),
            cluster=ClusterConfig(**where | cluster | changes.get("cluster", {})),
            select=SelectConfig(**where | {"d": 0.9} | changes.get("select", {})),
            export=ExportConfig(**where | changes.get("export", {})),
        )

    return make


@pytest.fixture(scope="session")
def flags() -> Callable[..., list[str]]:
    """flags(*configs): the command line that stands for them, each flag once."""

    def spell(name: str, value: Any) -> list[str]:
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            return [flag] if value else []
        return [text for item in (value if isinstance(value, tuple) else (value,)) for text in (flag, str(item))]

    def make(*configs: Any) -> list[str]:
        values: dict[str, Any] = {}
        for config in configs:
            for field in dataclasses.fields(config):
                if (value := getattr(config, field.name)) is not None and value != field.default:
                    values.setdefault(field.name, value)
        return [text for name, value in values.items() for text in spell(name, value)]

    return make


@pytest.fixture(scope="session")
def run_flags(flags: Callable[..., list[str]]) -> Callable[[pipeline.RunConfig], list[str]]:
    """run_flags(config): the command line of `python -m curation run` that stands for it."""
    return lambda config: flags(*(getattr(config, field.name) for field in dataclasses.fields(config)))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a subprocess that starts a Ray of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"COLUMNS": "200"}


@pytest.fixture(scope="session")
def python(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """python(*arguments, **variables): run this interpreter to its end."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, timeout=300, check=False
        )

    return call


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """wait_until(condition, what): wait for it. TimeoutError, saying what was waited for."""
    return nodes.wait_until


@pytest.fixture(scope="session")
def started(environment: dict[str, str]) -> Callable[..., Any]:
    """started(log, *arguments): `python -m ...` in a process session of its own, for a `with` block."""

    def start(log: Path, *arguments: str) -> Any:
        command = [sys.executable, "-m", *arguments]
        with log.open("wb") as stream:
            return nodes.Session(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)

    return start


@pytest.fixture(scope="session")
def reference(
    local_ray: None, settings: Callable[..., pipeline.RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The run directory of an undisturbed run of the phantom, not to be changed, and the steps' markers."""
    run_dir = tmp_path_factory.mktemp("reference")
    return run_dir, pipeline.run(settings(run_dir))


@pytest.fixture
def begun(reference: tuple[Path, Any], tmp_path: Path) -> Callable[..., Path]:
    """begun(folder): a copy of the reference run that is done up to `folder` (one of FOLDERS) and no further."""

    def make(last: str, name: str = "run") -> Path:
        gone = FOLDERS[FOLDERS.index(last) + 1 :]
        run_dir = tmp_path / name
        shutil.copytree(reference[0], run_dir, ignore=lambda folder, _: gone if folder == str(reference[0]) else ())
        record = json.loads((run_dir / "run.json").read_text())
        record["steps"] = {step: entry for step, entry in record["steps"].items() if not step.startswith(gone)}
        (run_dir / "run.json").write_text(json.dumps(record))
        return run_dir

    return make


@pytest.fixture(scope="session")
def synthetic() -> Callable[..., Path]:
    """synthetic(run_dir, rows, dimensions, parts): finished frames/ and embeddings/ of random unit vectors.

    Every fourth vector is an earlier one with some noise.
    """

    def make(run_dir: Path, rows: int, dimensions: int, parts: int, storage: str = "float16") -> Path:
        generator = np.random.default_rng([rows, dimensions])
        x_ND = generator.standard_normal((rows, dimensions))
        near = np.arange(3, rows, 4)
        x_ND[near] = x_ND[generator.integers(near)] + generator.uniform(0, 0.5, (len(near), 1)) * x_ND[near]
        x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(storage)
        paths = [f"{row:06d}.jpg" for row in range(rows)]
        place = {"source": "made-up", "byte_size": 1}
        table = [
            place | {"frame_id": frame.frame_id("made-up", path), "uri": path, "path": path, "content_hash": path}
            for path in paths
        ]
        run = RunDirectory(str(run_dir))
        ingest = Step(run, "ingest", "frames", IngestConfig(run_dir=str(run_dir), source=("made-up",)), {})
        ingest.begin()
        columns, frames, embeddings = schema.embeddings(dimensions, storage), [], []
        for number, block in enumerate(np.array_split(np.arange(rows), parts)):
            of_part = pa.Table.from_pylist([table[row] for row in block], schema.frames(()))
            frames.append(run.write_table(f"frames/part-{number:06d}.parquet", of_part))
            vectors = pa.FixedSizeListArray.from_arrays(
                pa.array(x_ND[block].ravel()), type=columns.field("embedding").type
            )
            measures = [pa.array(np.zeros(len(block), np.float32)) for _ in schema.MEASURES]
            of_part = pa.Table.from_arrays([of_part["frame_id"].combine_chunks(), vectors, *measures], schema=columns)
            embeddings.append(run.write_table(f"embeddings/part-{number:06d}.parquet", of_part))
        summary = StepSummary(rows_in=rows, rows_out=rows, seconds=0.0)
        done = ingest.finish(summary, frames)
        embed = Step(run, "embed", "embeddings", EmbedConfig(run_dir=str(run_dir)), {"frames": done["output_hash"]})
        embed.begin()
        embed.finish(summary, embeddings)
        return run_dir

    return make


@pytest.fixture(scope="session")
def tables() -> Callable[[Path], dict[str, str]]:
    """tables(run_dir): the SHA-256 of every whole Parquet file by its path below the run directory.

    But for frames/_listing, which records when the source's files were written.
    """

    def digests(run_dir: Path) -> dict[str, str]:
        whole = (file for file in run_dir.rglob("*.parquet") if not file.name.startswith("."))
        files = sorted(file for file in whole if file.parent.name != "_listing")
        return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return digests


@pytest.fixture(scope="session")
def relisted() -> Callable[[Path], None]:
    """relisted(run_dir): its markers list the files that a test has rewritten, as if another program had made them."""

    def relist(run_dir: Path) -> None:
        run = RunDirectory(str(run_dir))
        for path in run_dir.rglob("_SUCCESS.json"):
            marker = json.loads(path.read_text())
            marker["files"] = [vars(run.describe(file["path"])) for file in marker["files"]]
            path.write_text(json.dumps(marker))

    return relist


@pytest.fixture(scope="session")
def written() -> Callable[[Path], dict[str, tuple[int, int]]]:
    """written(run_dir): inode and time of change of every file, by its path: a file written anew differs."""

    def stats(run_dir: Path) -> dict[str, tuple[int, int]]:
        files = sorted(file for file in run_dir.rglob("*") if file.is_file())
        return {str(file.relative_to(run_dir)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}

    return stats


@pytest.fixture(scope="session")
def rows() -> Callable[[Path, str], pa.Table]:
    """rows(run_dir, folder): all parts of one folder of a run as one table, in their order."""

    def read(run_dir: Path, folder: str) -> pa.Table:
        parts = sorted((run_dir / folder).glob("part-*.parquet"))
        return pa.concat_tables(pq.ParquetFile(part).read().replace_schema_metadata(None) for part in parts)

    return read


@pytest.fixture(scope="session")
def by_id() -> Callable[[pa.Table], dict[str, dict[str, Any]]]:
    """by_id(table): the rows of a table by their frames."""

    def read(table: pa.Table) -> dict[str, dict[str, Any]]:
        found = {row["frame_id"]: row for row in table.to_pylist()}
        assert len(found) == len(table), "a frame has two rows"
        return found

    return read


@pytest.fixture(scope="session")
def encoder_folder() -> Callable[..., Path]:
    """encoder_folder(folder, name, ...): a folder as pre-training leaves it, of an untrained encoder."""

    def make(folder: Path, name: str = "a", seed: int = 0, method: str = "meddel", **data: Any) -> Path:
        weights = tokens.load_encoder("random", 32, "test_vit", seed).state_dict()
        counts = {"outlier": 0, "duplicate": 0, "over budget": 7, "exact copy": 2, "rejected": 1}
        data = {"subset": name, "ratio": 0.1902, "selection": {"method": method}, "counts": counts} | data
        card = {"data": data, "recipe": {"encoder": "test_vit"}, "cost": {"epochs": 12.5}}
        export_encoder(weights, RunDirectory(str(folder)), card)
        return folder

    return make
