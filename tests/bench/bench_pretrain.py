"""Pre-training: Ray Train's loop against a bare one, fed against synthetic, the step against a plain one, the cache.

- loop: `pretrain` through Ray Train, with its records and checkpoints, against the same updates in a bare loop.
- fed: updates fed from cached frames (taken, moved, cropped) against updates on views made beforehand.
- step: forward, backward and AdamW as we do them, against a plain reference: attention as two products and a softmax
  without SDPA, float32 (on a GPU: its AMP), an optimiser that is not fused.
- cache: a training that decodes each frame anew for each use, against one with cached frames.

Floor of a step: its FLOPs, as counted for the model card, at the rate of a large matrix product here.
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from harness import OUTPUT, report, seconds

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import PRECISIONS
from curation.engine.chips import chip, resolve_precision
from curation.engine.connect import connect
from curation.exports.config import ExportConfig
from curation.phantom import colonoscopy
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig
from training.loader.decoded import DecodedFrames
from training.loader.order import Batches, Rank
from training.methods.config import Augmentation, MaeConfig
from training.methods.mae import MaeMethod
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.cost import flops_per_image
from training.pretraining.loop import Plan, Trainer
from training.pretraining.pretrain import pretrain
from training.pretraining.recipe import Recipe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Work = Callable[[], Any]


def same(module: torch.nn.Module) -> torch.nn.Module:
    """Wrap nothing."""
    return module


def compiled(module: torch.nn.Module) -> torch.nn.Module:
    """Compile on a GPU."""
    return torch.compile(module) if DEVICE == "cuda" else module


def random_frames(count: int, side: int) -> DecodedFrames:
    """Frames of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return DecodedFrames([pixels], [str(number) for number in range(count)])


def finished() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def updates(trainer: Trainer, frames: DecodedFrames, order: Batches) -> Work:
    """One more update each time it is called."""
    arriving = frames.images(order, order.places(Rank(device=DEVICE), 0, 10**6))

    def work() -> None:
        trainer.update(order, arriving, frames.names)
        finished()

    return work


class Ready(MaeMethod):
    """MAE whose views were made beforehand."""

    ready: tuple[torch.Tensor, ...] = ()

    def views(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """The same views each time."""
        if not self.ready:
            self.ready = tuple(view.to(DEVICE) for view in super().views(images, generator))
        return self.ready


class Constant(DecodedFrames):
    """Frames that are always the same tensor, on the device already."""

    def images(self, order: Batches, places: Iterator[tuple[int, int]]) -> Iterator[torch.Tensor]:
        """The first draw for every place."""
        first = self.take(np.arange(order.size)).to(DEVICE)
        return (first for _ in places)


def plain_step(config: MaeConfig, batch: int) -> Work:
    """Forward, backward and update as the plain reference does them."""
    timm.layers.set_fused_attn(False)
    method = MaeMethod(config, Augmentation())
    timm.layers.set_fused_attn(True)
    for module in method.module.modules():
        if hasattr(module, "fused_attn"):
            assert module.fused_attn is False
    model = method.module.to(DEVICE).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, device=DEVICE)
    noise = torch.rand(batch, method.module.patches, device=DEVICE)

    def work() -> None:
        with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
            loss = model(pixels, noise)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        finished()

    return work


