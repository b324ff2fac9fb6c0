import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.embeddings.vectors import as_tensor, centered, faults, keys_of, on_grid, scramble, to_unit

WORD = 2**64


def unscramble(value: int) -> int:
    """Invert the SplitMix64 finaliser, in whole numbers: what is left is the key under the seed's mask."""
    value ^= (value >> 31) ^ (value >> 62)
    value = value * pow(0x94D049BB133111EB, -1, WORD) % WORD
    value ^= (value >> 27) ^ (value >> 54)
    value = value * pow(0xBF58476D1CE4E5B9, -1, WORD) % WORD
    return value ^ (value >> 30) ^ (value >> 60)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unit_length_by_hand_and_a_zero_row_stays_zero(dtype: type) -> None:
    units = to_unit(np.array([[3, 4], [0, -2], [0, 0]], dtype))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0, -1], [0, 0]], atol=1e-7)
    assert units.dtype == np.float32


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 400), st.sampled_from([np.float16, np.float32]))
def test_unit_length_against_float64(seed: int, rows: int, dimensions: int, dtype: type) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(dtype)
    exact = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(to_unit(x), exact, atol=2e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_centered_by_hand(dtype: type) -> None:
    x = np.array([[1, 0], [0, 1], [0.5, 1.5]], dtype)
    moved = centered(x, np.array([0.5, 0.5], np.float32))
    half = 0.5**0.5
    np.testing.assert_allclose(moved, [[half, -half], [-half, half], [0, 1]], atol=4e-4)
    assert moved.dtype == dtype


def test_centering_removes_a_shared_direction() -> None:
    generator = np.random.default_rng(0)
    x = to_unit(generator.normal(size=(500, 16)).astype(np.float32) + 5)
    mean = x.mean(axis=0)
    before, after = x @ x.T, centered(x, mean) @ centered(x, mean).T
    assert before.mean() > 0.9
    assert abs(after.mean()) < 0.01
    np.testing.assert_allclose(np.diag(after), 1, atol=1e-6)


def test_as_tensor_shares_memory_even_where_it_may_not_be_written() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    tensor = as_tensor(array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_keys_are_the_first_64_bits_of_the_ids() -> None:
    ids = ["0123456789abcdef" + "f" * 16, "0" * 16 + "1" * 16, "f" * 32]
    keys = keys_of(ids)
    assert keys.tolist() == [0x0123456789ABCDEF, 0, WORD - 1]
    assert keys.dtype == np.uint64
    assert keys_of([]).tolist() == []


@given(st.lists(st.integers(0, WORD - 1), min_size=1, max_size=20), st.integers(0, 2**63 - 1))
def test_scramble_is_the_bijection_that_it_says(keys: list[int], seed: int) -> None:
    """The inverse leads back to every key, under one mask that seed and purpose alone determine."""
    scrambled = scramble(np.array(keys, np.uint64), seed, "a")
    masks = {unscramble(int(value)) ^ key for value, key in zip(scrambled, keys, strict=True)}
    assert masks == {unscramble(int(scramble(np.zeros(1, np.uint64), seed, "a")[0]))}


def test_scramble_is_uniform_and_its_seeds_and_purposes_are_unrelated() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    drawn = [scramble(keys, seed, purpose) for seed in range(2) for purpose in ("a", "b")]
    limit = 4 / np.sqrt(len(keys))  # four standard deviations of a correlation of independent numbers
    columns = np.corrcoef(np.array([keys, *drawn], np.float64))
    assert np.abs(columns - np.eye(5)).max() < limit
    for values in drawn:
        bits = (values[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        assert np.abs(bits.mean(axis=0) - 0.5).max() < limit
    assert np.array_equal(drawn[0], scramble(keys, 0, "a"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_faults_are_what_is_no_unit_vector(dtype: type) -> None:
    x = np.array([[0.6, 0.8], [np.nan, 0.8], [np.inf, 0], [0, 0], [0.5, 0.5], [-1, 0], [3, 4]], dtype)
    assert faults(x).tolist() == [1, 2, 3, 4, 6]
    assert faults(x[:0]).tolist() == []


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 300))
def test_products_of_unit_vectors_are_exact_in_float64(seed: int, rows: int, dimensions: int) -> None:
    """So they do not depend on the order of the sum."""
    x = to_unit(np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32))
    assert np.array_equal(on_grid(x), x)
    exact = [[sum(int(a) * int(b) for a, b in zip(p, q, strict=True)) for q in x * 2.0**24] for p in x * 2.0**24]
    found = x.astype(np.float64) @ x.T.astype(np.float64)
    assert [[int(value * 2**48) for value in row] for row in found] == exact
