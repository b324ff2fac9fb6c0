"""What k-means is trained on: shards of whole parts, in groups; in memory or read anew. It does not use Ray.

Legend: N vectors of D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from curation.clusters.kmeans import Shard
from curation.clusters.seeding import trained_on
from curation.embeddings.nearest import prepare
from curation.embeddings.storage import load_vectors
from curation.embeddings.vectors import Float32, keys_of
from curation.store.directory import RunDirectory
from curation.store.parts import grouped, rows_of

RESIDENT_SHARE = 0.5  # of the object store that vectors may fill; the rest is for sums, and for others
KEPT_BYTES = 40  # of a row beside its vector and its codes: key, code's scale and lengths, bounds


@dataclass(frozen=True)
class Reader:
    """Reads shards: the frames that k-means is trained on, centred where there is a mean.

    On a GPU, and on a chip that is not fast at them, vectors have no codes.
    """

    run: RunDirectory
    mean: Float32 | None
    share: float  # of all frames
    seed: int
    coded: bool

    def load(self, paths: Sequence[str]) -> Shard:
        """Return the keys [N] and vectors [N, D] of several parts together."""
        keys, vectors = [], []
        for path in paths:
            ids, x_ND = load_vectors(self.run, path, self.mean)
            keys_N = keys_of(ids)
            if self.share < 1:
                chosen = trained_on(keys_N, self.share, self.seed)
                keys_N, x_ND = keys_N[chosen], x_ND[chosen]
            keys.append(keys_N)
            vectors.append(x_ND)
        together = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        return np.concatenate(keys), prepare(together, "cpu" if self.coded else "cuda")


def shards_of(parts: list[dict[str, Any]], shard_rows: int) -> list[list[str]]:
    """Return the paths of each shard's parts, as a marker lists them."""
    return [[part["path"] for part in group] for group in grouped(parts, shard_rows, by=rows_of)]


def groups_of(shards: list[list[str]], count: int) -> list[list[list[str]]]:
    """Cut shards into at most `count` consecutive groups, as even as can be."""
    edges = np.linspace(0, len(shards), min(count, len(shards)) + 1).astype(int).tolist()
    return [shards[first:last] for first, last in pairwise(edges)]


@dataclass(frozen=True)
class Plan:
    """Whether all vectors fit in memory, with the numbers that decided it, bytes."""

    needed: float
    store: float

    @property
    def resident(self) -> bool:
        """Whether the vectors stay in Ray's object store for all iterations."""
        return self.needed <= RESIDENT_SHARE * self.store

    def __str__(self) -> str:
        sizes = f"{self.needed / 1e9:.2g} GB, object store {self.store / 1e9:.2g} GB"
        return f"vectors in memory ({sizes})" if self.resident else f"vectors read anew in each iteration ({sizes})"


def plan(rows: float, vector: Any, coded: bool, store: float) -> Plan:
    """Return the plan for `rows` vectors of an Arrow list type, and an object store of so many bytes."""
    row_bytes = vector.list_size * (vector.value_type.bit_width // 8 + coded) + KEPT_BYTES
    return Plan(rows * row_bytes, store)
