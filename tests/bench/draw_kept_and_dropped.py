"""Draw docs/kept_and_dropped.jpg for the README: frames that a selection kept, and dropped ones with their reasons.

Needs the demonstration's run (`make demo`); selects from it at (epsilon, d) = (0.9, 0.98).
"""

import argparse
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow.parquet as pq
from PIL import Image

from curation.pipeline import select
from curation.store.directory import RunDirectory
from curation.subsets.config import SelectConfig

COLUMNS = 6
KEPT, DROPPED = "#009E73", "#D55E00"


def main() -> None:
    """Select, choose the frames to show, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", default="runs/demo/run")
    parser.add_argument("--output", default="docs/kept_and_dropped.jpg")
    given = parser.parse_args()
    select(SelectConfig(run_dir=given.run_dir, name="picture", d=0.98))
    run = RunDirectory(given.run_dir)
    frames = {
        row["frame_id"]: row
        for path in run.parts("frames").values()
        for row in run.read_table(path, ["frame_id", "uri", "path", "copy_of"]).to_pylist()
    }
    decisions = pq.read_table(f"{given.run_dir}/subsets/picture/decisions.parquet").to_pylist()
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in decisions:
        by_reason.setdefault(row["reason"], []).append(row)
    kept = {row["frame_id"] for row in by_reason["kept"]}
    duplicates = sorted(
        (row for row in by_reason["duplicate"] if row["because_of"] in kept), key=lambda row: row["similarity"]
    )
    step = max(1, len(duplicates) // COLUMNS)
    shown = duplicates[step // 2 :: step][:COLUMNS]
    left = [*by_reason["outlier"][: COLUMNS // 2], *by_reason["exact copy"][: COLUMNS // 2]]
    rows = [
        [(frames[row["because_of"]], "kept", KEPT) for row in shown],
        [
            (frames[row["frame_id"]], f"duplicate of the one above\ncosine {row['similarity']:.4f}", DROPPED)
            for row in shown
        ],
        [(frames[row["frame_id"]], caption(row), DROPPED) for row in left],
    ]
    figure, axes = plt.subplots(len(rows), COLUMNS, figsize=(11, 6.4), constrained_layout=True)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, entries in zip(axes, rows, strict=True):
        for axis, (frame, text, colour) in zip(line, entries, strict=False):
            axis.set_axis_on()
            axis.imshow(Image.open(io.BytesIO(Path(frame["uri"]).read_bytes())))
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(text, color=colour, fontsize=8)
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=2)
    counts = {reason: len(found) for reason, found in by_reason.items()}
    figure.suptitle(", ".join(f"{count} {reason}" for reason, count in counts.items()), fontsize=10)
    figure.savefig(given.output, dpi=90, pil_kwargs={"quality": 85})
    print(given.output, counts)


def caption(row: dict[str, Any]) -> str:
    """Why an outlier or an exact copy was dropped."""
    if row["reason"] == "outlier":
        return f"outlier, {row['centroid_distance']:.2f} from its centroid"
    return "exact copy of another file"


if __name__ == "__main__":
    main()
