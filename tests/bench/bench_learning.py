"""Whether pre-training learns: the loss on real frames, and a linear probe of source folders against no training.

Needs ENDOSIEVE_DATA. All frames below data/*/images are curated into a subset that keeps every distinct one, and a
ViT-tiny is trained on it (MAE, 112 px). Then a linear classifier on the mean patch token tells three sources apart
(Kvasir-SEG, EndoTect, laparoscopy): learned on some procedures, tried on others (laparoscopy: by the procedure in the
file name; Kvasir-SEG: its official test part; EndoTect, whose procedures are not told: every other frame). The video
has one procedure and is left out. It learns from all frames of the first part, and from 5 and 20 of each source (the
mean of 40 draws). The untrained encoder has the weights that training begins with. `--keep` stores the curve that the
test compares with.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from harness import OUTPUT, real_data, report

from curation import pipeline
from curation.clusters.config import ClusterConfig
from curation.embeddings.config import EmbedConfig
from curation.engine.connect import connect
from curation.exports.config import ExportConfig
from curation.frames import decoding
from curation.sources.config import IngestConfig
from curation.subsets.config import SelectConfig
from training.methods.config import Augmentation, MaeConfig
from training.pretraining.config import ComputeConfig, LengthConfig, OptimiserConfig, PretrainConfig, RecordConfig
from training.pretraining.pretrain import pretrain
from training.pretraining.recipe import Recipe
from training.segmentation.probes import source_probe
from training.segmentation.tokens import encode, load_encoder

ENCODER, SIZE = "vit_tiny_patch16_224", 112
FEW = (5, 20)
CURVE = Path(__file__).with_name("learning_curve.json")


def everything(folder: str, data: str) -> str:
    """A subset with every distinct real frame."""
    run_dir = f"{folder}/run"
    encoder = {"encoder": "test_vit", "weights": "random", "image_size": 32, "pooling": "mean"}
    pipeline.run(
        pipeline.RunConfig(
            ingest=IngestConfig(run_dir=run_dir, source=(f"frames={data}",), include=("**/images/*",)),
            embed=EmbedConfig(run_dir=run_dir, **encoder),
            cluster=ClusterConfig(run_dir=run_dir),
            select=SelectConfig(run_dir=run_dir, d=1.0, epsilon=2.0, name="all"),
            export=ExportConfig(run_dir=run_dir, name="all"),
        )
    )
    return f"{run_dir}/subsets/all"


def settings(subset: str, output: str, epochs: int) -> Recipe:
    """The recipe."""
    return Recipe(
        PretrainConfig(subset=subset, output=output),
        ComputeConfig(precision="bfloat16"),
        RecordConfig(log_steps=50, checkpoint_steps=500, picture_steps=500),
        LengthConfig(epochs=epochs, batch_size=64, slice_rows=32),
        OptimiserConfig(learning_rate=3e-4, learning_rate_reading="absolute", warmup_share=0.1),
        MaeConfig(encoder=ENCODER, image_size=SIZE, decoder_depth=2, decoder_width=128, decoder_heads=4),
        Augmentation(),
    )


def labelled(data: str) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Files, the source of each, and whether it is to validate."""
    parts = dict(line.split("\t") for line in Path(data, "kvasir_seg_352/splits.tsv").read_text().splitlines()[1:])
    files, labels, held = [], [], []
    sets = ("kvasir_seg_352", "endotect2020_512", "lap_intermountain_480")
    for name in sets:
        found = sorted(Path(data, name, "images").iterdir())
        procedures = sorted({path.name.split("-")[0] for path in found})
        files += found
        labels += [name] * len(found)
        if name == sets[0]:
            held += [parts[path.stem] == "test" for path in found]
        elif name == sets[1]:
            held += [place % 2 == 1 for place in range(len(found))]
        else:
            held += [procedures.index(path.name.split("-")[0]) % 2 == 1 for path in found]
    return files, np.array(labels), np.array(held)


def accuracy(source: str, name: str | None, data: str) -> dict[str, float]:
    """Balanced accuracy of the probe on an encoder's features, by what it learns from."""
    files, labels, held = labelled(data)
    pixels = np.stack([decoding.decode(path.read_bytes(), SIZE) for path in files])
    encoder = load_encoder(source, SIZE, name)
    tokens = [part.float().mean(dim=1).numpy() for part in encode(encoder, pixels, "float32")]
    features, held_out = np.concatenate(tokens), np.flatnonzero(held)
    found = {"all": source_probe(features, labels, np.flatnonzero(~held), held_out)}
    for number in FEW:
        few = [source_probe(features, labels, drawn(labels, held, number, seed), held_out, 1e-2) for seed in range(40)]
        found[f"{number} a source"] = float(np.mean(few))
    return found


def drawn(labels: np.ndarray, held: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Rows of `number` frames of each source to learn from."""
    generator = np.random.default_rng(seed)
    of_source = (np.flatnonzero(~held & (labels == name)) for name in np.unique(labels))
    return np.concatenate([generator.choice(rows, number, replace=False) for rows in of_source])


def main() -> None:
    """Train, probe, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=75)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    data = str(real_data() / "data")
    folder = f"{OUTPUT}/learning"
    connect()
    output = f"{folder}/encoder-{given.epochs}"
    card = pretrain(settings(everything(folder, data), output, given.epochs))
    curve = pq.read_table(f"{output}/metrics.parquet").to_pylist()
    rows: list[dict[str, Any]] = [
        {"encoder": "untrained"} | accuracy("random", ENCODER, data),
        {"encoder": f"{given.epochs} epochs"} | accuracy(output, None, data),
    ]
    for row, loss in zip(rows, (curve[0]["loss"], curve[-1]["loss"]), strict=True):
        row["loss"] = loss
    hours = f"{card['cost']['device_hours']:.2f} hours, {card['cost']['images_seen']} images seen"
    report("learning", rows, f"{card['data']['frames']} frames, {ENCODER} at {SIZE} px, {hours}")
    if given.keep:
        kept = {"epochs": given.epochs, "loss": {str(row["update"]): round(row["loss"], 4) for row in curve}}
        CURVE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
