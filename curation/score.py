"""Clusters to scores: Ray tasks bring each cluster together and compare its frames; large clusters are split.

Every shard of embeddings is cut by groups of clusters, and a task scores one group. Groups are taken in waves that
fit the object store, so that no more of the embeddings is under way at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from curation import dedup, engine, schema
from curation.cluster import assignment_path, grouped, load_vectors, read_vectors, rows_of
from curation.config import ScoreConfig
from curation.console import Stopwatch, progress
from curation.markers import Step, marker_of
from curation.nearest import NOTHING
from curation.store import File, RunDirectory, holding
from curation.vectors import Float32, Keys, Vectors, keys_of, limit_threads, to_unit

SPLIT_ROWS = 32_768  # frames in a cluster above which its pairs are shared out over several tasks
STORE_SHARE = 0.3  # of the object store that one wave of groups may fill
MOST_GROUPS = 1024


@dataclass(frozen=True)
class Piece:
    """Frames of some clusters: id (32 bytes) [N], cluster [N], centroid distance [N] and vector [N, D]."""

    ids: npt.NDArray[np.bytes_]
    cluster: npt.NDArray[np.int32]
    distance: Float32
    vectors: Vectors

    def take(self, rows: npt.NDArray[Any]) -> "Piece":
        """Return the chosen rows."""
        return Piece(self.ids[rows], self.cluster[rows], self.distance[rows], self.vectors[rows])

    @property
    def keys(self) -> Keys:
        """The frames' keys, uint64 [N]."""
        return keys_of([self.ids.tobytes().decode()])


@dataclass(frozen=True)
class Group:
    """Clusters that one task scores together, as a range of cluster numbers, and their frames."""

    first: int
    last: int
    rows: int


