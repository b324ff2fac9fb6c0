"""Embedding through Ray Data against a bare PyTorch loop: the same encoder, frames and cores in the same run.

The peer is a DataLoader whose workers decode as we do, and a loop that runs the encoder on each batch; the best of
several settings counts. Ray's start, and that of the DataLoader's workers, are left out on both sides: frames count
from the moment every encoder has delivered a chunk, or the first batch is through. Ours also measures each image and
writes the tables. Floor: the encoder's products at the rate of a bfloat16 (or float32) matrix product here.
"""

import argparse
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import ray
import torch
from harness import OUTPUT, report, seconds
from torch.utils.data import DataLoader, Dataset

from curation.embeddings import embed
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import PRECISIONS, Encoder, build
from curation.engine.chips import chip, resolve_precision
from curation.frames import decoding
from curation.frames.ingest import ingest
from curation.phantom import colonoscopy
from curation.sources.config import IngestConfig
from curation.store.directory import RunDirectory


class Frames(Dataset):
    """Decoded frames of some files."""

    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.from_numpy(decoding.decode(Path(self.paths[place]).read_bytes(), self.size).copy())


def bare(config: EmbedConfig, precision: str, paths: list[str], workers: int, threads: int) -> float:
    """Frames a second of the bare loop, from its first batch on."""
    torch.set_num_threads(threads)
    encoder = Encoder(config, precision, "cuda" if torch.cuda.is_available() else "cpu")
    size = encoder.batch_size
    loader = DataLoader(Frames(paths, config.image_size), batch_size=size, num_workers=workers, prefetch_factor=8)
    vectors, start = [], 0.0
    for batch in loader:
        vectors.append(encoder(batch.numpy()))
        start = start or time.perf_counter()
    return (len(np.concatenate(vectors)) - size) / (time.perf_counter() - start)


def ours(config: EmbedConfig, precision: str, workers: int) -> float:
    """Frames a second through Ray Data, from the chunk on with which every encoder has delivered one."""
    run = RunDirectory(config.run_dir)
    shutil.rmtree(f"{config.run_dir}/embeddings", ignore_errors=True)
    arrivals: list[tuple[float, int]] = []

    def timed(rows):
        for row in rows:
            arrivals.append((time.perf_counter(), len(row["frame_ids"])))
            yield row

    encoded = timed(embed.encoded_chunks(run, config, list(run.parts("frames")), precision))
    for part, table, rejected in embed.assemble(encoded, embed.configured(config).num_features, config.storage):
        embed.write_part(run, part, table, rejected)
    counted = sum(frames for _, frames in arrivals[workers:])
    return counted / (time.perf_counter() - arrivals[workers - 1][0])


def main() -> None:
    """Draw frames where there are none yet, run both, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=4000, help="at least this many")
    parser.add_argument("--encoder", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--chunk-rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    folder = f"{OUTPUT}/frames-{given.frames}"
    scenes = -(-given.frames // 8)
    colonoscopy.draw(
        colonoscopy.PhantomConfig(output=folder, procedures=8, scenes=scenes, frames_per_scene=1, copy_share=0)
    )
    run_dir = f"{folder}-run"
    shutil.rmtree(run_dir, ignore_errors=True)
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ingest(IngestConfig(run_dir=run_dir, source=(f"{folder}/frames",), part_rows=500))
    config = EmbedConfig(
        run_dir=run_dir,
        encoder=given.encoder,
        weights="random",
        image_size=given.image_size,
        chunk_rows=given.chunk_rows,
    )
    gpus = torch.cuda.device_count()
    precision = resolve_precision("auto", chip("cuda" if gpus else "cpu"))
    run = RunDirectory(run_dir)
    paths = [uri for path in run.parts("frames").values() for uri in run.read_table(path)["uri"].to_pylist()]
    settings = [(1, cores), (cores, cores), (cores, max(1, cores - 1))]
    peers: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    rates: list[float] = []
    for _ in range(given.repeats):
        for setting in settings:
            peers[setting].append(bare(config, precision, paths, *setting))
        rates.append(ours(config, precision, gpus or cores))
    best = max(float(np.median(times)) for times in peers.values())
    rows = [
        {
            "way": f"bare loop, {w} workers, {t} threads",
            "images/s": float(np.median(r)),
            "ratio": float(np.median(r)) / best,
        }
        for (w, t), r in peers.items()
    ]
    rows.append({"way": "embed", "images/s": float(np.median(rates)), "ratio": float(np.median(rates)) / best})
    floor = products(given.encoder, given.image_size, precision)
    rows.append({"way": "floor", "images/s": floor, "ratio": floor / best})
    report("embed", rows, f"{len(paths)} frames, {given.encoder} at {given.image_size} px, {precision}; goal: 0.90")


def products(name: str, size: int, precision: str) -> float:
    """Images a second if the encoder's matrix products ran at the rate of a large one."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(name, size, "random")
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    width, depth = model.num_features, len(model.blocks)
    work = 2 * tokens * width * (12 * width + 2 * tokens) * depth + 2 * tokens * width * 3 * 256
    a = torch.randn(2048, 2048, device=device, dtype=PRECISIONS[precision])

    def multiply() -> None:
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * 2048**3 / seconds(multiply) / work


if __name__ == "__main__":
    main()
