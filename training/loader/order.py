"""Which frames each update takes, and the generators of its crops and masks: functions of (seed, update, slice) alone.

A slice is a fixed number of neighbouring images of a batch; a rank takes whole slices. So a run resumed from
a checkpoint equals one that never stopped, and two ranks compute what one rank computes with all their slices, up to
rounding. It knows neither pixels nor the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from curation.options import require

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together."""

    number: int = 0
    ranks: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Batches:
    """The order of a training: `frames` shuffled each epoch by `seed`, one epoch continuing into the next."""

    frames: int
    batch: int  # images per update
    size: int  # images per slice
    seed: int

    @property
    def slices(self) -> int:
        """Slices per update."""
        return self.batch // self.size

    def check(self, ranks: int, *, even: bool) -> None:
        """ValueError if a rank gets no slice, or if shares differ though they must be `even`."""
        fits = self.slices % ranks == 0 if even else self.slices >= ranks
        require(
            fits,
            f"batch_size {self.batch} makes {self.slices} slices of {self.size} images, which {ranks} workers cannot"
            f" share{' evenly' if even else ''}; change --batch-size, --slice-rows or --workers",
        )

    def rows(self, update: int, number: int) -> Rows:
        """Return the frames of one slice, int64 [size]."""
        first = update * self.batch + number * self.size
        epochs = range(first // self.frames, (first + self.size - 1) // self.frames + 1)
        order = np.concatenate([shuffled(self.frames, self.seed, epoch) for epoch in epochs])
        start = first - epochs[0] * self.frames
        return order[start : start + self.size]

    def share(self, rank: Rank) -> range:
        """The slices of each update that a rank takes; shares differ by one at most."""
        bounds = [self.slices * number // rank.ranks for number in (rank.number, rank.number + 1)]
        return range(*bounds)

    def places(self, rank: Rank, start: int, total: int) -> Iterator[tuple[int, int]]:
        """The (update, slice) of a rank in order, from update `start` to before `total`."""
        return ((update, number) for update in range(start, total) for number in self.share(rank))


@lru_cache(maxsize=3)
def shuffled(frames: int, seed: int, epoch: int) -> Rows:
    """The frames in the order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(frames)


def slice_generator(seed: int, update: int, number: int) -> torch.Generator:
    """Return the generator of one slice of one update."""
    state = np.random.SeedSequence([seed, update, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))
