"""Hashes of 64 bits that differ in few of them, found exactly: the first near one, and which stay of many.

Multi-index hashing (Norouzi, Punjani, Fleet, Fast Exact Search in Hamming Space with Multi-Index Hashing, arXiv
1307.2982): cut into bands, two hashes within a distance are that much nearer in at least one band, so only hashes in
the buckets around a band's value are compared in full. Few hashes, and crowded buckets, are compared one by one
instead, whichever costs less; the result is the same.

Which stay (OURS): in the order given, a hash stays unless an earlier one that stays is within the distance. So all
that are dropped are near one that stays, no two that stay are near each other, and a chain of small steps, as in a
video, is cut wherever it has gone too far, where connected components would leave one frame of all. No pairs are
listed: a thousand frames of one scene cost a thousand comparisons, not half a million.

It uses neither files nor Ray. Memory: 12 bytes a hash and band, tables of 20 MB a band, and BATCH candidates at once.

Legend: N hashes; Q of them queried, K searched through; W the bits of a band.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

WIDTH = 64  # of a hash
BANDS = range(3, 17)  # numbers of bands to choose from: fewer have too large tables, more too full buckets
PAIR, PROBE, CANDIDATE = 1.0, 12.0, 30.0  # relative costs: to compare two hashes, look into a bucket, take one out
BATCH = 1 << 18  # buckets, or candidates, looked at at once
QUERIES, SEARCHED = 32, 1024  # compared at once, so that they stay in the chip's cache
LEAF = 512  # hashes of which every two are compared


class Band(NamedTuple):
    """Some bits of a hash, and how many of them may differ."""

    shift: int
    width: int
    radius: int

    @property
    def probes(self) -> int:
        """How many values are within the radius of one."""
        return sum(comb(self.width, count) for count in range(self.radius + 1))

    def values(self, hashes_N: Hashes) -> npt.NDArray[np.int32]:
        """The band's bits of each hash."""
        return ((hashes_N >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int32)

    def masks(self) -> npt.NDArray[np.int32]:
        """What turns a value into each one within the radius."""
        flips = (flip for count in range(self.radius + 1) for flip in combinations(range(self.width), count))
        return np.array([sum(1 << place for place in flip) for flip in flips], np.int32)


@dataclass(frozen=True)
class Buckets:
    """Places of the searched hashes by a band's value: those of value v are places[starts[v] : starts[v + 1]]."""

    band: Band
    starts: npt.NDArray[np.int32]
    filled: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Index:
    """What is searched through, for one distance; without buckets all is compared."""

    hashes: Hashes
    distance: int
    buckets: tuple[Buckets, ...]


def bands_of(count: int, distance: int) -> list[Band]:
    """Cut a hash into `count` bands, of which one at least is within its radius for any two within the distance.

    With distance = s * count + a, were the first a + 1 bands beyond s and the others beyond s - 1, the hashes would
    differ in distance + 1 bits. Bands that need not be looked into are left out.
    """
    ends = [WIDTH * place // count for place in range(count + 1)]
    whole, rest = divmod(distance, count)
    radii = [whole if place <= rest else whole - 1 for place in range(count)]
    spans = zip(pairwise(ends), radii, strict=True)
    return [Band(start, end - start, radius) for (start, end), radius in spans if radius >= 0]


def plan(searched: int, distance: int) -> list[Band]:
    """The cheapest bands for a search through so many hashes; none where comparing with all is cheaper."""

    def cost(bands: list[Band]) -> float:
        return sum(band.probes * (PROBE + searched / (1 << band.width) * CANDIDATE) for band in bands)

    cheapest = min((bands_of(count, distance) for count in BANDS), key=cost)
    return cheapest if cost(cheapest) < searched * PAIR else []


def index_of(hashes_K: Hashes, distance: int, bands: list[Band] | None = None) -> Index:
    """Make an index, with the cheapest bands or those given."""
    chosen = plan(len(hashes_K), distance) if bands is None else bands
    return Index(hashes_K, distance, tuple(_buckets(hashes_K, band) for band in chosen))


def _buckets(hashes_K: Hashes, band: Band) -> Buckets:
    values = band.values(hashes_K)
    counts = np.bincount(values, minlength=1 << band.width)
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    return Buckets(band, starts, counts > 0, np.argsort(values, kind="stable").astype(np.int32))


def first_within(queries_Q: Hashes, index: Index) -> tuple[Places, Bits]:
    """The place of the first searched hash within the distance of each query, or -1, and in how many bits they differ.

    Places int64 [Q]; bits uint8 [Q], 0 where there is none.
    """
    none = len(index.hashes)
    first_Q = np.full(len(queries_Q), none, np.int64)
    if index.buckets:
        step = max(1, BATCH // max(buckets.band.probes for buckets in index.buckets))
        for start in range(0, len(queries_Q), step):
            batch = slice(start, start + step)
            first_Q[batch] = _probe(queries_Q[batch], index)
    elif none:
        first_Q = _compare(queries_Q, index)
    found = np.flatnonzero(first_Q < none)
    bits_Q = np.zeros(len(queries_Q), np.uint8)
    bits_Q[found] = np.bitwise_count(queries_Q[found] ^ index.hashes[first_Q[found]])
    first_Q[first_Q == none] = -1
    return first_Q, bits_Q


def _compare(queries_Q: Hashes, index: Index) -> Places:
    """The first place within the distance by comparing with all, in order, until one is found; K where none is."""
    first_Q = np.full(len(queries_Q), len(index.hashes), np.int64)
    left = np.arange(len(queries_Q))
    for start in range(0, len(index.hashes), SEARCHED):
        block = index.hashes[start : start + SEARCHED]
        found = False
        for low in range(0, len(left), QUERIES):
            rows = left[low : low + QUERIES]
            near = np.bitwise_count(queries_Q[rows, None] ^ block) <= index.distance
            if near.any():
                found = True
                places = near.argmax(axis=1)
                hit = near[np.arange(len(rows)), places]
                first_Q[rows[hit]] = start + places[hit]
        if found:
            left = left[first_Q[left] == len(index.hashes)]
    return first_Q


def _probe(queries_Q: Hashes, index: Index) -> Places:
    """The same through the buckets, or by comparing with all where those around these queries hold too many."""
    looked = [_hits(queries_Q, buckets) for buckets in index.buckets]
    candidates = sum(int(sizes.sum(dtype=np.int64)) for _, _, sizes in looked)
    if candidates * CANDIDATE > len(queries_Q) * len(index.hashes) * PAIR:
        return _compare(queries_Q, index)
    first_Q = np.full(len(queries_Q), len(index.hashes), np.int64)
    for buckets, (row_H, start_H, size_H) in zip(index.buckets, looked, strict=True):
        ends = np.cumsum(size_H, dtype=np.int64)
        low = 0
        while low < len(ends):
            before = ends[low - 1] if low else 0
            high = max(low + 1, int(np.searchsorted(ends, before + BATCH, side="right")))
            sizes = size_H[low:high]
            offsets = np.arange(ends[high - 1] - before) - np.repeat(ends[low:high] - sizes - before, sizes)
            places = buckets.places[np.repeat(start_H[low:high], sizes) + offsets]
            rows = np.repeat(row_H[low:high], sizes)
            near = np.bitwise_count(queries_Q[rows] ^ index.hashes[places]) <= index.distance
            np.minimum.at(first_Q, rows[near], places[near])
            low = high
    return first_Q


def _hits(queries_Q: Hashes, buckets: Buckets) -> tuple[Places, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The buckets that are not empty around each query: the query's row, where the bucket starts, how much it holds."""
    masks = buckets.band.masks()
    values = buckets.band.values(queries_Q)[:, None] ^ masks
    hit = np.flatnonzero(buckets.filled[values])
    value_H = values.ravel()[hit]
    starts = buckets.starts[value_H]
    return hit // len(masks), starts, buckets.starts[value_H + 1] - starts


def greedy(hashes_N: Hashes, distance: int) -> Places:
    """For each hash the place of the first earlier one that stays and is within the distance; -1 where it stays itself.

    int64 [N], whatever LEAF is: the first half is decided, the second loses what is near the first, and so on.
    """
    keeper_N = np.full(len(hashes_N), -1, np.int64)
    _decide(hashes_N, keeper_N, 0, len(hashes_N), distance)
    return keeper_N


def _decide(hashes_N: Hashes, keeper_N: Places, low: int, high: int, distance: int) -> None:
    if high - low <= LEAF:
        _decide_all(hashes_N, keeper_N, low, high, distance)
        return
    middle = (low + high) // 2
    _decide(hashes_N, keeper_N, low, middle, distance)
    kept = low + np.flatnonzero(keeper_N[low:middle] < 0)
    left = middle + np.flatnonzero(keeper_N[middle:high] < 0)
    first, _ = first_within(hashes_N[left], index_of(hashes_N[kept], distance))
    keeper_N[left[first >= 0]] = kept[first[first >= 0]]
    _decide(hashes_N, keeper_N, middle, high, distance)


def _decide_all(hashes_N: Hashes, keeper_N: Places, low: int, high: int, distance: int) -> None:
    """Decide the open hashes from `low` to `high`, one after the other."""
    rows = low + np.flatnonzero(keeper_N[low:high] < 0)
    hashes = hashes_N[rows]
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
    open_ = np.ones(len(rows), np.bool_)
    for place in range(len(rows)):
        if open_[place]:
            gone = near[place] & open_
            gone[: place + 1] = False
            keeper_N[rows[gone]] = rows[place]
            open_[gone] = False
