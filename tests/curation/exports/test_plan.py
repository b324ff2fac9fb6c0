"""Plans of shards: a case by hand, a plain loop as the reference, and what holds for any sizes, keys and seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.exports.plan import Plan, fill, plan

ROWS = st.integers(0, 80).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 50), min_size=n, max_size=n),
        st.none() | st.lists(st.integers(0, 9), min_size=n, max_size=n),
    )
)
SEEDS = st.none() | st.integers(0, 2**63 - 1)


def order_of(made: Plan) -> list[list[int]]:
    """The rows of each shard in their order."""
    shards = [np.flatnonzero(made.shard_N == shard) for shard in range(len(made.rows_S))]
    return [rows[np.argsort(made.place_N[rows])].tolist() for rows in shards]


def test_by_hand() -> None:
    #                  a  b  a  c  b   limit 10: a = 7, b = 4, c = 12
    made = plan([3, 1, 4, 12, 3], ["a", "b", "a", "c", "b"], None, 10)
    assert order_of(made) == [[0, 2], [1, 4], [3]]
    assert order_of(plan([3, 1, 4, 12, 3], ["a", "b", "a", "c", "b"], None, 11)) == [[0, 2, 1, 4], [3]]
    assert order_of(plan([3, 1, 4, 12, 3], None, None, 8)) == [[0, 1, 2], [3], [4]]
    assert made.rows_S.tolist() == [2, 2, 1]


@given(ROWS, SEEDS, st.integers(1, 120))
def test_what_every_plan_fulfils(rows: tuple[list[int], list[int] | None], seed: int | None, limit: int) -> None:
    sizes, keys = rows
    made = plan(sizes, keys, seed, limit)
    shards = order_of(made)
    assert sorted(row for shard in shards for row in shard) == list(range(len(sizes)))
    assert [len(shard) for shard in shards] == made.rows_S.tolist()
    assert all(sorted(made.place_N[shard]) == list(range(len(shard))) for shard in shards)
    key_of = list(range(len(sizes))) if keys is None else keys
    groups = [[key_of[row] for row in shard] for shard in shards]
    runs = [[key for at, key in enumerate(shard) if not at or shard[at - 1] != key] for shard in groups]
    met = [key for shard in runs for key in shard]
    assert len(met) == len(set(met)), "a group is cut"
    loads = [sum(sizes[row] for row in shard) for shard in shards]
    assert all(load <= limit or len(run) == 1 for load, run in zip(loads, runs, strict=True))
    for load, following in zip(loads, runs[1:], strict=False):  # as full as it can be in this order
        assert load + sum(size for size, key in zip(sizes, key_of, strict=True) if key == following[0]) > limit
    again = plan(np.array(sizes), keys, seed, limit)
    assert order_of(again) == shards


@given(ROWS, st.integers(1, 120))
def test_unshuffled_groups_stand_where_their_first_row_does(rows: tuple[list[int], list[int] | None], at: int) -> None:
    sizes, keys = rows
    flat = [row for shard in order_of(plan(sizes, keys, None, at)) for row in shard]
    key_of = list(range(len(sizes))) if keys is None else keys
    assert flat == sorted(range(len(sizes)), key=lambda row: (key_of.index(key_of[row]), row))


def test_shuffling_moves_groups_and_the_rows_in_them() -> None:
    keys = np.repeat(np.arange(20), 10)
    rows = [row for shard in order_of(plan(np.ones(200), keys, 1, 1000)) for row in shard]
    assert keys[rows[::10]].tolist() != sorted(keys[rows[::10]].tolist())
    assert any(rows[at : at + 10] != sorted(rows[at : at + 10]) for at in range(0, 200, 10))
    other = [row for shard in order_of(plan(np.ones(200), keys, 2, 1000)) for row in shard]
    assert rows != other


def test_every_order_is_as_likely() -> None:
    """Of three rows each of the six orders comes 1 in 6 times: within 5 standard deviations of 600 draws."""
    orders = [tuple(order_of(plan([1, 1, 1], None, seed, 9))[0]) for seed in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert all(abs(count - 100) < 46 for count in counts)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_million_rows(seed: int | None) -> None:
    sizes = np.random.default_rng(0).integers(1, 200_000, 1_000_000)
    made = plan(sizes, np.arange(1_000_000) // 50, seed, 256 << 20)
    loads = np.bincount(made.shard_N, sizes)
    assert loads.max() <= 256 << 20
    assert loads[:-1].min() > (256 - 10) << 20


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 40))
def test_boxes_as_a_plain_loop_fills_them(sizes: list[int], limit: int) -> None:
    starts, load = [], 0
    for at, size in enumerate(sizes):
        if not at or load + size > limit:
            starts.append(at)
            load = 0
        load += size
    assert fill(np.array(sizes, np.int64), limit).tolist() == starts
