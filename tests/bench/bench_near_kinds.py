"""What a perceptual hash finds and wrongly drops, and what a ViT does.

--question real: the real frames, by the hash; the README has the same of the ViT.
--question changes: whether each knows a picture again that was changed in one way.
--question phantom: the phantom, whose scenes are known; both by the same rule, frame by frame.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from bench_near_copies import DISTANCE, SETS, WEIGHTS, hash_of, numbers, real_files
from harness import real_data, report
from PIL import Image, ImageDraw, ImageEnhance

from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import Encoder
from curation.frames import decoding, hamming
from curation.frames.perceptual import SIDE, perceptual_hash
from curation.phantom.colonoscopy import PhantomConfig, compare_with_truth, draw

DISTANCES = (2, 4, 6, 8, 10, 12)


class Measure:
    """Two ways to compare pictures: bits of the hash that differ, and the cosine of a ViT's vectors."""

    def __init__(self) -> None:

        config = EmbedConfig(
            run_dir="unused",
            encoder="vit_small_patch14_dinov2",
            weights=str(real_data() / WEIGHTS),
            image_size=224,
            pooling="mean",
        )
        self.encoder = Encoder(config, "float32", "cpu")

    def vectors(self, pictures: Iterator[bytes]) -> np.ndarray:
        """Unit vectors of encoded pictures."""
        found, batch = [], list[np.ndarray]()
        for data in pictures:
            batch.append(decoding.decode(data, 224))
            if len(batch) == 32:
                found.append(self.encoder(np.stack(batch)))
                batch = []
        return np.concatenate([*found, self.encoder(np.stack(batch))] if batch else found)


def stays(vectors_ND: np.ndarray, d: float) -> np.ndarray:
    """The same rule with cosines: which frames are not more similar than d to an earlier one that stays."""
    kept: list[int] = []
    for row, vector in enumerate(vectors_ND):
        if not kept or (vectors_ND[kept] @ vector).max() <= d:
            kept.append(row)
    return np.isin(np.arange(len(vectors_ND)), kept)


def twins_of(files: list[Path]) -> list[tuple[int, int]]:
    """Places of the 30 originals and of the frames of kvasir_seg_352 that are the same, by their pixels at 32 px."""
    small = np.stack([decoding.decode(file.read_bytes(), 32).astype(np.float32).ravel() for file in files])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)  # of black frames
    of = {name: [n for n, file in enumerate(files) if name in file.parts] for name in SETS}
    first, second = of["kvasir_seg_orig30"], of["kvasir_seg_352"]
    return [(row, second[place]) for row, place in zip(first, (small[first] @ small[second].T).argmax(1), strict=True)]


