"""Steps of k-means against scikit-learn and a float64 loop, sums that no sharding changes, and empty clusters."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from curation.clusters import kmeans, seeding
from curation.embeddings import nearest_cpu, nearest_gpu
from curation.embeddings.nearest import prepare
from curation.embeddings.vectors import to_unit

Array = npt.NDArray[np.floating]
Make = Callable[..., Array]
TORCH_PATH = "cpu:0"  # any name but "cpu" takes the path of a GPU; torch runs it on the CPU here
pytestmark = pytest.mark.usefixtures("one_thread")


def lloyd(keys: npt.NDArray[np.uint64], x: Array, centroids: Array, iterations: int) -> tuple[Array, list[float]]:
    inertia = []
    for _ in range(iterations):
        total = kmeans.partial_sums(keys, x, centroids)
        before, (centroids, _, _) = centroids, kmeans.update(total, centroids)
        inertia.append(total.inertia(before))
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
def test_one_step_equals_scikit_learns(vectors: Make, keys_for: Make, seed: int) -> None:
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
    assert shift == pytest.approx(np.square(ours - start).sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_steps_equal_a_float64_loop(vectors: Make, keys_for: Make, dtype: type) -> None:
    x = vectors(3, 400, 12, dtype=dtype)
    keys = keys_for(400)
    start = seeding.seed_centroids(keys, x, 6, seed=1)
    centroids, inertia = lloyd(keys, x, start, 8)
    expected, expected_inertia = reference_lloyd(x, start, 8)
    np.testing.assert_allclose(centroids, expected, atol=1e-5)
    # float16 vectors are unit length to 5e-4 only, and inertia is 2 - 2 cosine by definition
    assert inertia == pytest.approx(expected_inertia, rel=1e-6 if dtype == np.float32 else 2e-3)
    assert inertia[-1] < 0.95 * inertia[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(inertia))


def test_assignment_and_sums_by_hand(at_degrees: Make) -> None:
    x, centroids = at_degrees(0, 60, 90, 150), at_degrees(0, 120)
    total = kmeans.partial_sums(np.arange(4, dtype=np.uint64), x, centroids)
    # 60 degrees is as near to 0 as to 120, but for rounding: leave it out of what is told about the assignment
    assert kmeans.assign(x, centroids)[0][[0, 2, 3]].tolist() == [0, 1, 1]
    # squared distances 2 - 2 cos: 0 at 0 degrees, 1 at 60, 2 - sqrt 3 at 30, twice
    assert total.inertia(centroids) == pytest.approx(0 + 1 + 2 * (2 - math.sqrt(3)), abs=1e-6)
    # ascending similarity: 60 degrees off, then 30 off twice (ties to within rounding), then the centroid itself
    assert total.far_keys[[0, 3]].tolist() == [1, 0]
    np.testing.assert_allclose(total.far_similarity, [0.5, 0.75**0.5, 0.75**0.5, 1], atol=1e-6)


def test_of_equal_centroids_the_first_wins(at_degrees: Make) -> None:
    x, same = at_degrees(10, 20), at_degrees(15, 15, 15)
    for device in ("cpu", TORCH_PATH):
        assert kmeans.assign(x, same, device)[0].tolist() == [0, 0]


def test_a_coded_shard_adds_up_to_the_same(vectors: Make, keys_for: Make) -> None:
    x, keys, centroids = vectors(1, 300, 12, dtype=np.float16), keys_for(300), vectors(2, 5, 12)
    coded, plain = (kmeans.partial_sums(keys, shard, centroids) for shard in (prepare(x), x))
    assert coded.sums_KD.tobytes() == plain.sums_KD.tobytes()
    assert coded.far_keys.tolist() == plain.far_keys.tolist()
    assert coded.inertia(centroids) == plain.inertia(centroids)
    assert coded.counts_K.tolist() == plain.counts_K.tolist()


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_every_path_assigns_alike(
    vectors: Make, integers: bool, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without products of 8-bit integers, in small blocks, on the path of a GPU."""
    monkeypatch.setattr(nearest_cpu, "integers_are_fast", lambda: integers)
    monkeypatch.setattr(nearest_cpu, "DENSE_SHARE", dense_share)
    monkeypatch.setattr(nearest_cpu, "BLOCK", 1)
    monkeypatch.setattr(nearest_cpu, "COLUMNS", 7)
    monkeypatch.setattr(nearest_gpu, "GPU_BLOCK", 50)
    monkeypatch.setattr(nearest_gpu, "GPU_PAIRS", 9)
    monkeypatch.setattr(nearest_gpu, "GPU_DENSE_SHARE", dense_share)
    x, centroids = vectors(5, 300, 16), vectors(6, 40, 16)
    products = x.astype(np.float64) @ centroids.astype(np.float64).T
    for device in ("cpu", TORCH_PATH):
        assignment, similarity = kmeans.assign(x, centroids, device)
        assert np.array_equal(assignment, products.argmax(axis=1))
        np.testing.assert_allclose(similarity, products.max(axis=1), atol=2e-6)


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]))
def test_sums_are_bit_equal_for_any_sharding_and_order(
    vectors: Make, keys_for: Make, data: st.DataObject, seed: int, dtype: type
) -> None:
    rows = data.draw(st.integers(1, 150), label="rows")
    x, keys, centroids = vectors(seed, rows, 12, dtype=dtype), keys_for(rows, seed), vectors(seed + 1, 4, 12)
    x[rows // 2 :], centroids[3] = x[: rows - rows // 2], centroids[2]  # equal vectors, and equal centroids
    whole = kmeans.partial_sums(keys, x, centroids)
    order = np.random.default_rng(seed).permutation(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=6), label="cuts"))
    device = data.draw(st.sampled_from(["cpu", TORCH_PATH]), label="device")
    shards = [
        kmeans.partial_sums(keys[part], x[part], centroids, device) for part in np.split(order, cuts) if len(part)
    ]
    while len(shards) > 1:  # a tree of any shape
        count = data.draw(st.integers(2, len(shards)), label="merged at once")
        shards = [*shards[count:], kmeans.merge(*shards[:count])]
    assert shards[0].sums_KD.tobytes() == whole.sums_KD.tobytes()
    assert np.array_equal(shards[0].counts_K, whole.counts_K)
    assert shards[0].inertia(centroids) == whole.inertia(centroids)
    assert shards[0].far_keys.tolist() == whole.far_keys.tolist()
    assert shards[0].far_similarity.tobytes() == whole.far_similarity.tobytes()
    after, before = kmeans.update(shards[0], centroids), kmeans.update(whole, centroids)
    assert after[0].tobytes() == before[0].tobytes()


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_exact_sum_of_float16_has_no_rounding(vectors: Make, seed: int, rows: int) -> None:
    x = vectors(seed, rows, 5, dtype=np.float16)
    assert kmeans.exact_sum(x).tolist() == [math.fsum(column) for column in x.T.astype(np.float64)]


