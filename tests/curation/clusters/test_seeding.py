"""Seeds of k-means: drawn by squared distance, whatever the order of rows; how many, and from which sample."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus

from curation.clusters import kmeans, seeding
from curation.embeddings.vectors import to_unit

Make = Callable[..., npt.NDArray[Any]]
pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([np.float16, np.float32]))
def test_seeding_does_not_depend_on_the_order_of_rows(
    vectors: Make, keys_for: Make, seed: int, rows: int, dtype: type
) -> None:
    x, keys = vectors(seed, rows, 6, dtype=dtype), keys_for(rows, seed)
    clusters = max(1, rows // 3)
    first = seeding.seed_centroids(keys, x, clusters, seed=7)
    order = np.random.default_rng(seed + 1).permutation(rows)
    assert seeding.seed_centroids(keys[order], x[order], clusters, seed=7).tobytes() == first.tobytes()
    units = {row.tobytes() for row in to_unit(x)}
    assert {row.tobytes() for row in first} <= units


def test_seeds_are_drawn_by_squared_distance(at_degrees: Make) -> None:
    """Chi-squared over ordered pairs of first and second seed: fits D^2, and neither D nor the uniform."""
    x = at_degrees(0, 55, 115, 222)
    keys, draws = np.arange(4, dtype=np.uint64), 3000
    pairs: Counter[tuple[int, int]] = Counter()
    for seed in range(draws):
        first, second = seeding.seed_centroids(keys, x, 2, seed) @ x.T
        pairs[int(first.argmax()), int(second.argmax())] += 1
    squared = np.maximum(2 - 2 * (x.astype(np.float64) @ x.T.astype(np.float64)), 0) * (1 - np.eye(4))

    def statistic(power: float) -> float:
        """Chi squared against: two are drawn with these weights, and the better is taken."""
        weight = np.where(squared > 0, squared, 1) ** power * (1 - np.eye(4))
        chance = weight / weight.sum(axis=1, keepdims=True)
        left = np.minimum(squared[:, None, :], squared[None, :, :]).sum(axis=2).round(9)  # [first, second]
        worse = (left[:, None, :] > left[:, :, None]) + 0.5 * (left[:, None, :] == left[:, :, None]) * (
            1 - np.eye(4)
        )  # [first, second, other]
        expected = draws / 4 * (chance**2 + 2 * chance * (chance[:, None, :] * worse).sum(axis=2))
        return float(sum((pairs[i, j] - expected[i, j]) ** 2 / expected[i, j] for i, j in permutations(range(4), 2)))

    assert pairs.total() == sum(pairs[pair] for pair in permutations(range(4), 2)) == draws
    assert statistic(1) < 31.3  # 11 degrees of freedom, one in a thousand
    assert statistic(0.5) > 100
    assert statistic(0) > 300


def test_each_next_seed_is_far_from_all_before(vectors: Make, keys_for: Make) -> None:
    centers = vectors(9, 400, 12, blobs=400)[:12]
    x = to_unit(np.repeat(centers, 50, axis=0) + 1e-3 * vectors(10, 600, 12))
    blobs = (seeding.seed_centroids(keys_for(600), x, 12, seed=0) @ centers.T).argmax(axis=1)
    assert sorted(blobs.tolist()) == list(range(12))


def test_seeding_refuses_more_clusters_than_vectors(vectors: Make, keys_for: Make) -> None:
    with pytest.raises(ValueError, match="4 clusters were asked for, but there are 3 vectors"):
        seeding.seed_centroids(keys_for(3), vectors(0, 3, 4), 4, seed=0)


@pytest.mark.parametrize(
    ("frames", "clusters"), [(1, 1), (1_951, 1), (20_000, 1), (20_001, 2), (88_282, 5), (100_000_000, 5_000)]
)
def test_automatic_clusters_by_hand(frames: int, clusters: int) -> None:
    assert seeding.automatic_clusters(frames) == clusters


@pytest.mark.parametrize(("frames", "clusters"), [(5, 5), (100, 8), (160_000, 8), (160_001, 9)])
def test_automatic_clusters_of_centred_vectors(frames: int, clusters: int) -> None:
    assert seeding.automatic_clusters(frames, center=True) == clusters


def test_sample_share_by_hand() -> None:
    assert seeding.sample_share(10_000, 10) == 1
    assert seeding.sample_share(1_000_000, 10) == 0.016384
    assert seeding.sample_share(1_000_000, 10_000) == 0.08


def test_a_sample_has_its_share_and_depends_on_key_and_seed_alone(keys_for: Make) -> None:
    keys = keys_for(20_000)
    chosen = seeding.sample(keys, 0.1, seed=3)
    assert abs(chosen.sum() - 2000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)
    assert np.array_equal(seeding.sample(keys[::-1], 0.1, seed=3)[::-1], chosen)
    assert np.array_equal(np.concatenate([seeding.sample(part, 0.1, 3) for part in np.split(keys, 8)]), chosen)
    assert (seeding.sample(keys, 0.1, seed=4) & chosen).sum() < 300  # 200 of both by chance
    assert not (chosen & ~seeding.sample(keys, 0.2, seed=3)).any()
    assert seeding.sample(keys, 1.0, seed=3).all()


def test_what_centring_leaves_is_told() -> None:
    assert kmeans.centering_warnings(None, 0.1, 1) == []
    assert kmeans.centering_warnings(0.2, 0.8, 8) == []
    [still] = kmeans.centering_warnings(5e-4, 0.8, 8)
    assert "nearly equal (spread 0.0005, centring wants 0.001)" in still
    assert "without --center" in still
    [one] = kmeans.centering_warnings(0.2, 0.24, 1)
    assert "mean cosine of frames with their centroid is 0.24" in one
    assert "--clusters auto" in one
    assert len(kmeans.centering_warnings(1e-6, 0.1, 2)) == 2


def test_greedy_seeds_are_no_worse_than_those_of_scikit_learn(vectors: Make, keys_for: Make) -> None:
    """The sum of squared distances to the seeds, over several seeds of the generator: alike within a few percent."""
    x = vectors(4, 2000, 16, blobs=60)
    keys = keys_for(2000)

    def left(centers: npt.NDArray[np.floating]) -> float:
        return float((2 - 2 * (x @ centers.T).max(axis=1)).clip(min=0).sum())

    ours = [left(seeding.seed_centroids(keys, x, 40, seed)) for seed in range(8)]
    theirs = [left(kmeans_plusplus(x, 40, random_state=seed)[0]) for seed in range(8)]
    plain = [left(kmeans_plusplus(x, 40, random_state=seed, n_local_trials=1)[0]) for seed in range(8)]
    assert np.mean(ours) < 1.02 * np.mean(theirs)
    assert np.mean(ours) < np.mean(plain)
