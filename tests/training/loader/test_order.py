"""The order of frames: whole permutations, shares of ranks that make up a batch, and what cannot be shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.loader.order import Batches, Rank, slice_generator


@settings(deadline=None)
@given(frames=st.integers(1, 30), each=st.integers(1, 8), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_draws_run_through_one_permutation_after_the_other(frames: int, each: int, size: int, seed: int) -> None:
    epochs, order = 3, Batches(frames, each * size, size, seed)
    updates = -(-epochs * frames // order.batch)
    taken = np.concatenate([order.rows(update, draw) for update in range(updates) for draw in range(each)])
    for epoch in range(epochs):
        assert sorted(taken[epoch * frames : (epoch + 1) * frames]) == list(range(frames))


def test_epochs_and_seeds_differ() -> None:
    first, second = (Batches(20, 20, 20, 1).rows(update, 0) for update in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Batches(20, 20, 20, 2).rows(0, 0))


@given(each=st.integers(1, 20), ranks=st.integers(1, 20))
def test_shares_of_ranks_make_up_the_batch_and_differ_by_one_at_most(each: int, ranks: int) -> None:
    order = Batches(100, each * 2, 2, 0)
    shares = [order.share(Rank(number, ranks)) for number in range(ranks)]
    assert [draw for share in shares for draw in share] == list(range(each))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_places_start_where_training_stands() -> None:
    order = Batches(100, 8, 2, 0)
    assert list(order.places(Rank(1, 2), 3, 5)) == [(3, 2), (3, 3), (4, 2), (4, 3)]


def test_what_ranks_cannot_share_is_refused() -> None:
    order = Batches(100, 8, 2, 0)
    with pytest.raises(ValueError, match="makes 4 slices of 2 images, which 3 workers cannot share evenly"):
        order.check(3, even=True)
    order.check(3, even=False)
    order.check(4, even=True)
    with pytest.raises(ValueError, match="which 5 workers cannot share;"):
        order.check(5, even=False)


def test_every_draw_has_a_generator_of_its_own() -> None:
    def numbers(*place: int) -> list[float]:
        return torch.rand(4, generator=slice_generator(*place)).tolist()

    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({tuple(numbers(*place)) for place in places}) == 4
    assert numbers(0, 5, 3) == numbers(0, 5, 3)
