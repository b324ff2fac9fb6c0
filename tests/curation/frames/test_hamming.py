"""Hashes near each other against brute force: bands, buckets, crowds, and which hashes stay."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.frames import hamming
from curation.frames.hamming import Hashes


def pool(seed: int, count: int, flips: int, centers: int = 4) -> Hashes:
    """Hashes around some centers, each with up to `flips` bits turned."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(2**64, size=max(1, centers), dtype=np.uint64)[generator.integers(centers, size=count)]
    for _ in range(flips):
        hashes = hashes ^ (
            generator.integers(2, size=count, dtype=np.uint64) << generator.integers(64, size=count).astype(np.uint64)
        )
    return hashes


def brute_first(queries: Hashes, searched: Hashes, distance: int) -> list[tuple[int, int]]:
    found = []
    for query in queries.tolist():
        bits = [(query ^ other).bit_count() for other in searched.tolist()]
        place = next((place for place, count in enumerate(bits) if count <= distance), -1)
        found.append((place, bits[place] if place >= 0 else 0))
    return found


def brute_greedy(hashes: Hashes, distance: int) -> list[int]:
    """One pass, one hash after the other."""
    values, kept, keeper = hashes.tolist(), list[int](), list[int]()
    for place, value in enumerate(values):
        first = next((other for other in kept if (value ^ values[other]).bit_count() <= distance), -1)
        keeper.append(first)
        if first < 0:
            kept.append(place)
    return keeper


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    distance=st.integers(0, 20),
    count=st.sampled_from([3, 4, 5, 7, 8, 11, 16]),
    spread=st.integers(0, 12),
)
def test_buckets_find_what_comparing_all_finds(seed: int, distance: int, count: int, spread: int) -> None:
    bands = [band for band in hamming.bands_of(count, distance) if band.probes <= 5000]
    if len(bands) < len(hamming.bands_of(count, distance)):
        return  # that many buckets are never looked into
    queries, searched = pool(seed, 20, spread), pool(seed, 40, spread)
    expected = brute_first(queries, searched, distance)
    for chosen in (bands, []):
        places, bits = hamming.first_within(queries, hamming.index_of(searched, distance, chosen))
        assert list(zip(places.tolist(), bits.tolist(), strict=True)) == expected


@pytest.mark.parametrize("distance", range(21))
@pytest.mark.parametrize("count", hamming.BANDS)
def test_one_band_at_least_is_near(distance: int, count: int) -> None:
    """The fullest spread of differences that leaves every band beyond its radius is one bit too far."""
    bands = hamming.bands_of(count, distance)
    assert sum(band.radius + 1 for band in bands) == distance + 1
    assert all(band.width <= 22 for band in bands)
    whole = hamming.bands_of(count, 64)
    covered = [place for band in whole for place in range(band.shift, band.shift + band.width)]
    assert covered == list(range(64))


def test_a_band_by_hand() -> None:
    band = hamming.Band(8, 4, 1)
    assert band.values(np.array([0xABCDE, 0xF00], np.uint64)).tolist() == [0xC, 0xF]
    assert band.masks().tolist() == [0, 1, 2, 4, 8]
    assert band.probes == 5


def test_the_cheapest_plan() -> None:
    assert hamming.plan(100, 8) == []
    assert [band.width for band in hamming.plan(10**7, 8)] == [21, 21, 22]
    assert [band.radius for band in hamming.plan(10**6, 2)] == [0, 0, 0]


@pytest.mark.parametrize("crowded", [False, True])
def test_crowded_buckets_are_compared_one_by_one(crowded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compare: Callable[..., hamming.Places] = hamming._compare
    monkeypatch.setattr(hamming, "_compare", lambda *given: calls.append(1) or compare(*given))
    monkeypatch.setattr(hamming, "BATCH", 4096)
    queries, searched = (pool(seed, 300, 3 if crowded else 60, 1 if crowded else 300) for seed in (1, 1))
    searched = searched ^ np.uint64(1)
    bands = hamming.bands_of(4, 6)
    places, bits = hamming.first_within(queries, hamming.index_of(searched, 6, bands))
    assert list(zip(places.tolist(), bits.tolist(), strict=True)) == brute_first(queries, searched, 6)
    assert bool(calls) == crowded


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 120),
    distance=st.integers(0, 12),
    spread=st.integers(0, 10),
    leaf=st.sampled_from([1, 2, 5, 64, 512]),
)
def test_what_stays_is_that_of_one_pass(seed: int, count: int, distance: int, spread: int, leaf: int) -> None:
    hashes = pool(seed, count, spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "LEAF", leaf)
        assert hamming.greedy(hashes, distance).tolist() == brute_greedy(hashes, distance)


def test_a_chain_is_cut_where_it_has_gone_too_far() -> None:
    """Each hash differs from the one before in one bit: with distance 2 every third stays."""
    chain = np.array([(1 << place) - 1 for place in range(10)], np.uint64)
    assert hamming.greedy(chain, 2).tolist() == [-1, 0, 0, -1, 3, 3, -1, 6, 6, -1]
    assert hamming.greedy(chain, 0).tolist() == [-1] * 10
    assert hamming.greedy(np.zeros(5, np.uint64), 0).tolist() == [-1, 0, 0, 0, 0]


def test_many_hashes_through_buckets_as_one_by_one() -> None:
    hashes = np.concatenate([pool(5, 3000, 64, 3000), pool(6, 3000, 6, 20)])
    hashes = hashes[np.random.default_rng(0).permutation(len(hashes))]
    assert hamming.greedy(hashes, 5).tolist() == brute_greedy_fast(hashes, 5)


def brute_greedy_fast(hashes: Hashes, distance: int) -> list[int]:
    keeper, kept = [], np.empty(0, np.int64)
    for place, value in enumerate(hashes):
        near = np.flatnonzero(np.bitwise_count(hashes[kept] ^ value) <= distance)
        keeper.append(int(kept[near[0]]) if len(near) else -1)
        if not len(near):
            kept = np.append(kept, place)
    return keeper
