"""The ceiling of the embed step's machinery: encoders that compute nothing, and frames that need no decoding.

What is left is all that embedding does beside both: parts of frames are read, chunks are cut, vectors become tables
that are compressed, checked and written, and the driver counts them. A row a size: if the driver's processor time and
memory for each frame are flat, nothing in it grows with the frames but a record a part. The last row is the same work
in one process that knows no Ray, which is the floor of one core.
"""

import argparse
import logging
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from harness import OUTPUT, report

from curation.console import StepSummary
from curation.embeddings import embed, tables
from curation.embeddings.chunks import Chunk, Row, chunks_of
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoding import EncodeUnit
from curation.embeddings.units import Unit
from curation.frames.frame import frame_id
from curation.sources.config import IngestConfig
from curation.store import schema
from curation.store.directory import File, RunDirectory
from curation.store.markers import Step

DIMENSIONS, SIZE, KEPT = 768, 8, 4096


class Nothing:
    """An encoder that computes nothing: unit vectors that it was made with."""

    dimensions = DIMENSIONS

    def __init__(self) -> None:
        vectors = np.random.default_rng(0).standard_normal((KEPT, DIMENSIONS)).astype(np.float32)
        self.vectors_KD = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def __call__(self, images_NSS3: np.ndarray) -> np.ndarray:
        return self.vectors_KD[: len(images_NSS3)]


def undecoded(rows: list[Row]) -> Chunk:
    """A chunk of black images without a look at a file."""
    count = len(rows)
    pixels, measures = np.zeros((count, SIZE, SIZE, 3), np.uint8), np.zeros((count, len(schema.MEASURES)), np.float32)
    return Chunk([row["frame_id"] for row in rows], pixels, measures, [], 0.0, 0.0)


class NullEncodeUnit(EncodeUnit):
    """The actor of the step, without decoding and encoding."""

    def make_encoder(self) -> Nothing:
        return Nothing()

    def decoded(self, chunks: list[list[Row]]) -> Any:
        return map(undecoded, chunks)


def frames(run_dir: str, rows: int, part_rows: int) -> dict[str, Any]:
    """A finished ingest of made-up frames; its marker."""
    run = RunDirectory(run_dir)
    step = Step(run, "ingest", "frames", IngestConfig(run_dir=run_dir, source=("made-up",)), {})
    step.begin()
    files = []
    for number, start in enumerate(range(0, rows, part_rows)):
        count = min(part_rows, rows - start)
        paths = [f"patient_{start // 5000:04d}/frame_{row:08d}.jpg" for row in range(start, start + count)]
        ids = [frame_id("made-up", path) for path in paths]
        columns = {field.name: pa.nulls(count, field.type) for field in schema.FRAMES}
        columns |= {"frame_id": pa.array(ids), "content_hash": pa.array(ids), "path": pa.array(paths)}
        columns |= {"uri": pa.array([f"/made-up/{path}" for path in paths]), "source": pa.array(["made-up"] * count)}
        columns |= {
            name: pa.array(np.full(count, 9), schema.FRAMES.field(name).type) for name in ("byte_size", "width")
        }
        columns["height"] = columns["width"]
        files.append(run.write_table(f"frames/part-{number:06d}.parquet", pa.table(columns, schema=schema.FRAMES)))
    return step.finish(StepSummary(rows_in=rows, rows_out=rows, seconds=0.0), files)


def spent() -> tuple[float, float]:
    """Processor seconds of this process, and its memory in MB now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return used.ru_utime + used.ru_stime, pages * resource.getpagesize() / 1e6


def ours(config: EmbedConfig, before: dict[str, Any]) -> dict[str, Any]:
    """Rates of the step's own loop over all frames: from its call on, and once each encoder has written a part."""
    run = RunDirectory(config.run_dir)
    shutil.rmtree(f"{config.run_dir}/embeddings", ignore_errors=True)
    missing, _ = embed.missing_parts(run, before)
    work = embed.work_of(run, config, "float32", before["output_hash"])
    arrivals: list[tuple[float, int]] = []
    cpu, memory = spent()
    first_cpu, peak, begun = cpu, memory, time.perf_counter()
    for record, files in embed.committed(embed.records(work, missing, NullEncodeUnit), run, work.made):
        if not arrivals:
            first_cpu = spent()[0]
        arrivals.append((time.perf_counter(), record["frames"]))
        peak = max(peak, spent()[1])
        del files
    whole, counted = time.perf_counter() - begun, sum(count for _, count in arrivals)
    assert counted == before["rows_out"], "frames were lost"
    later = sum(count for _, count in arrivals[4:])
    return {
        "frames": counted,
        "parts": len(missing),
        "frames/s": later / (arrivals[-1][0] - arrivals[3][0]),
        "with start": counted / whole,
        "driver us/frame": 1e6 * (spent()[0] - first_cpu) / counted,
        "driver grew, MB": peak - memory,
        "bytes/frame": 1e6 * (peak - memory) / counted,
    }


def bare(config: EmbedConfig, before: dict[str, Any], parts: int) -> float:
    """Frames a second of the same work without Ray, in this process."""
    run, encoder = RunDirectory(config.run_dir), Nothing()
    files = [File(**entry) for entry in before["files"]][:parts]
    begun = time.perf_counter()
    for file in files:
        unit = Unit(file, 0, 1, 0, 1 << 20)
        made = []
        for rows in chunks_of(run, unit, config.chunk_rows):
            chunk = undecoded(rows)
            vectors = encoder(chunk.pixels).astype(config.storage)
            made.append(tables.embeddings_table(chunk.ids, vectors, chunk.measures))
        whole = pa.concat_tables(made).combine_chunks()
        tables.write_part(run, unit.part, (whole, schema.REJECTED.empty_table()), {})
    return sum(file.rows for file in files) / (time.perf_counter() - begun)


def main() -> None:
    """Measure several sizes in one process, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[100_000, 400_000, 1_600_000])
    parser.add_argument("--part-rows", type=int, default=2000)
    parser.add_argument("--chunk-rows", type=int, default=64)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    rows = []
    for count in [min(given.frames), *given.frames]:  # the first warms up what Ray keeps
        run_dir = str((OUTPUT / f"driver-{count}").resolve())
        shutil.rmtree(run_dir, ignore_errors=True)
        config = EmbedConfig(run_dir=run_dir, image_size=SIZE, chunk_rows=given.chunk_rows, weights="random")
        before = frames(run_dir, count, given.part_rows)
        rows.append(ours(config, before))
        print(rows[-1], flush=True)
        if count == given.frames[-1]:
            rows.append({"frames": count, "frames/s": bare(config, before, 50)})
        shutil.rmtree(run_dir)
    report("driver", rows[1:], f"null encoder, {DIMENSIONS} dimensions, chunks of {given.chunk_rows}; goal: 50000")


if __name__ == "__main__":
    main()
