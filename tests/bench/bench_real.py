"""What a run on the real frames found: the table of the README, from a finished run directory.

Needs ENDOSIEVE_DATA (the folder that holds data/), and the run: `python -m curation run` as the README prints it. The
30 originals' resized twins are told by their pixels: the frame of kvasir_seg_352 with the highest correlation at 32 px.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from harness import real_data, report

from curation.clusters import kmeans, seeding
from curation.embeddings.storage import load_vectors
from curation.embeddings.vectors import keys_of, to_unit
from curation.frames import decoding
from curation.scores.duplicates import earlier_similarity, visiting_order
from curation.store.directory import RunDirectory

SETS = ("endotect2020_512", "kvasir_seg_352", "kvasir_seg_orig30", "sinus_seq381_480", "lap_intermountain_480")


def thumbnails(uris: list[str]) -> np.ndarray:
    """Pixels at 32 px, mean subtracted, unit length."""
    frames = [decoding.decode(Path(uri).read_bytes(), 32).astype(np.float32).ravel() for uri in uris]
    return to_unit(np.stack([pixels - pixels.mean() for pixels in frames]))


def main() -> None:
    """Report what is kept of each set at several thresholds, and the pairs found for several k."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", default="runs/real")
    parser.add_argument("--d", type=float, nargs="+", default=[0.97, 0.98, 0.985, 0.99, 0.995])
    given = parser.parse_args()
    real_data()
    run = RunDirectory(given.run_dir)
    frames = pa.concat_tables([run.read_table(path) for path in run.parts("frames").values()]).to_pylist()
    members = {name: [row for row in frames if row["path"].startswith(f"{name}/")] for name in SETS}
    originals, resized = members["kvasir_seg_orig30"], members["kvasir_seg_352"]
    near = (thumbnails([r["uri"] for r in originals]) @ thumbnails([r["uri"] for r in resized]).T).argmax(axis=1)
    twins = [(row["frame_id"], resized[place]["frame_id"]) for row, place in zip(originals, near, strict=True)]
    scores = pa.concat_tables([run.read_table(path) for path in run.parts("scores").values()])
    similarity = dict(zip(scores["frame_id"].to_pylist(), scores["duplicate_similarity"].to_numpy(), strict=True))
    rows = []
    for d in given.d:
        kept = {frame for frame, value in similarity.items() if value <= np.float32(d)}
        row = {"d": d, "kept": len(kept), "twins found": sum(not {a, b} <= kept for a, b in twins)}
        for name, group in members.items():
            row[name] = f"{sum(r['frame_id'] in kept for r in group) / len(group):.1%}"
        rows.append(row)
    report("real", rows, f"{len(frames)} frames in {given.run_dir}: share kept of each set")
    loaded = [load_vectors(run, path, None) for path in run.parts("embeddings").values()]
    ids = [frame for names, _ in loaded for frame in names]
    x, keys = np.concatenate([vectors for _, vectors in loaded]), keys_of(ids)
    place = {frame: number for number, frame in enumerate(ids)}
    rows = []
    for clusters in (1, 2, 4, 8, 16, 32):
        found = []
        for seed in range(5):
            centroids = seeding.seed_centroids(keys, x, clusters, seed)
            for _ in range(20):
                centroids = kmeans.update(kmeans.partial_sums(keys, x, centroids), centroids)[0]
            cluster, dot = kmeans.assign(x, centroids)
            highest = np.full(len(x), -1, np.float32)
            for number in range(clusters):
                inside = np.flatnonzero(cluster == number)
                inside = inside[visiting_order((1 - dot)[inside], keys[inside], "nearest", 0)]
                highest[inside] = earlier_similarity(to_unit(x[inside]))[0]
            kept = highest <= np.float32(0.985)
            found.append(sum(not (kept[place[a]] and kept[place[b]]) for a, b in twins))
        rows.append(
            {"k": clusters, "twins found of 30": f"{min(found)} to {max(found)}", "mean": float(np.mean(found))}
        )
    report("borders", rows, "duplicates lost at the borders of clusters, at d = 0.985, 5 seeds each")


if __name__ == "__main__":
    main()
