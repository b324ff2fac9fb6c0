import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from curation import kmeans, nearest
from curation.vectors import to_unit

Array = npt.NDArray[np.floating]
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for a busy core cost far more here than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vectors(seed: int, rows: int, dimensions: int, blobs: int = 6, dtype: type = np.float32) -> Array:
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(blobs, dimensions))
    x = centers[generator.integers(blobs, size=rows)] + 0.4 * generator.normal(size=(rows, dimensions))
    return to_unit(x.astype(np.float32)).astype(dtype)


def keys_for(rows: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).permutation(rows).astype(np.uint64) * np.uint64(2**40 + 7)


def at_degrees(*angles: float) -> npt.NDArray[np.float32]:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def lloyd(x: Array, centroids: npt.NDArray[np.float32], iterations: int) -> tuple[npt.NDArray[np.float32], list[float]]:
    inertia = []
    for _ in range(iterations):
        total = kmeans.partial_sums(keys_for(len(x)), x, centroids)
        centroids, _, _ = kmeans.update(total, centroids)
        inertia.append(total.inertia)
    return centroids, inertia


def reference_lloyd(x: Array, centroids: Array, iterations: int) -> tuple[Array, list[float]]:
    """Spherical k-means in float64, one cluster after the other."""
    x, centroids, inertia = x.astype(np.float64), centroids.astype(np.float64), []
    for _ in range(iterations):
        squared = ((x[:, None] - centroids[None]) ** 2).sum(axis=2)
        nearest = squared.argmin(axis=1)
        inertia.append(float(squared.min(axis=1).sum()))
        for cluster in range(len(centroids)):
            mean = x[nearest == cluster].mean(axis=0)
            centroids[cluster] = mean / np.linalg.norm(mean)
    return centroids, inertia


