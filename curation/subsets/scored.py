"""What a selection reads of a run: the scores of every frame as columns, and the size of the pool."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from curation.embeddings.vectors import Float32, Keys, keys_of
from curation.options import require
from curation.scores.duplicates import Measure
from curation.scores.recall import recall_at
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.markers import marker_of

MEASURE = schema.MEASURED_SCORES.names[-1]


@dataclass(frozen=True)
class Columns:
    """The scored frames, one entry per frame."""

    distance: Float32
    similarity: Float32
    cluster: npt.NDArray[np.int32]
    keys: Keys
    measure: Measure | None = None  # the column that decided which of two stays, NaN where a frame has none


def read_columns(run: RunDirectory, folder: str) -> Columns:
    """Return distance, similarity, cluster, key and any measure of every scored frame, in the order of the parts.

    ValueError, naming the part and the frame, where a number is not finite, as in tables that `score` did not make.
    """
    names = ["frame_id", "centroid_distance", "duplicate_similarity", "cluster"]
    parts = run.parts(folder).values()
    measured = [MEASURE] if MEASURE in run.read_schema(next(iter(parts))).names else []
    tables = {path: run.read_table(path, names + measured) for path in parts}
    for path, table in tables.items():
        for name in names[1:3]:
            bad = np.flatnonzero(~np.isfinite(table[name].to_numpy()))
            require(
                not len(bad),
                f"{run.uri}/{path}: {name} of frame {table['frame_id'][bad[0]] if len(bad) else ''} is not a finite "
                f"number ({len(bad)} such frames); delete {folder}/ and score again",
            )
    keys = [keys_of(table["frame_id"].to_pylist()) for table in tables.values()]
    values = [np.concatenate([table[name].to_numpy() for table in tables.values()]) for name in names[1:]]
    distance, similarity, cluster = values
    measures = [table[MEASURE].to_numpy() for table in tables.values() if measured]
    return Columns(distance, similarity, cluster, np.concatenate(keys), np.concatenate(measures) if measures else None)


def recall_of(run: RunDirectory, folder: str, marker: dict[str, Any], d: float) -> dict[str, Any] | None:
    """Return the recall of a scoring pass at a threshold (recall.recall_at); None where the pass did not measure it."""
    if "recall" not in marker:
        return None
    table = run.read_table(run.listed(f"{folder}/recall.parquet"))
    return recall_at(table, d, marker["recall"]["whole"])


def pool_size(run: RunDirectory) -> int:
    """Return the number of frames that could be trained on: embedded ones and their copies, exact or near."""
    marker = marker_of(run, "embeddings", "embed")
    return int(marker["rows_out"] + marker["copies"])


def pool_bytes(run: RunDirectory) -> int:
    """Encoded bytes of all frames that ingest listed."""
    sizes = (run.read_table(path, ["byte_size"])["byte_size"] for path in run.parts("frames").values())
    return sum(pc.sum(column).as_py() or 0 for column in sizes)