def test_float32_is_rounded_to_the_grid() -> None:
    x = np.array([[0.1], [1 / 3], [-0.7]], np.float32)
    assert kmeans.exact_sum(x)[0] * 2**24 == sum(round(float(value) * 2**24) for value in x[:, 0])


def test_empty_clusters_get_the_farthest_vectors(vectors: Make, keys_for: Make) -> None:
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


def test_a_shard_offers_its_farthest_vectors_and_ties_go_by_key(keys_for: Make, at_degrees: Make) -> None:
    x = np.repeat(at_degrees(0, 30, 60), 50, axis=0)
    keys = keys_for(150)
    total = kmeans.partial_sums(keys, x, at_degrees(0))
    assert total.far_keys.tolist() == sorted(keys[100:].tolist()) + sorted(keys[50:100].tolist())[:14]
    assert len(total.far_keys) == kmeans.FARTHEST == 64


def test_more_empty_clusters_than_vectors_keep_their_centroid(at_degrees: Make) -> None:
    centroids = at_degrees(0, 90, 180, 270)
    moved, empty, shift = kmeans.update(
        kmeans.partial_sums(np.array([5], np.uint64), at_degrees(10), centroids), centroids
    )
    assert empty == 3
    np.testing.assert_allclose(moved, at_degrees(10, 10, 180, 270), atol=1e-6)
    assert shift == pytest.approx(4 * math.sin(math.radians(5)) ** 2 + 4 * math.sin(math.radians(40)) ** 2, abs=1e-6)


def test_a_cluster_whose_vectors_cancel_out_keeps_its_centroid(at_degrees: Make) -> None:
    centroids = at_degrees(0)
    moved, empty, shift = kmeans.update(
        kmeans.partial_sums(np.arange(2, dtype=np.uint64), np.array([[0, 1], [0, -1]], np.float32), centroids),
        centroids,
    )
    assert (moved.tolist(), empty, shift) == (centroids.tolist(), 0, 0.0)


def test_fewer_distinct_vectors_than_clusters_ends_well(keys_for: Make, at_degrees: Make) -> None:
    x = np.repeat(at_degrees(0, 90, 200), 7, axis=0)
    keys = keys_for(len(x))
    centroids = seeding.seed_centroids(keys, x, 8, seed=0)
    for _ in range(20):
        total = kmeans.partial_sums(keys, x, centroids)
        centroids, empty, shift = kmeans.update(total, centroids)
        if shift == 0:
            break
    assert shift == 0
    assert empty == 5
    assert total.inertia(centroids) == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert sorted(total.counts_K.tolist()) == [0] * 5 + [7] * 3


def test_the_mean_variance_is_that_of_numpy(vectors: Make, keys_for: Make) -> None:
    x, centroids = vectors(2, 500, 24), vectors(3, 7, 24)
    total = kmeans.partial_sums(keys_for(500), x, centroids)
    assert kmeans.mean_variance(total) == pytest.approx(np.var(x, axis=0).mean(), rel=1e-4)