@pytest.mark.parametrize("seed", range(3))
def test_one_step_equals_scikit_learns(seed: int) -> None:
    x = vectors(seed, 300, 8)
    start = to_unit(np.random.default_rng(seed + 100).normal(size=(5, 8)).astype(np.float32))
    assignment, similarity = kmeans.assign(x, start)
    nearest = pairwise_distances_argmin(x.astype(np.float64), start.astype(np.float64))
    assert np.array_equal(assignment, nearest)
    assert len(set(nearest.tolist())) == 5
    np.testing.assert_allclose(similarity, (x.astype(np.float64) * start[nearest]).sum(axis=1), atol=2e-6)
    theirs = KMeans(5, init=start, n_init=1, max_iter=1, tol=0).fit(x).cluster_centers_
    ours, empty, shift = kmeans.update(kmeans.partial_sums(keys_for(300), x, start), start)
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
    assert empty == 0
    assert shift == pytest.approx(np.linalg.norm(ours - start, axis=1).max(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_steps_equal_a_float64_loop(dtype: type) -> None:
    x = vectors(3, 400, 12, dtype=dtype)
    start = kmeans.seed_centroids(keys_for(400), x, 6, seed=1)
    centroids, inertia = lloyd(x, start, 8)
    expected, expected_inertia = reference_lloyd(x, start, 8)
    np.testing.assert_allclose(centroids, expected, atol=1e-5)
    # float16 vectors are unit length to 5e-4 only, and inertia is 2 - 2 cosine by definition
    assert inertia == pytest.approx(expected_inertia, rel=1e-6 if dtype == np.float32 else 2e-3)
    assert inertia[-1] < 0.95 * inertia[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(inertia))


def test_assignment_and_sums_by_hand() -> None:
    x, centroids = at_degrees(0, 60, 90, 150), at_degrees(0, 120)
    total = kmeans.partial_sums(np.arange(4, dtype=np.uint64), x, centroids)
    # 60 degrees is as near to 0 as to 120, but for rounding: leave it out of what is told about the assignment
    assert kmeans.assign(x, centroids)[0][[0, 2, 3]].tolist() == [0, 1, 1]
    # squared distances 2 - 2 cos: 0 at 0 degrees, 1 at 60, 2 - sqrt 3 at 30, twice
    assert total.inertia == pytest.approx(0 + 1 + 2 * (2 - math.sqrt(3)), abs=1e-6)
    # ascending similarity: 60 degrees off, then 30 off twice (ties to within rounding), then the centroid itself
    assert total.far_keys[[0, 3]].tolist() == [1, 0]
    np.testing.assert_allclose(total.far_similarity, [0.5, 0.75**0.5, 0.75**0.5, 1], atol=1e-6)


def test_of_equal_centroids_the_first_wins() -> None:
    x, same = at_degrees(10, 20), at_degrees(15, 15, 15)
    for device in ("cpu", TORCH_PATH):
        assert kmeans.assign(x, same, device)[0].tolist() == [0, 0]


def test_a_coded_shard_adds_up_to_the_same() -> None:
    x, keys, centroids = vectors(1, 300, 12, dtype=np.float16), keys_for(300), vectors(2, 5, 12)
    coded, plain = (kmeans.partial_sums(keys, shard, centroids) for shard in (kmeans.coded(x), x))
    assert coded.sums_KD.tobytes() == plain.sums_KD.tobytes()
    assert coded.far_keys.tolist() == plain.far_keys.tolist()
    assert (coded.inertia, coded.counts_K.tolist()) == (plain.inertia, plain.counts_K.tolist())


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_every_path_assigns_alike(integers: bool, dense_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without products of 8-bit integers, in small blocks, on the path of a GPU."""
    monkeypatch.setattr(nearest, "integers_are_fast", lambda: integers)
    monkeypatch.setattr(nearest, "DENSE_SHARE", dense_share)
    monkeypatch.setattr(nearest, "BLOCK", 1)
    monkeypatch.setattr(nearest, "COLUMNS", 7)
    monkeypatch.setattr(kmeans, "GPU_BLOCK", 50)
    x, centroids = vectors(5, 300, 16), vectors(6, 40, 16)
    products = x.astype(np.float64) @ centroids.astype(np.float64).T
    for device in ("cpu", TORCH_PATH):
        assignment, similarity = kmeans.assign(x, centroids, device)
        assert np.array_equal(assignment, products.argmax(axis=1))
        np.testing.assert_allclose(similarity, products.max(axis=1), atol=2e-6)


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]))
def test_sums_are_bit_equal_for_any_sharding_and_order(data: st.DataObject, seed: int, dtype: type) -> None:
    rows = data.draw(st.integers(1, 150), label="rows")
    x, keys, centroids = vectors(seed, rows, 12, dtype=dtype), keys_for(rows, seed), vectors(seed + 1, 4, 12)
    two_best = np.sort(x.astype(np.float64) @ centroids.astype(np.float64).T, axis=1)[:, -2:]
    assume(np.diff(two_best, axis=1).min() > 1e-5)  # else rounding decides where a vector belongs
    whole = kmeans.partial_sums(keys, x, centroids)
    order = np.random.default_rng(seed).permutation(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=6), label="cuts"))
    shards = [kmeans.partial_sums(keys[rows_], x[rows_], centroids) for rows_ in np.split(order, cuts)]
    while len(shards) > 1:  # a tree of any shape
        count = data.draw(st.integers(2, len(shards)), label="merged at once")
        shards = [*shards[count:], kmeans.merge(*shards[:count])]
    assert shards[0].sums_KD.tobytes() == whole.sums_KD.tobytes()
    assert np.array_equal(shards[0].counts_K, whole.counts_K)
    assert shards[0].inertia == pytest.approx(whole.inertia, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(shards[0].far_similarity, whole.far_similarity, atol=1e-6)
    after, before = kmeans.update(shards[0], centroids), kmeans.update(whole, centroids)
    if whole.counts_K.all():  # the vector that fills an empty cluster is told by rounding where two are as far
        assert after[0].tobytes() == before[0].tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_exact_sum_of_float16_has_no_rounding(seed: int, rows: int) -> None:
    x = vectors(seed, rows, 5, dtype=np.float16)
    assert kmeans.exact_sum(x).tolist() == [math.fsum(column) for column in x.T.astype(np.float64)]


def test_float32_is_rounded_to_the_grid() -> None:
    x = np.array([[0.1], [1 / 3], [-0.7]], np.float32)
    assert kmeans.exact_sum(x)[0] * 2**24 == sum(round(float(value) * 2**24) for value in x[:, 0])


def test_empty_clusters_get_the_farthest_vectors() -> None:
    x = np.concatenate([vectors(1, 200, 8), vectors(2, 5, 8)])
    centroids = np.concatenate([x[:3], -np.ones((2, 8), np.float32) / math.sqrt(8)])
    centroids[3:] = centroids[3] * [[1], [1]]
    used = x[(x @ centroids[3]) < (x @ centroids[:3].T).max(axis=1)]  # nothing is nearest to the last two
    keys = keys_for(len(used))
    total = kmeans.merge(*(kmeans.partial_sums(keys[i::3], used[i::3], centroids) for i in range(3)))
    moved, empty, _ = kmeans.update(total, centroids)
    assert empty == 2
    similarity = (used.astype(np.float64) @ centroids.astype(np.float64).T).max(axis=1)
    np.testing.assert_allclose(moved[3:], used[np.argsort(similarity)[:2]], atol=1e-6)
    for cluster in range(3):
        mean = used[kmeans.assign(used, centroids)[0] == cluster].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(moved[cluster], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_shard_offers_its_farthest_vectors_and_ties_go_by_key() -> None:
    x = np.repeat(at_degrees(0, 30, 60), 50, axis=0)
    keys = keys_for(150)
    total = kmeans.partial_sums(keys, x, at_degrees(0))
    assert total.far_keys.tolist() == sorted(keys[100:].tolist()) + sorted(keys[50:100].tolist())[:14]
    assert len(total.far_keys) == kmeans.FARTHEST == 64


def test_more_empty_clusters_than_vectors_keep_their_centroid() -> None:
    centroids = at_degrees(0, 90, 180, 270)
    moved, empty, shift = kmeans.update(
        kmeans.partial_sums(np.array([5], np.uint64), at_degrees(10), centroids), centroids
    )
    assert empty == 3
    np.testing.assert_allclose(moved, at_degrees(10, 10, 180, 270), atol=1e-6)
    assert shift == pytest.approx(2 * math.sin(math.radians(40)), abs=1e-6)


def test_a_cluster_whose_vectors_cancel_out_keeps_its_centroid() -> None:
    centroids = at_degrees(0)
    moved, empty, shift = kmeans.update(
        kmeans.partial_sums(np.arange(2, dtype=np.uint64), np.array([[0, 1], [0, -1]], np.float32), centroids),
        centroids,
    )
    assert (moved.tolist(), empty, shift) == (centroids.tolist(), 0, 0.0)


def test_fewer_distinct_vectors_than_clusters_ends_well() -> None:
    x = np.repeat(at_degrees(0, 90, 200), 7, axis=0)
    keys = keys_for(len(x))
    centroids = kmeans.seed_centroids(keys, x, 8, seed=0)
    for _ in range(20):
        total = kmeans.partial_sums(keys, x, centroids)
        centroids, empty, shift = kmeans.update(total, centroids)
        if shift == 0:
            break
    assert shift == 0
    assert empty == 5
    assert total.inertia == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert sorted(total.counts_K.tolist()) == [0] * 5 + [7] * 3


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([np.float16, np.float32]))
def test_seeding_does_not_depend_on_the_order_of_rows(seed: int, rows: int, dtype: type) -> None:
    x, keys = vectors(seed, rows, 6, dtype=dtype), keys_for(rows, seed)
    clusters = max(1, rows // 3)
    first = kmeans.seed_centroids(keys, x, clusters, seed=7)
    order = np.random.default_rng(seed + 1).permutation(rows)
    assert kmeans.seed_centroids(keys[order], x[order], clusters, seed=7).tobytes() == first.tobytes()
    units = {row.tobytes() for row in to_unit(x)}
    assert {row.tobytes() for row in first} <= units


def test_seeds_are_drawn_by_squared_distance() -> None:
    """Chi-squared over ordered pairs of first and second seed: fits D^2, and neither D nor the uniform."""
    x = at_degrees(0, 12, 90, 200)
    keys, draws = np.arange(4, dtype=np.uint64), 3000
    pairs: Counter[tuple[int, int]] = Counter()
    for seed in range(draws):
        first, second = kmeans.seed_centroids(keys, x, 2, seed) @ x.T
        pairs[int(first.argmax()), int(second.argmax())] += 1
    squared = np.maximum(2 - 2 * (x.astype(np.float64) @ x.T.astype(np.float64)), 0) * (1 - np.eye(4))

    def statistic(power: float) -> float:
        weight = np.where(squared > 0, squared, 1) ** power * (1 - np.eye(4))
        expected = draws / 4 * weight / weight.sum(axis=1, keepdims=True)
        return float(sum((pairs[i, j] - expected[i, j]) ** 2 / expected[i, j] for i, j in permutations(range(4), 2)))

    assert pairs.total() == sum(pairs[pair] for pair in permutations(range(4), 2)) == draws
    assert statistic(1) < 31.3  # 11 degrees of freedom, one in a thousand
    assert statistic(0.5) > 100
    assert statistic(0) > 300


def test_each_next_seed_is_far_from_all_before() -> None:
    centers = vectors(9, 400, 12, blobs=400)[:12]
    x = to_unit(np.repeat(centers, 50, axis=0) + 1e-3 * vectors(10, 600, 12))
    blobs = (kmeans.seed_centroids(keys_for(600), x, 12, seed=0) @ centers.T).argmax(axis=1)
    assert sorted(blobs.tolist()) == list(range(12))


def test_seeding_refuses_more_clusters_than_vectors() -> None:
    with pytest.raises(ValueError, match="4 clusters were asked for, but there are 3 vectors"):
        kmeans.seed_centroids(keys_for(3), vectors(0, 3, 4), 4, seed=0)


@pytest.mark.parametrize(
    ("frames", "clusters"), [(1, 1), (1_951, 1), (20_000, 1), (20_001, 2), (88_282, 5), (100_000_000, 5_000)]
)
def test_automatic_clusters_by_hand(frames: int, clusters: int) -> None:
    assert kmeans.automatic_clusters(frames) == clusters


def test_sample_share_by_hand() -> None:
    assert kmeans.sample_share(10_000, 10) == 1
    assert kmeans.sample_share(1_000_000, 10) == 0.016384
    assert kmeans.sample_share(1_000_000, 10_000) == 0.08


def test_a_sample_has_its_share_and_depends_on_key_and_seed_alone() -> None:
    keys = keys_for(20_000)
    chosen = kmeans.sample(keys, 0.1, seed=3)
    assert abs(chosen.sum() - 2000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)
    assert np.array_equal(kmeans.sample(keys[::-1], 0.1, seed=3)[::-1], chosen)
    assert np.array_equal(np.concatenate([kmeans.sample(part, 0.1, 3) for part in np.split(keys, 8)]), chosen)
    assert (kmeans.sample(keys, 0.1, seed=4) & chosen).sum() < 300  # 200 of both by chance
    assert not (chosen & ~kmeans.sample(keys, 0.2, seed=3)).any()
    assert kmeans.sample(keys, 1.0, seed=3).all()


@pytest.mark.parametrize(("frames", "clusters"), [(5, 5), (100, 8), (160_000, 8), (160_001, 9)])
def test_automatic_clusters_of_centred_vectors(frames: int, clusters: int) -> None:
    assert kmeans.automatic_clusters(frames, center=True) == clusters
