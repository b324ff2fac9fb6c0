"""Clustering and scoring a million made-up embeddings end to end: seconds, peak memory, and the planted pairs found.

Slow. Vectors lie around centers of heavy-tailed sizes (the r-th has a share of about 1 / r), which overlap; some are
near copies of others. Memory is the proportional set size of this process and all below it, looked at four times a
second; what lies in shared memory (Ray's object store) is told apart. Pages of files are not counted, as the kernel
drops them when it needs to.
"""

import argparse
import hashlib
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from harness import report

from curation.clusters.cluster import cluster
from curation.clusters.config import ClusterConfig
from curation.console import StepSummary
from curation.embeddings.config import EmbedConfig
from curation.embeddings.vectors import to_unit
from curation.scores.config import ScoreConfig
from curation.scores.score import score
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.markers import Step

PART_ROWS = 20_000
COPIES = 100  # of a part, each of a frame of that part


def part_of(number: int, centers: np.ndarray) -> np.ndarray:
    """The vectors of one part, float16; its last COPIES rows are near copies of its first ones."""
    generator = np.random.default_rng([7, number])
    weights = 1 / np.arange(1, len(centers) + 1)
    owner = generator.choice(len(centers), PART_ROWS, p=weights / weights.sum())
    x = centers[owner] + 1.5 * generator.standard_normal((PART_ROWS, centers.shape[1]), dtype=np.float32)
    x[-COPIES:] = x[:COPIES] + 0.1 * generator.standard_normal((COPIES, centers.shape[1]), dtype=np.float32)
    return to_unit(x.astype(np.float32)).astype(np.float16)


def ids_of(number: int) -> list[str]:
    """The frame ids of one part."""
    return [hashlib.md5(f"{number}/{row}".encode()).hexdigest() for row in range(PART_ROWS)]


def write(folder: str, rows: int, dimensions: int, directions: int) -> RunDirectory:
    """A finished embeddings/ of made-up vectors."""
    run = RunDirectory(folder)
    step = Step(run, "embed", "embeddings", EmbedConfig(run_dir=folder), {})
    step.begin()
    columns = schema.embeddings(dimensions, "float16")
    centers = np.random.default_rng(0).standard_normal((directions, dimensions), dtype=np.float32)
    files = []
    for number in range(rows // PART_ROWS):
        flat = pa.array(part_of(number, centers).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=columns.field("embedding").type)
        measures = [pa.array(np.zeros(PART_ROWS, np.float32)) for _ in schema.MEASURES]
        table = pa.Table.from_arrays([pa.array(ids_of(number)), vectors, *measures], schema=columns)
        files.append(run.write_table(f"embeddings/part-{number:06d}.parquet", table))
    step.finish(StepSummary(rows_in=rows, rows_out=rows, seconds=0.0), files)
    return run


class Memory(threading.Thread):
    """The most memory of this process and all below it, bytes: in all, and without shared memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"all": 0, "own": 0}
        self.ended = threading.Event()

    def run(self) -> None:
        """Look until told to end."""
        while not self.ended.wait(0.25):
            pss = shared = 0
            for process in descendants(os.getpid()):
                try:
                    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
                except OSError:  # it has ended
                    continue
                sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
                pss += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
                shared += sizes["Pss_Shmem"]
            self.most = {"all": max(self.most["all"], pss), "own": max(self.most["own"], pss - shared)}


def descendants(top: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [top]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def pairs_found(run: RunDirectory, rows: int) -> float:
    """The share of planted pairs of which one names the other, or a frame that is at least as near."""
    wanted = {}
    for number in range(rows // PART_ROWS):
        ids = ids_of(number)
        wanted |= dict(zip(ids[-COPIES:], ids[:COPIES], strict=True))
        wanted |= dict(zip(ids[:COPIES], ids[-COPIES:], strict=True))
    hits = set()
    for path in run.parts("scores").values():
        table = pq.read_table(f"{run.root}/{path}", columns=["frame_id", "duplicate_similarity"])
        for frame, similarity in zip(
            table["frame_id"].to_pylist(), table["duplicate_similarity"].to_numpy(), strict=True
        ):
            if frame in wanted and similarity > 0.98:  # a planted copy has 0.99 and more, and nothing else has
                hits.add(min(frame, wanted[frame]))
    return len(hits) / (len(wanted) / 2)


def main() -> None:
    """Write, cluster and score, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--train-share", type=float, default=1.0)
    parser.add_argument("--store-gb", type=float, default=3.0, help="size of Ray's object store")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        run = write(folder, given.rows, given.dimensions, given.clusters)
        memory = Memory()
        memory.start()
        ray.init(
            address="local",
            num_cpus=cores,
            object_store_memory=int(given.store_gb * 1e9),
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
        rows = []
        configs = (
            (
                cluster,
                ClusterConfig(
                    run_dir=folder,
                    clusters=given.clusters,
                    iterations=given.iterations,
                    train_share=given.train_share,
                ),
            ),
            (score, ScoreConfig(run_dir=folder)),
        )
        for step, config in configs:
            memory.most = {"all": 0, "own": 0}
            start = time.perf_counter()
            marker = step(config)
            spent = time.perf_counter() - start
            most = {name: size / 1e9 for name, size in memory.most.items()}
            rows.append({"step": step.__name__, "s": spent, "peak GB": most["all"], "beyond the store GB": most["own"]})
            print(f"{step.__name__}: {marker['note']}", flush=True)
        memory.ended.set()
        found = f"{pairs_found(run, given.rows):.1%} of the planted pairs found"
    size = f"{given.rows} x {given.dimensions}, k = {given.clusters}, {cores} cores, store {given.store_gb} GB"
    report("million", rows, f"{size}; {found}; goal: under 5 GB in all, under 2 GB beyond the object store")


if __name__ == "__main__":
    main()
