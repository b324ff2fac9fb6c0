"""The same input and seed give byte-equal tables, whatever runs them and in whatever order the input comes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import pipeline
from curation.embeddings.embed import embed

Reference = tuple[Path, list[dict[str, Any]]]
Tables = Callable[[Path], dict[str, str]]
Settings = Callable[..., pipeline.RunConfig]

ON_CPUS = "import ray, sys; from curation.__main__ import main; " + (
    "ray.init(address='local', num_cpus=int(sys.argv[1]), include_dashboard=False); sys.exit(main(sys.argv[2:]))"
)


def test_the_tables_are_there(reference: Reference, tables: Tables) -> None:
    folders = {path.rpartition("/")[0] for path in tables(reference[0])}
    steps = {
        "frames",
        "frames/copies",
        "embeddings",
        "clusters",
        "clusters/assignments",
        "clusters/iterations",
        "scores",
    }
    assert folders == steps | {"subsets/curated"}


def test_one_embed_worker_as_two(begun: Callable[..., Path], settings: Settings, tables: Tables) -> None:
    run_dir = begun("frames")
    embed(settings(run_dir, embed={"workers": 1}).embed)
    assert tables(run_dir) == tables(begun("embeddings", "two-workers"))


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 4])
def test_other_cpus_as_two(
    *,
    reference: Reference,
    settings: Settings,
    run_flags: Callable[[pipeline.RunConfig], list[str]],
    python: Callable[..., Any],
    tables: Tables,
    tmp_path: Path,
    cpus: int,
) -> None:
    done = python("-c", ON_CPUS, str(cpus), "run", *run_flags(settings(tmp_path / "run")))
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "run") == tables(reference[0])


def test_input_elsewhere_and_in_another_order(
    reference: Reference, settings: Settings, drawn: tuple[Path, pa.Table], tables: Tables, tmp_path: Path
) -> None:
    frames, moved = drawn[0], tmp_path / "frames"
    files = sorted(file for file in frames.rglob("*.jpg"))
    for place in np.random.default_rng(1).permutation(len(files)):  # the order in which a folder may list them
        target = moved / files[place].relative_to(frames)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[place], target)
    swapped = (  # beta, alpha in the reference
        f"alpha={moved}/center_a",
        f"beta={moved}/center_b",
    )
    run_dir = tmp_path / "run"
    pipeline.run(settings(run_dir, swapped))
    found, expected = tables(run_dir), tables(reference[0])
    assert found.keys() == expected.keys()
    for path in expected:
        if "uri" not in pq.read_schema(run_dir / path).names:
            assert found[path] == expected[path], path
            continue
        one, other = pq.read_table(run_dir / path), pq.read_table(reference[0] / path)
        assert all(uri.startswith(str(moved)) for uri in one["uri"].to_pylist())
        assert one.drop_columns("uri").equals(other.drop_columns("uri"))
        assert one.schema.metadata == other.schema.metadata
