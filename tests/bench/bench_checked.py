"""What does it cost to compare a part with its marker's checksum? A part of embeddings, read with and without.

Floor: SHA-256 of the part's bytes in memory.
"""

import hashlib
import tempfile

import numpy as np
import pyarrow as pa
from harness import paired, report, seconds

from curation.store import schema
from curation.store.directory import Listed, RunDirectory

ROWS, DIMENSIONS = 2000, 768


def main() -> None:
    """Compare and report."""
    generator = np.random.default_rng(0)
    columns = schema.embeddings(DIMENSIONS, "float16")
    vectors = pa.array(generator.standard_normal(ROWS * DIMENSIONS).astype(np.float16))
    embedding = pa.FixedSizeListArray.from_arrays(vectors, type=columns.field("embedding").type)
    ids = pa.array([f"{number:032x}" for number in range(ROWS)])
    measures = [pa.array(np.zeros(ROWS, np.float32)) for _ in schema.MEASURES]
    table = pa.Table.from_arrays([ids, embedding, *measures], schema=columns)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        file = run.write_table("part.parquet", table)
        content, listed = run.read_bytes("part.parquet"), Listed(file)
        rows = []
        for name, wanted in (("all columns", None), ("id and vector", ["frame_id", "embedding"]), ("id", ["frame_id"])):
            checked, plain = paired(
                lambda wanted=wanted: run.read_table(listed, wanted),
                lambda wanted=wanted: run.read_table("part.parquet", wanted),
                repeats=31,
            )
            ratio = checked / plain
            rows.append({"columns": name, "plain ms": plain * 1e3, "checked ms": checked * 1e3, "ratio": ratio})
    least = seconds(lambda: hashlib.sha256(content).digest(), repeats=31)
    rate = f"{file.bytes / least / 1e9:.2f} GB/s"
    rows.append({"columns": f"floor: SHA-256 alone, {rate}", "plain ms": 0.0, "checked ms": least * 1e3, "ratio": 0.0})
    report("checked", rows, f"a part of {ROWS} vectors of {DIMENSIONS} float16 ({file.bytes / 1e6:.1f} MB), local disk")


if __name__ == "__main__":
    main()