@holding
def score(config: ScoreConfig) -> dict[str, Any]:
    """Score every embedded frame into scores/ (or a folder below it for another pass) and return the marker.

    ValueError: clusters/ unfinished.
    """
    run = RunDirectory(config.run_dir)
    before = marker_of(run, "clusters", "cluster")
    step = Step(run, "score", config.folder, config, {"clusters": before["output_hash"]})
    if marker := step.find():
        return marker | {"reused": True}
    step.begin()
    engine.connect()
    watch = Stopwatch()
    assigned: dict[str, str] = {path: path for path in run.listing("clusters")}
    parts = [
        file | {"assigned": assigned[assignment_path(file["path"])]}
        for file in marker_of(run, "embeddings", "embed")["files"]
        if "embeddings/" in file["path"]
    ]
    frames = sum(map(rows_of, parts))
    groups = cluster_groups(cluster_sizes(run, parts), max(config.group_rows, -(-frames // MOST_GROUPS)))
    files = {number: run.describe(path) for number, path in run.parts(config.folder).items()}
    with progress("score", frames, done=sum(file.rows for file in files.values())) as bar:
        missing = [number for number in range(len(groups)) if number not in files]
        for wave in grouped(missing, wave_rows(run, parts), by=lambda number: groups[number].rows):
            for number, file in score_wave(run, config, {n: groups[n] for n in wave}, parts):
                files[number] = file
                bar.update(file.rows)
    rows = sum(file.rows for file in files.values())
    assert rows == frames, f"{frames} frames were clustered, {rows} scored"
    note = f"{config.keep} kept, rule {config.rule}, {len(groups)} groups of clusters"
    counts = {
        "rows_in": frames,
        "rows_out": rows,
        "rejected": 0,
        "copies": 0,
        "seconds": watch.seconds,
        "note": note,
    }
    return step.finish(counts, list(files.values()))


def cluster_sizes(run: RunDirectory, parts: list[dict[str, Any]]) -> npt.NDArray[np.int64]:
    """Return the number of frames of each cluster, int64 [K]."""
    clusters = len(read_vectors(run, run.listed("clusters/centroids.parquet")))
    calls = ((run, part["assigned"], clusters) for part in parts)
    total: npt.NDArray[np.int64] = np.sum(list(engine.stream(ray.remote(part_sizes), calls)), axis=0)
    return total


def part_sizes(run: RunDirectory, path: str, clusters: int) -> npt.NDArray[np.int64]:
    """Return how many frames of one part of assignments each cluster has, int64 [K]."""
    column = run.read_table(path, ["cluster"])["cluster"]
    sizes: npt.NDArray[np.int64] = np.bincount(column.to_numpy(), minlength=clusters)
    return sizes


def cluster_groups(sizes_K: npt.NDArray[np.int64], group_rows: int) -> list[Group]:
    """Cut the clusters into consecutive groups of about `group_rows` frames; a large one is a group of its own."""
    groups: list[Group] = []
    for cluster, size in enumerate(sizes_K.tolist()):
        open_group = groups[-1] if groups else None
        if open_group is None or open_group.rows >= group_rows or max(open_group.rows, size) > SPLIT_ROWS:
            groups.append(Group(cluster, cluster, size))
        else:
            groups[-1] = Group(open_group.first, cluster, open_group.rows + size)
    return groups


def wave_rows(run: RunDirectory, parts: list[dict[str, Any]]) -> int:
    """Return how many frames' vectors may be in the object store at once."""
    vector = run.read_schema(parts[0]["path"]).field("embedding").type
    row_bytes = vector.list_size * (vector.value_type.bit_width // 8) + 40
    available = engine.resources().get("object_store_memory", 0.0)
    return max(1, int(STORE_SHARE * available / row_bytes))


def score_wave(
    run: RunDirectory, config: ScoreConfig, wave: dict[int, Group], parts: list[dict[str, Any]]
) -> Iterator[tuple[int, File]]:
    """Score some groups; yields number and file of each as it is written."""
    mean_path = "clusters/mean.parquet"
    mean = read_vectors(run, run.listed(mean_path))[0] if run.exists(mean_path) else None
    groups = list(wave.values())
    split = ray.remote(split_shard).options(num_returns=len(groups))
    pieces: list[Any] = []
    for shard in grouped(parts, 65_536, by=rows_of):
        cut = split.remote(run, [(part["path"], part["assigned"]) for part in shard], mean, groups)
        pieces.append([cut] if len(groups) == 1 else cut)
    pending = {
        submit(run, config, number, group, [cut[place] for cut in pieces]): number
        for place, (number, group) in enumerate(wave.items())
    }
    while pending:
        [done], _ = ray.wait(list(pending), num_returns=1)
        yield pending.pop(done), ray.get(done)


def split_shard(
    run: RunDirectory, paths: list[tuple[str, str]], mean: Float32 | None, groups: list[Group]
) -> list[Piece] | Piece:
    """Return the frames of some parts of embeddings and their assignments, cut by group; a single group's alone."""
    ids: list[str] = []
    vectors, assigned = [], []
    for path, assigned_path in paths:
        part_ids, part_vectors = load_vectors(run, path, mean)
        table = run.read_table(assigned_path)
        assert table["frame_id"].to_pylist() == part_ids, f"{path} and its assignments do not match"
        ids.extend(part_ids)
        vectors.append(part_vectors)
        assigned.append(table)
    clusters = np.concatenate([table["cluster"].to_numpy() for table in assigned])
    distances = np.concatenate([table["centroid_distance"].to_numpy() for table in assigned])
    shard = Piece(np.array(ids, dtype="S32"), clusters, distances, np.concatenate(vectors))
    cut = [shard.take((group.first <= clusters) & (clusters <= group.last)) for group in groups]
    return cut[0] if len(cut) == 1 else cut


def submit(run: RunDirectory, config: ScoreConfig, number: int, group: Group, pieces: list[Any]) -> Any:
    """Start the tasks that score one group from references to its pieces; the reference to its file."""
    options = engine.arithmetic_options()
    path = f"{config.folder}/part-{number:06d}.parquet"
    if group.rows <= SPLIT_ROWS or config.rule == "greedy":  # the greedy walk goes row by row
        return ray.remote(score_group).options(**options).remote(run, config, path, *pieces)
    whole = ray.remote(gather).remote(config, *pieces)
    rows = ray.remote(score_rows).options(**options)
    scored = [rows.remote(config, whole, piece) for piece in dedup.row_blocks(group.rows, SPLIT_ROWS // 2)]
    return ray.remote(write_cluster).remote(run, path, whole, *scored)


def gather(config: ScoreConfig, *pieces: Piece) -> Piece:
    """Return the frames of all pieces by cluster and, within one, in visiting order; frames left out come last."""
    whole = Piece(
        np.concatenate([piece.ids for piece in pieces]),
        np.concatenate([piece.cluster for piece in pieces]),
        np.concatenate([piece.distance for piece in pieces]),
        np.concatenate([piece.vectors for piece in pieces]),
    )
    visit = dedup.order(whole.distance, whole.keys, config.keep, config.seed)
    left_out = ~within(config, whole.distance[visit])
    return whole.take(visit[np.lexsort((left_out, whole.cluster[visit]))])


def within(config: ScoreConfig, distance_N: Float32) -> npt.NDArray[np.bool_]:
    """Return which frames take part in the pass: those that epsilon does not leave out."""
    return distance_N <= np.float32(np.inf if config.epsilon is None else config.epsilon)


def score_group(run: RunDirectory, config: ScoreConfig, path: str, *pieces: Piece) -> File:
    """Score each cluster of a group and write the group's part."""
    whole = gather(config, *pieces)
    edges = np.flatnonzero(np.diff(whole.cluster, prepend=-1, append=-1))
    scored = []
    for start, stop in pairwise(edges.tolist()):
        cluster = whole.take(np.arange(start, stop))
        similarity, index = score_rows(config, cluster, (0, stop - start))
        scored.append((similarity, np.where(index >= 0, index + start, -1)))
    return write_cluster(run, path, whole, *scored)


def score_rows(config: ScoreConfig, cluster: Piece, rows: tuple[int, int]) -> tuple[Float32, dedup.Indices]:
    """Score a range of rows of a cluster in visiting order: duplicate similarity, and the row that causes it."""
    start, stop = rows
    similarity = np.full(stop - start, NOTHING)
    index = np.full(stop - start, -1, np.int64)
    taking_part = int(within(config, cluster.distance).sum())
    end = min(stop, taking_part)
    if end > start:
        limit_threads(engine.granted_cpus())
        units = to_unit(cluster.vectors[:end])
        if config.rule == "greedy":
            assert config.d is not None
            found = dedup.greedy_similarity(units, config.d)
        else:
            found = dedup.earlier_similarity(units, start, end, engine.device())
        similarity[: end - start], index[: end - start] = found
    return similarity, index


def write_cluster(run: RunDirectory, path: str, whole: Piece, *scored: tuple[Float32, dedup.Indices]) -> File:
    """Write a part of schema.SCORES from frames in visiting order and the scores of their consecutive ranges."""
    similarity = np.concatenate([part[0] for part in scored]) if scored else np.empty(0, np.float32)
    index = np.concatenate([part[1] for part in scored]) if scored else np.empty(0, np.int64)
    ids = pa.array(whole.ids.astype(str).tolist(), pa.string())
    causes = ids.take(pa.array(np.maximum(index, 0), mask=index < 0))
    columns = [ids, *map(pa.array, (whole.cluster, whole.distance, similarity)), causes]
    return run.write_table(path, pa.Table.from_arrays(columns, schema=schema.SCORES))
