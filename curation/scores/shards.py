"""What a scoring pass reads of a run: vectors, assignments and the column it goes by, a shard at a time. Not on Ray."""

import numpy as np

from curation.embeddings.storage import load_vectors, read_vectors
from curation.scores.config import ScoreConfig, column_of
from curation.scores.groups import FrameBlock
from curation.scores.measures import read_measure
from curation.store.directory import RunDirectory


def load_shard(run: RunDirectory, config: ScoreConfig, paths: list[tuple[str, str]]) -> FrameBlock:
    """Return the frames of some parts of embeddings and their assignments, with the column that a pass goes by."""
    mean_path = "clusters/mean.parquet"
    mean = read_vectors(run, run.listed(mean_path))[0] if run.exists(mean_path) else None
    column, blocks = column_of(config.keep), []
    for path, assigned_path in paths:
        ids, vectors = load_vectors(run, path, mean)
        table = run.read_table(assigned_path)
        assert table["frame_id"].to_pylist() == ids, f"{path} and its assignments do not match"
        measure = None if column is None else read_measure(run, path, ids, column)
        distance = table["centroid_distance"].to_numpy()
        blocks.append(FrameBlock(np.array(ids, "S32"), table["cluster"].to_numpy(), distance, vectors, measure))
    return FrameBlock.joined(*blocks)
