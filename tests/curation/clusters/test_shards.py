"""What k-means is trained on: groups of shards, whether they stay in memory, and the sample of a share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.clusters import seeding, shards
from curation.embeddings.nearest import vectors_of
from curation.embeddings.vectors import keys_of
from curation.store import schema
from curation.store.directory import RunDirectory

Make = Callable[..., Any]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 60), st.integers(1, 20))
def test_every_part_is_in_one_shard_of_one_group(rows: list[int], shard_rows: int, count: int) -> None:
    parts = [{"path": f"part-{number}", "rows": size} for number, size in enumerate(rows)]
    cut = shards.shards_of(parts, shard_rows)
    groups = shards.groups_of(cut, count)
    assert [path for group in groups for shard in group for path in shard] == [part["path"] for part in parts]
    assert [shard for group in groups for shard in group] == cut
    assert len(groups) == min(count, len(cut))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert all(sum(rows[int(path[5:])] for path in shard) >= shard_rows for shard in cut[:-1])


def test_what_fits_into_half_of_the_store_stays_there() -> None:
    vector = pa.list_(pa.float16(), 768)
    fits = shards.plan(1_000_000, vector, True, 6.9e9)
    assert (fits.needed, fits.resident) == (1_000_000 * (768 * 3 + 40), True)
    assert str(fits) == "vectors in memory (2.3 GB, object store 6.9 GB)"
    large = shards.plan(10_000_000, vector, False, 6.9e9)
    assert (large.needed, large.resident) == (10_000_000 * (768 * 2 + 40), False)
    assert str(large) == "vectors read anew in each iteration (16 GB, object store 6.9 GB)"
    assert not shards.plan(1, vector, True, 0.0).resident  # no node is there yet


@pytest.mark.parametrize("coded", [False, True])
def test_a_share_is_the_same_sample_in_any_shards(vectors: Make, tmp_path: Path, coded: bool) -> None:
    run, x = RunDirectory(str(tmp_path)), vectors(1, 500, 8, dtype=np.float16)
    ids = [f"{number * 2**110 + 1:032x}" for number in range(500)]
    columns = schema.embeddings(8, "float16")
    paths = []
    for number, block in enumerate(np.array_split(np.arange(500), 4)):
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x[block].ravel()), type=columns.field("embedding").type)
        arrays = [pa.array([ids[row] for row in block]), flat]
        arrays += [pa.array(np.zeros(len(block), np.float32)) for _ in schema.MEASURES]
        paths.append(f"embeddings/part-{number:06d}.parquet")
        run.write_table(paths[-1], pa.Table.from_arrays(arrays, schema=columns))
    keys = keys_of(ids)
    chosen = seeding.trained_on(keys, 0.3, 7)
    assert 100 < chosen.sum() < 200
    assert not np.array_equal(chosen, seeding.sample(keys, 0.3, 7))  # drawn for another purpose
    reader = shards.Reader(run, None, 0.3, 7, coded)
    for cut in ([paths], [[path] for path in paths], [paths[:1], paths[1:]]):
        found = [reader.load(some) for some in cut]
        assert np.concatenate([one for one, _ in found]).tolist() == keys[chosen].tolist()
        assert np.concatenate([vectors_of(one) for _, one in found]).tobytes() == x[chosen].tobytes()
    whole = shards.Reader(run, None, 1.0, 7, coded).load(paths)
    assert whole[0].tolist() == keys.tolist()
