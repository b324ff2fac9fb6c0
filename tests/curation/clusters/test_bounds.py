"""Iterations with limits of products against all products: the same assignment and sums, whatever moves and how."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.clusters import bounds, kmeans
from curation.embeddings import nearest_cpu
from curation.embeddings.nearest import prepare, quantised
from curation.embeddings.vectors import to_unit

Array = npt.NDArray[Any]
Make = Callable[..., Array]
pytestmark = pytest.mark.usefixtures("one_thread")


def moved(centroids: Array, kind: str, seed: int) -> Array:
    """Centroids of a next iteration: still, a little off, one far off, all elsewhere, or equal ones."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=centroids.shape)
    after = centroids.astype(np.float64)
    if kind == "little":
        after = after + 0.01 * noise
    elif kind == "one":
        after[generator.integers(len(after))] = noise[0]
    elif kind == "all":
        after = noise
    elif kind == "equal":
        after[-1] = after[0]
    return to_unit(after.astype(np.float32))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 120), st.integers(1, 40), st.integers(2, 12)),
    st.lists(st.sampled_from(["still", "little", "one", "all", "equal"]), max_size=5),
    st.tuples(st.booleans(), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.05, 1.0])),
)
def test_limits_hold_and_assignments_are_those_of_all_products(
    vectors: Make, seed: int, shape: tuple[int, int, int], moves: list[str], how: tuple[bool, float, float]
) -> None:
    integers, dense_share, noise = how
    rows, clusters, dimensions = shape
    centroids = vectors(seed + 1, clusters, dimensions)
    near = centroids[np.arange(rows) % clusters] + noise * vectors(seed, max(1, rows), dimensions)[:rows]
    x = to_unit(near.astype(np.float32)).astype(np.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_cpu, "integers_are_fast", lambda: integers)
        patch.setattr(nearest_cpu, "DENSE_SHARE", dense_share)
        patch.setattr(bounds, "BLOCK", 7)
        patch.setattr(bounds, "ROWS", 50)
        coded = quantised(prepare(x))
        now = bounds.computed(coded, prepare(centroids))
        for kind in ["", *moves]:
            if kind:
                after = moved(centroids, kind, seed)
                now = bounds.followed(coded, quantised(prepare(after)), now, bounds.drift(centroids, after))
                centroids = after
            products = x.astype(np.float64) @ centroids.astype(np.float64).T
            every = np.arange(rows)
            np.testing.assert_array_equal(now.assignment_N, products.astype(np.float32).argmax(axis=1))
            own = products[every, now.assignment_N]
            assert (now.low_N <= own).all()
            assert (own <= now.high_N).all()
            products[every, now.assignment_N] = -np.inf
            assert (products.max(axis=1) <= now.others_N).all()


def test_what_is_still_costs_no_product(vectors: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    x, centroids = vectors(1, 300, 12, dtype=np.float16), vectors(2, 5, 12)
    rows, columns = quantised(prepare(x)), quantised(prepare(centroids))
    before = bounds.computed(rows, columns)
    clear = before.low_N > before.others_N
    assert clear.mean() > 0.9
    seen: list[int] = []
    computed = bounds.computed
    monkeypatch.setattr(bounds, "computed", lambda some, all_: seen.append(len(some)) or computed(some, all_))
    now = bounds.followed(rows, columns, before, bounds.drift(centroids, centroids))
    assert sum(seen) <= (~clear).sum()
    assert now.low_N[clear].tolist() == before.low_N[clear].tolist()


def test_only_those_that_moved_far_are_compared_with_all() -> None:
    none = np.zeros(640, np.float32)
    own = np.arange(640, dtype=np.int32) % 64
    before = bounds.Bounds(own, none + np.float32(0.5), none + np.float32(0.5), none)
    drift = np.full(64, 0.01, np.float32)
    drift[[7, 9]] = 0.9
    far, rest = bounds.compared_with_all(before, drift)
    assert (sorted(far.tolist()), float(rest)) == ([7, 9], pytest.approx(0.01))
    assert len(bounds.compared_with_all(before, np.full(64, 0.9, np.float32))[0]) == 64
    assert len(bounds.compared_with_all(before, np.zeros(64, np.float32))[0]) == 0


@settings(max_examples=40)
@given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]), st.booleans())
def test_iterations_are_bit_equal_for_any_groups_and_ranges(
    vectors: Make, keys_for: Make, data: st.DataObject, seed: int, dtype: type, few: bool
) -> None:
    """Groups of shards that keep what they know, some of which forget it, against one shard anew each time."""
    rows = data.draw(st.integers(1, 150), label="rows")
    x, keys, centroids = vectors(seed, rows, 12, dtype=dtype), keys_for(rows, seed), vectors(seed + 1, 5, 12)
    order = np.random.default_rng(seed).permutation(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=6), label="cuts"))
    shards = [(keys[part], prepare(x[part])) for part in np.split(order, cuts)]
    edges = sorted(data.draw(st.lists(st.integers(0, len(shards)), max_size=3), label="groups"))
    groups = [shards[i:j] for i, j in zip([0, *edges], [*edges, len(shards)], strict=True) if i < j]
    ranges = [slice(0, 5)] if data.draw(st.booleans(), label="whole") else [slice(0, 2), slice(2, 3), slice(3, 5)]
    tracked: list[Any] = [None] * len(groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans, "FEW_CLUSTERS", 100 if few else 1)
        for _ in range(4):
            whole = kmeans.partial_sums(keys, x, centroids)
            made = [kmeans.group_sums(group, centroids, kept) for group, kept in zip(groups, tracked, strict=True)]
            tracked = [kept for _, kept in made]
            pieces = [kmeans.cut(total, ranges) for total, _ in made]
            total = kmeans.joined([kmeans.merge(*parts) for parts in zip(*pieces, strict=True)])
            far = kmeans.merge(
                *(kmeans.group_farthest(group, kept) for group, kept in zip(groups, tracked, strict=True))
            )
            assert total.sums_KD.tobytes() == whole.sums_KD.tobytes()
            assert total.counts_K.tolist() == whole.counts_K.tolist()
            assert total.inertia(centroids) == whole.inertia(centroids)
            assert far.far_keys.tolist() == whole.far_keys.tolist()
            assert far.far_similarity.tobytes() == whole.far_similarity.tobytes()
            assert far.far_vectors.tobytes() == whole.far_vectors.tobytes()
            centroids = kmeans.update(whole, centroids)[0]
            lost = data.draw(st.integers(-1, len(groups) - 1), label="a group that forgets")
            tracked = [None if number == lost else kept for number, kept in enumerate(tracked)]


@given(st.integers(1, 2000), st.integers(1, 3000), st.integers(1, 1 << 20))
def test_ranges_cover_all_clusters_once(clusters: int, dimensions: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans, "RANGE_BYTES", limit)
        ranges = kmeans.cluster_ranges(clusters, dimensions)
    covered = [number for part in ranges for number in range(clusters)[part]]
    assert covered == list(range(clusters))
    assert all(part.stop > part.start for part in ranges)
    assert max(part.stop - part.start for part in ranges) <= max(1, -(-clusters // len(ranges)))
    assert len(ranges) == min(clusters, -(-clusters * dimensions * 8 // limit))