def changed(image: Image.Image) -> dict[str, Image.Image]:
    """A picture changed in one way each."""
    width, height = image.size
    moved = image.transform(image.size, Image.Transform.AFFINE, (1, 0, width * 0.06, 0, 1, height * 0.03))
    zoomed = image.crop((width // 16, height // 16, width - width // 16, height - height // 16)).resize(image.size)
    text = image.copy()
    ImageDraw.Draw(text).text(
        (width // 20, height // 20), "12:04:07  ID 4711\nPOLYP 8 MM", fill="white", font_size=height // 14
    )
    return {
        "half the size": image.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
        "brighter by half": ImageEnhance.Brightness(image).enhance(1.5),
        "other caption": text,
        "moved by 6 and 3 %": moved,
        "zoomed by an eighth": zoomed,
        "turned by 5 degrees": image.rotate(5, Image.Resampling.BICUBIC),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }


def png(image: Image.Image) -> bytes:
    """A picture encoded without loss."""
    with tempfile.TemporaryFile() as file:
        image.save(file, "PNG")
        file.seek(0)
        return file.read()


def question_real(given: argparse.Namespace) -> None:
    """What the hash finds and wrongly drops among the real frames; the README has the same of the ViT."""
    del given
    files = [file for group in real_files().values() for file in group]
    hashes, twins = [hash_of(file) for file in files], twins_of(files)
    rows = []
    for distance in DISTANCES:
        kept = hamming.greedy(numbers(hashes), distance) < 0
        row: dict[str, Any] = {"distance": distance, "stay": int(kept.sum())}
        row["twins found of 30"] = sum(not (kept[one] and kept[other]) for one, other in twins)
        for group in SETS:
            row[group] = f"{kept[[group in file.parts for file in files]].mean():.1%}"
        rows.append(row)
    report("near_copies_real", rows, f"{len(files)} real frames: share of each set that stays")


def question_changes(given: argparse.Namespace) -> None:
    """Distances and cosines between a still and the same changed in one way, and between different stills."""
    measure, stills = Measure(), given.stills
    files = real_files()["endotect2020_512"][:stills]
    images = [Image.open(file).convert("RGB") for file in files]
    first, x_ND = numbers([hash_of(file) for file in files]), measure.vectors(file.read_bytes() for file in files)
    rows: list[dict[str, Any]] = []

    def row(name: str, bits: np.ndarray, cosine: np.ndarray) -> dict[str, Any]:
        return {
            "second picture": name,
            "bits, median": float(np.median(bits)),
            f"within {DISTANCE} bits": f"{(bits <= DISTANCE).mean():.0%}",
            "cosine, median": float(np.median(cosine)),
            "above 0.985": f"{(cosine > 0.985).mean():.0%}",
            "above 0.97": f"{(cosine > 0.97).mean():.0%}",
        }

    for name in changed(images[0]):
        data = [png(changed(image)[name]) for image in images]
        found = numbers([perceptual_hash(decoding.brightness(one, SIDE)) for one in data])
        rows.append(row(name, np.bitwise_count(first ^ found), (x_ND * measure.vectors(iter(data))).sum(axis=1)))
    one, other = np.triu_indices(stills, 1)
    rows.append(
        row("another still", np.bitwise_count(first[one] ^ first[other]), (x_ND[one] * x_ND[other]).sum(axis=1))
    )
    report("near_copies_changes", rows, f"{stills} stills of EndoTect, each changed in one way")


def question_phantom(given: argparse.Namespace) -> None:
    """The share of redundant files found and of scenes kept."""

    with tempfile.TemporaryDirectory() as folder:
        draw(PhantomConfig(output=folder, procedures=given.procedures))
        truth = pq.read_table(Path(folder, "truth.parquet")).sort_by("path")
        data = [Path(folder, "frames", path).read_bytes() for path in truth["path"].to_pylist()]
    hashes = [perceptual_hash(decoding.brightness(one, SIDE)) for one in data]
    rows = []
    x_ND = Measure().vectors(iter(data))
    ways = {f"hash, {distance} bits": hamming.greedy(numbers(hashes), distance) < 0 for distance in DISTANCES}
    ways |= {f"ViT-S/14, d = {d}": stays(x_ND, d) for d in (0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)}
    for name, kept in ways.items():
        paths = [path for path, there in zip(truth["path"].to_pylist(), kept, strict=True) if there]
        row: dict[str, Any] = {"by": name, "stay": int(kept.sum())}
        found = compare_with_truth(truth, paths)
        rows.append(row | {key: found[key] for key in ("duplicates_found", "distinct_kept", "invalid_dropped")})
    report("near_copies_phantom", rows, f"{len(data)} frames of the phantom")


QUESTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "real": question_real,
    "changes": question_changes,
    "phantom": question_phantom,
}


def main() -> None:
    """Ask one question, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", choices=QUESTIONS, nargs="+", default=list(QUESTIONS))
    parser.add_argument("--stills", type=int, default=40)
    parser.add_argument("--procedures", type=int, default=3)
    given = parser.parse_args()
    for name in given.question:
        QUESTIONS[name](given)


if __name__ == "__main__":
    main()
