"""The exact nearest of many vectors on both paths, against all pairs in float64, over sizes that cross every block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.embeddings import nearest_cpu, nearest_gpu
from curation.embeddings.nearest import nearest, nearest_index, prepare
from curation.embeddings.vectors import to_unit

DEVICES = ("cpu", "cpu:0")  # any name but "cpu" takes the path of a GPU; PyTorch runs it on the CPU here
Array = npt.NDArray[Any]
pytestmark = pytest.mark.usefixtures("one_thread")


def units(seed: int, rows: int, dimensions: int, distinct: int, noise: float) -> Array:
    """Unit vectors around some directions: without noise copies, with little of it near copies."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(distinct, dimensions))
    x = centers[generator.integers(distinct, size=rows)] + noise * generator.normal(size=(rows, dimensions))
    return to_unit(x.astype(np.float32))


def all_pairs(rows: Array, columns: Array, before: int | Array | None) -> tuple[Array, Array]:
    products = (rows.astype(np.float64) @ columns.astype(np.float64).T).astype(np.float32)
    if before is not None:
        limit = np.arange(before, before + len(rows)) if isinstance(before, int) else before
        products[np.arange(len(columns)) >= limit[:, None]] = -np.inf
    index = products.argmax(axis=1)
    value = products[np.arange(len(rows)), index]
    none = np.isneginf(value)
    return np.where(none, np.float32(-1), value), np.where(none, -1, index)


@contextmanager
def blocks(size: int, dense_share: float, integers: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("GPU_BLOCK", size), ("GPU_PAIRS", size), ("GPU_DENSE_SHARE", dense_share)):
            patch.setattr(nearest_gpu, name, value)
        for name, value in (("COLUMNS", size), ("BLOCK", 1), ("FEW_COLUMNS", 2), ("DENSE_SHARE", dense_share)):
            patch.setattr(nearest_cpu, name, value)
        patch.setattr(nearest_cpu, "integers_are_fast", lambda: integers)
        yield


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(2, 20)),
    st.tuples(st.integers(1, 40), st.sampled_from([0.0, 1e-4, 1.0])),
    st.one_of(st.none(), st.integers(0, 80)),
    st.tuples(st.integers(1, 60), st.sampled_from([0.0, 1.0]), st.booleans()),
)
def test_both_paths_are_those_of_all_pairs(
    seed: int, shape: tuple[int, int, int], kind: tuple[int, float], before: int | None, how: tuple[int, float, bool]
) -> None:
    x = units(seed, shape[0] + shape[1], shape[2], *kind)
    rows, columns = x[: shape[0]], x[shape[0] :]
    value, index = all_pairs(rows, columns, before)
    for device in DEVICES:
        with blocks(*how):
            found = nearest(prepare(rows, device), prepare(columns, device), before, device)
            estimate, error, others, place = nearest_index(prepare(rows, device), prepare(columns, device), device)
        np.testing.assert_array_equal(found[1], index)
        np.testing.assert_array_equal(found[0], value)
        whole, first = all_pairs(rows, columns, None)
        np.testing.assert_array_equal(place, first)
        assert (np.abs(estimate - whole) <= error + np.float32(1e-6)).all()
        products = rows.astype(np.float64) @ columns.astype(np.float64).T
        products[np.arange(len(rows)), first] = -np.inf
        assert (products.max(axis=1) <= others + np.float32(1e-6)).all()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(2, 20)),
    st.booleans(),
    st.tuples(st.integers(1, 60), st.sampled_from([0.0, 1.0]), st.booleans()),
)
def test_each_row_may_have_a_limit_of_its_own(
    seed: int, shape: tuple[int, int, int], ascending: bool, how: tuple[int, float, bool]
) -> None:
    x = units(seed, shape[0] + shape[1], shape[2], 9, 0.1)
    rows, columns = x[: shape[0]], x[shape[0] :]
    limit = np.random.default_rng(seed).integers(0, shape[1] + 2, shape[0])
    limit = np.sort(limit) if ascending else limit
    value, index = all_pairs(rows, columns, limit)
    for device in DEVICES:
        with blocks(*how):
            found = nearest(prepare(rows, device), prepare(columns, device), limit, device)
        np.testing.assert_array_equal(found[1], index)
        np.testing.assert_array_equal(found[0], value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", [1e-4, 1.0])
def test_sizes_beyond_the_real_blocks(device: str, noise: float) -> None:
    x = units(3, 8300, 16, 500, noise)
    rows, start = x[3900:8250], 3900
    value, index = all_pairs(rows, x, start)
    found = nearest(prepare(rows, device), prepare(x, device), start, device)
    np.testing.assert_array_equal(found[1], index)
    np.testing.assert_array_equal(found[0], value)


def test_products_are_whole_float32_whatever_a_program_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = [], torch.get_float32_matmul_precision()
    real: Callable[..., Any] = nearest_gpu._nearest_of_block

    def watched(*arguments: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return real(*arguments)

    monkeypatch.setattr(nearest_gpu, "_nearest_of_block", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        nearest(units(0, 5, 4, 5, 1.0), units(1, 6, 4, 5, 1.0), device=DEVICES[1])
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "medium")
    finally:
        torch.set_float32_matmul_precision(before)
