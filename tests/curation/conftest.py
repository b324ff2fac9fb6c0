"""What tests of curation share: run directories, one thread for torch, made-up vectors, and selections of columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.fs as pafs
import pytest

from curation.embeddings.vectors import to_unit
from curation.store.directory import RunDirectory
from curation.subsets import rules, scored
from curation.subsets.config import SelectConfig

Floats = npt.NDArray[np.floating]


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    if request.param == "local":
        return RunDirectory(str(tmp_path / "run"))
    system = fsspec.filesystem("memory")
    if system.exists("/run"):
        system.rm("/run", recursive=True)
    return RunDirectory("memory://run")


@pytest.fixture(scope="session")
def every_file() -> Callable[[RunDirectory], list[str]]:
    """every_file(run): the paths of all files of a run directory."""

    def paths(run: RunDirectory) -> list[str]:
        found = run.filesystem.get_file_info(pafs.FileSelector(run.root, recursive=True, allow_not_found=True))
        return sorted(info.path.rpartition("run/")[2] for info in found if info.type == pafs.FileType.File)

    return paths


@pytest.fixture(scope="session")
def at_degrees() -> Callable[..., Floats]:
    """at_degrees(*angles): unit vectors in the plane."""

    def make(*angles: float) -> Floats:
        radians = np.radians(angles)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def cosine() -> Callable[[float], float]:
    """cosine(degrees)"""
    return lambda degrees: float(np.cos(np.radians(degrees)))


@pytest.fixture(scope="session")
def vectors() -> Callable[..., Floats]:
    """vectors(seed, rows, dimensions): random unit vectors around some centers."""

    def make(seed: int, rows: int, dimensions: int, blobs: int = 6, dtype: type = np.float32) -> Floats:
        generator = np.random.default_rng(seed)
        centers = generator.normal(size=(blobs, dimensions))
        x = centers[generator.integers(blobs, size=rows)] + 0.4 * generator.normal(size=(rows, dimensions))
        return to_unit(x.astype(np.float32)).astype(dtype)

    return make


@pytest.fixture(scope="session")
def keys_for() -> Callable[..., npt.NDArray[np.uint64]]:
    """keys_for(rows, seed): keys of frames, all different, in no order."""

    def make(rows: int, seed: int = 0) -> npt.NDArray[np.uint64]:
        return np.random.default_rng(seed).permutation(rows).astype(np.uint64) * np.uint64(2**40 + 7)

    return make


@pytest.fixture(scope="session")
def selection() -> Callable[..., SelectConfig]:
    """selection(**values): a config of `select` for no run."""
    return lambda **values: SelectConfig(run_dir="unused", **values)


@pytest.fixture(scope="session")
def columns_of() -> Callable[..., scored.Columns]:
    """columns_of(distance, similarity, cluster, keys): the columns that `select` decides by."""

    def make(distance: Any, similarity: Any, cluster: Any = None, keys: Any = None) -> scored.Columns:
        rows = len(distance)
        return scored.Columns(
            np.array(distance, np.float32),
            np.array(similarity, np.float32),
            np.array(cluster if cluster is not None else [0] * rows, np.int32),
            np.array(keys if keys is not None else range(rows), np.uint64),
        )

    return make


@pytest.fixture(scope="session")
def kept() -> Callable[..., set[int]]:
    """kept(columns, selection, pool): the frames that stay; none where the selection is refused because none does."""

    def rows(columns: scored.Columns, chosen: SelectConfig, pool: int | None = None) -> set[int]:
        try:
            reason, _ = rules.reasons(columns, chosen, len(columns.keys) if pool is None else pool)
        except ValueError as error:
            if "keep none of" in str(error):
                return set()
            raise
        assert (reason == rules.KEPT).any()
        return set(np.flatnonzero(reason == rules.KEPT).tolist())

    return rows
