"""How a cluster is divided among trials: by hand, and never more than there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.resources import DECODING_CPUS, Shares, shares


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "expected"),
    [
        (2, 0, (1, 0, 0), Shares(1, 2, 0, 1)),
        (8, 0, (1, 2, 0), Shares(4, 2, 0, 1)),
        (8, 0, (1, 2, 3), Shares(3, 2, 0, 1)),
        (64, 8, (1, 0, 0), Shares(8, 8, 1, 1)),
        (64, 8, (4, 0, 0), Shares(2, 32, 4, 4)),
        (6, 4, (1, 0, 0), Shares(3, 2, 1, 1)),  # the CPUs run out before the GPUs
        (64, 8, (2, 20, 0), Shares(3, 20, 2, 2)),
    ],
)
def test_by_hand(cpus: int, gpus: int, asked: tuple[int, float, int], expected: Shares) -> None:
    assert shares(cpus, gpus, *asked) == expected


@given(st.integers(1, 64), st.integers(0, 16), st.integers(1, 16), st.integers(0, 64), st.integers(0, 8))
def test_never_more_than_there_is_and_always_room_to_decode(
    cpus: int, gpus: int, per_trial: int, cpus_per_trial: int, most: int
) -> None:
    try:
        found = shares(cpus, gpus, per_trial, cpus_per_trial, most)
    except ValueError:
        assert (gpus and (per_trial > gpus or cpus < per_trial + DECODING_CPUS)) or cpus_per_trial > cpus
        return
    assert found.trials >= 1
    assert found.trials * found.cpus <= cpus + 1e-9
    assert found.trials * found.gpus <= gpus
    if gpus:
        assert cpus - found.trials * found.workers >= DECODING_CPUS * found.trials
    assert not most or found.trials <= most


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="gpus_per_trial is 9; the cluster has 8"):
        shares(64, 8, 9, 0, 0)
    with pytest.raises(ValueError, match="needs 2 CPUs"):
        shares(1, 1, 1, 0, 0)
    with pytest.raises(ValueError, match="cpus_per_trial is 4"):
        shares(2, 0, 1, 4, 0)
    with pytest.raises(ValueError, match=r"cpus_per_trial is 0\.5"):
        shares(2, 0, 1, 0.5, 0)