def in_turn(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each, called one after the other so that a drifting machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
        work()
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def subset_of(frames: int) -> str:
    """A phantom and a subset that keeps all of it."""
    folder = f"{OUTPUT}/pretrain-{frames}"
    run_dir = f"{folder}/run"
    if not Path(run_dir, "subsets/all/kept.parquet").exists():
        small = {"procedures": 4, "scenes": -(-frames // 8), "frames_per_scene": 2, "copy_share": 0}
        colonoscopy.draw(colonoscopy.PhantomConfig(output=folder, **small))
        encoder = {"encoder": "test_vit", "weights": "random", "image_size": 32, "pooling": "mean"}
        pipeline.run(
            pipeline.RunConfig(
                ingest=IngestConfig(run_dir=run_dir, source=(f"{folder}/frames",)),
                embed=EmbedConfig(run_dir=run_dir, **encoder),
                cluster=ClusterConfig(run_dir=run_dir),
                select=SelectConfig(run_dir=run_dir, d=1.0, epsilon=2.0, name="all"),
                export=ExportConfig(run_dir=run_dir, name="all"),
            )
        )
    return f"{run_dir}/subsets/all"


def through_ray(
    subset: str, model: MaeConfig, batch: int, steps: int, cache_gb: float | None
) -> tuple[float, DecodedFrames]:
    """Images a second of `pretrain` after its first rows, and the frames it cached."""
    output = f"{OUTPUT}/pretrain-output"
    shutil.rmtree(output, ignore_errors=True)
    pretrain(
        Recipe(
            PretrainConfig(subset=subset, output=output),
            ComputeConfig(cache_gb=cache_gb, compile=DEVICE == "cuda"),
            RecordConfig(log_steps=2, checkpoint_steps=max(2, steps // 2), picture_steps=0),
            LengthConfig(steps=steps, batch_size=batch, slice_rows=min(16, batch)),
            OptimiserConfig(),
            model,
            Augmentation(),
        )
    )
    rates = pq.read_table(f"{output}/metrics.parquet")["images_per_second"].to_pylist()[2:]
    parts = sorted(str(path) for path in Path(output, "cache").glob("part-*.npy"))
    count = sum(len(np.load(part, mmap_mode="r")) for part in parts)
    return statistics.median(rates), DecodedFrames(parts, [""] * count) if parts else random_frames(batch, 8)


def main() -> None:
    """Run all four questions and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="vit_base_patch16_224", help="of the questions fed and step")
    parser.add_argument("--batch", type=int, default=256 if DEVICE == "cuda" else 16)
    parser.add_argument("--loop-encoder", default="vit_small_patch16_224", help="of the questions loop and cache")
    parser.add_argument("--steps", type=int, default=40, help="updates of each training through Ray Train")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=1000)
    given = parser.parse_args()
    precision = resolve_precision("auto", chip(DEVICE))
    rows = in_process(given, precision) + trainings(given, precision)
    about = f"{given.encoder} and {given.loop_encoder} at 224 px, batch {given.batch}, {precision} on {DEVICE}"
    report("pretrain", rows, f"{about}; goals: loop 0.95, fed 0.90, step 3 (CPU) or 2 (GPU)")


def in_process(given: argparse.Namespace, precision: str) -> list[dict[str, Any]]:
    """The questions fed and step."""
    config, batch, size = MaeConfig(encoder=given.encoder), given.batch, min(16, given.batch)
    order = Batches(64, batch, size, 0)
    plan = Plan(10**6, 0, LengthConfig(steps=1, batch_size=batch, slice_rows=size), OptimiserConfig(), precision)
    rank = Rank(device=DEVICE)
    fed = MaeMethod(config, Augmentation())
    ready = Ready(config, Augmentation())
    side = round(1.25 * config.image_size)
    frames = random_frames(64, side)
    flops = flops_per_image(MaeMethod(config, Augmentation()), side) * batch
    times = in_turn(
        {
            "fed": updates(Trainer(fed, plan, rank, compiled), frames, order),
            "synthetic": updates(Trainer(ready, plan, rank, compiled), Constant(frames.parts, frames.ids), order),
            "plain": plain_step(config, batch),
        },
        given.repeats,
    )
    rate = matmul_rate(precision)
    return [
        {"question": "fed", "images/s": batch / times["fed"], "ratio": times["synthetic"] / times["fed"]},
        {"question": "step", "images/s": batch / times["synthetic"], "ratio": times["plain"] / times["synthetic"]},
        {
            "question": "floor of the step",
            "images/s": batch * rate / flops,
            "ratio": flops / rate / times["synthetic"],
        },
    ]


def matmul_rate(precision: str) -> float:
    """FLOP/s of a large matrix product."""
    side = 8192 if DEVICE == "cuda" else 2048
    a = torch.randn(side, side, device=DEVICE, dtype=PRECISIONS[precision])

    def multiply() -> None:
        a @ a
        finished()

    return 2 * side**3 / seconds(multiply)


def trainings(given: argparse.Namespace, precision: str) -> list[dict[str, Any]]:
    """The questions loop and cache."""
    model, batch, size = MaeConfig(encoder=given.loop_encoder), given.batch, min(16, given.batch)
    connect()
    subset = subset_of(given.frames)
    cached, frames = through_ray(subset, model, batch, given.steps, None)
    plan = Plan(10**6, 0, LengthConfig(steps=1, batch_size=batch, slice_rows=size), OptimiserConfig(), precision)
    trainer = Trainer(MaeMethod(model, Augmentation()), plan, Rank(device=DEVICE), compiled)
    work = updates(trainer, frames, plan.order(len(frames)))
    work()
    bare = batch / seconds(work, given.steps // 2)
    again, _ = through_ray(subset, model, batch, given.steps, None)
    streamed, _ = through_ray(subset, model, batch, given.steps, 0)
    looped = statistics.mean([cached, again])
    return [
        {"question": "loop", "images/s": looped, "ratio": looped / bare},
        {"question": "cache against none", "images/s": looped, "ratio": looped / streamed},
    ]


if __name__ == "__main__":
    main()
