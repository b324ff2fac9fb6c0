"""Similarities to earlier rows by hand: single frames, bounds and roundings; visiting orders, and ranges of rows."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curation.embeddings.vectors import to_unit
from curation.scores import duplicates

Vectors = Callable[..., npt.NDArray[np.float32]]
ROUNDING = 2e-6  # of a float32 product
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here
pytestmark = pytest.mark.usefixtures("one_thread")


def test_earlier_similarity_by_hand(at_degrees: Vectors, cosine: Callable[[float], float]) -> None:
    for device in ("cpu", TORCH_PATH):
        similarity, index = duplicates.earlier_similarity(at_degrees(0, 60, 20, 62), device=device)
        assert similarity.tolist() == pytest.approx([-1, cosine(60), cosine(20), cosine(2)], abs=1e-6)
        assert index.tolist() == [-1, 0, 0, 1]


def test_greedy_similarity_by_hand(at_degrees: Vectors, cosine: Callable[[float], float]) -> None:
    """At d = cos 25: 20 goes for 0; 40, within 20 of the dropped 20, stays; 60 goes for 40."""
    similarity, index = duplicates.greedy_similarity(at_degrees(0, 20, 40, 60), cosine(25))
    assert similarity.tolist() == pytest.approx([-1, cosine(20), cosine(40), cosine(20)], abs=1e-6)
    assert index.tolist() == [-1, 0, 0, 2]
    similarity, index = duplicates.earlier_similarity(at_degrees(0, 20, 40, 60))
    assert similarity.tolist() == pytest.approx([-1, cosine(20), cosine(20), cosine(20)], abs=1e-6)
    assert index.tolist() == [-1, 0, 1, 2]


def test_one_frame_has_nothing_before_it(at_degrees: Vectors) -> None:
    for similarity, index in (
        duplicates.earlier_similarity(at_degrees(10)),
        duplicates.earlier_similarity(at_degrees(10), device=TORCH_PATH),
        duplicates.greedy_similarity(at_degrees(10), 0.5),
    ):
        assert (similarity.tolist(), index.tolist()) == ([-1.0], [-1])
    assert duplicates.earlier_similarity(np.empty((0, 2), np.float32))[0].tolist() == []


def test_similarity_never_exceeds_one() -> None:
    """float32 products of equal unit vectors exceed 1; scores must not, or d = 1 would drop frames."""
    units = np.repeat(to_unit(np.random.default_rng(0).normal(size=(200, 33)).astype(np.float32)), 2, axis=0)
    assert (units @ units.T).max() > 1
    for similarity, _ in (
        duplicates.earlier_similarity(units),
        duplicates.earlier_similarity(units, device=TORCH_PATH),
        duplicates.greedy_similarity(units, 1.0),
    ):
        assert similarity.max() == 1
        assert similarity[1::2].min() == pytest.approx(1, abs=ROUNDING)


def test_at_d_of_one_the_greedy_walk_keeps_all() -> None:
    """Triplets a, b, c: a and b alike but for rounding (their product may exceed 1), c on the side of b."""
    generator = np.random.default_rng(0)
    a, aside = (to_unit(generator.normal(size=(200, 33)).astype(np.float32)) for _ in range(2))
    b, c = to_unit(a + 1e-4 * aside), to_unit(a + aside / 2)
    assert ((a * b).sum(axis=1) > 1).any()
    similarity, index = duplicates.greedy_similarity(np.stack([a, b, c], axis=1).reshape(600, 33), 1.0)
    assert index[2::3].tolist() == list(range(1, 600, 3))
    np.testing.assert_allclose(similarity[2::3], (b.astype(np.float64) * c).sum(axis=1), atol=ROUNDING)


def test_a_similarity_of_exactly_d_stays() -> None:
    axes = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    similarity, index = duplicates.greedy_similarity(axes, 0.0)
    assert (similarity.tolist(), index.tolist()) == ([-1, 0, 1, 0], [-1, 0, 1, 0])


def test_row_blocks_by_hand() -> None:
    # 400 * sqrt(1/4, 2/4, 3/4): each range has a quarter of the triangle
    assert duplicates.row_blocks(400, 100) == [(0, 200), (200, 283), (283, 346), (346, 400)]
    assert duplicates.row_blocks(99, 100) == [(0, 99)]
    assert duplicates.row_blocks(0, 10) == []


@given(st.integers(1, 100_000), st.integers(1, 10_000))
def test_row_blocks_share_out_the_triangle(rows: int, size: int) -> None:
    assume(rows // size < 2000)
    blocks = duplicates.row_blocks(rows, size)
    assert (blocks[0][0], blocks[-1][1]) == (0, rows)
    assert all(before[1] == after[0] for before, after in pairwise(blocks))
    share = rows**2 / max(1, rows // size)
    assert all(stop > start and stop**2 - start**2 <= share + 2 * rows for start, stop in blocks)


def test_order_by_hand() -> None:
    distance = np.array([0.3, 0.1, 0.3, 0.2], np.float32)
    keys = np.array([9, 5, 4, 7], np.uint64)
    assert duplicates.visiting_order(distance, keys, "nearest", 0).tolist() == [1, 3, 2, 0]
    assert duplicates.visiting_order(distance, keys, "farthest", 0).tolist() == [2, 0, 3, 1]


def test_random_order_is_another_for_each_seed_and_puts_every_frame_first_as_often() -> None:
    distance, keys = np.zeros(5, np.float32), np.arange(5, dtype=np.uint64)
    first = np.bincount(
        [duplicates.visiting_order(distance, keys, "random", seed)[0] for seed in range(1000)], minlength=5
    )
    assert ((first - 200) ** 2 / 200).sum() < 18.5  # chi-squared with 4 degrees of freedom, one in a thousand
