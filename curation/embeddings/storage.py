"""Vectors in the tables of a run: embeddings read, centroids read and written. It does not use Ray."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from curation.embeddings.vectors import Float32, Vectors, centered, faults, on_grid
from curation.store import schema
from curation.store.directory import RunDirectory


def load_vectors(run: RunDirectory, path: str, mean: Float32 | None) -> tuple[list[str], Vectors]:
    """Return the frame ids and vectors [N, D] of a part of embeddings, centred where a mean is given.

    ValueError, naming the part and a frame, where a vector is not finite or not of unit length, as in tables that
    `embed` did not make.
    """
    table = run.read_table(path, ["frame_id", "embedding"])
    column = table["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
    ids = table["frame_id"].to_pylist()
    if len(bad := faults(vectors)):
        length = float(np.linalg.norm(vectors[bad[0]].astype(np.float64)))
        raise ValueError(
            f"{run.uri}/{path}: the embedding of frame {ids[bad[0]]} has length {length:g}, expected 1 ({len(bad)} of "
            f"{len(ids)} frames have such lengths); embed again, or leave those frames out of the table"
        )
    return ids, on_grid(vectors) if mean is None else centered(vectors, mean)


def vectors_table(numbers: Iterable[int], vectors_KD: Float32) -> pa.Table:
    """Return the table of schema.centroids for numbered vectors."""
    columns = schema.centroids(vectors_KD.shape[1])
    flat = pa.array(vectors_KD.ravel())
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=columns.field("centroid").type)
    return pa.Table.from_arrays([pa.array(list(numbers), pa.int32()), vectors], schema=columns)


def read_vectors(run: RunDirectory, path: str) -> Float32:
    """Return the vectors [K, D] of a table of schema.centroids."""
    column = run.read_table(path)["centroid"].combine_chunks()
    flat: Float32 = column.flatten().to_numpy()
    return flat.reshape(len(column), -1)
