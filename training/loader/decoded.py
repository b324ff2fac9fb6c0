"""Decoded frames in memory or mapped from files, read slice by slice. It knows neither decoding nor the engine.

Legend: n frames of a part; S side of the cached frames in pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from curation.options import require
from training.loader.order import Batches, Rows

Pixels = npt.NDArray[np.uint8]


class DecodedFrames:
    """uint8 parts [n, S, S, 3], each an array or a .npy file that is mapped into memory, and the frames' ids.

    `loaders` processes read ahead into pinned memory, for a GPU; parts must be files then, which each process maps.
    0: frames are read when they are needed.
    """

    def __init__(self, parts: Sequence[Pixels | str], ids: list[str], loaders: int = 0) -> None:
        self.parts, self.ids, self.loaders = list(parts), ids, loaders
        self.mapped = [open_part(part) for part in parts]
        self.starts = np.cumsum([0, *map(len, self.mapped)])
        require(self.starts[-1] == len(ids) > 0, f"{len(ids)} ids for {self.starts[-1]} frames")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mapped": []}  # a mapped array would be sent as a copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"mapped": [open_part(part) for part in state["parts"]]}

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Rows) -> Tensor:
        """Return frames uint8 [B, S, S, 3]."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        taken = [self.mapped[p][row - self.starts[p]] for p, row in zip(part, rows, strict=True)]
        return torch.from_numpy(np.stack(taken))

    def images(self, order: Batches, places: Iterator[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield uint8 [slice size, S, S, 3] for each (update, slice), in order."""
        if not self.loaders:
            return (self.take(order.rows(*place)) for place in places)
        loader: DataLoader[Tensor] = DataLoader(
            _Taken(self, order),
            sampler=_Sequence(places),
            batch_size=None,
            num_workers=self.loaders,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4,
            multiprocessing_context="spawn",  # a fork would share Ray's and CUDA's threads
        )
        return iter(loader)

    def names(self, rows: Rows) -> list[str]:
        """Return the ids of frames."""
        return [self.ids[row] for row in rows]


def open_part(part: Pixels | str) -> Pixels:
    """Map a part's file, or return a part that is an array."""
    return np.load(part, mmap_mode="r") if isinstance(part, str) else part


class _Taken(Dataset[Tensor]):
    """Slices by their (update, slice)."""

    def __init__(self, frames: DecodedFrames, order: Batches) -> None:
        self.frames, self.order = frames, order

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return self.frames.take(self.order.rows(*place))


class _Sequence(Sampler[tuple[int, int]]):
    """The places as a sampler, taken as they are needed."""

    def __init__(self, places: Iterator[tuple[int, int]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self.places
