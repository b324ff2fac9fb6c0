"""Scores to a subset: which frames are kept, which dropped, and why. It does not use Ray.

With rule any and the nearest kept, a frame stays at (epsilon, d) exactly when its centroid distance is at most
epsilon and its duplicate similarity at most d: what epsilon drops comes later in the order than what stays, so it
never causes another removal. Two columns thus answer every (epsilon, d), and its subsets are nested. Thresholds
are compared in float32, the type of the columns.

Holds 28 bytes per scored frame in memory, 16 per kept one and 64 per one that embed rejected; tables are streamed.
"""

from typing import Any

import pyarrow.parquet as pq

from curation.console import StepSummary, Stopwatch
from curation.options import digest, hashed_fields
from curation.scores.recall import clause
from curation.store import schema
from curation.store.directory import RunDirectory, holding
from curation.store.markers import Step, marker_of
from curation.subsets import decisions
from curation.subsets.config import SelectConfig
from curation.subsets.rules import check_request, pass_of, reasons
from curation.subsets.scored import pool_bytes, pool_size, read_columns, recall_of


@holding
def select(config: SelectConfig) -> dict[str, Any]:
    """Write subsets/NAME/ (decisions.parquet, subset.json) and return the step's marker.

    ValueError: nothing to select by, the pass not scored yet, a budget that cannot be met, or a subset of that name
    made with other settings.
    """
    check_request(config)
    run = RunDirectory(config.run_dir)
    scored = pass_of(config)
    before = marker_of(run, scored.folder, "score")
    inputs = {"scores": before["output_hash"]}
    step = Step(run, "select", f"subsets/{config.name}", config, inputs)
    if marker := step.find():
        return marker | {"reused": True}
    watch = Stopwatch()
    columns, pool = read_columns(run, scored.folder), pool_size(run)
    reason, effective_d = reasons(columns, config, pool)
    step.begin()
    path = f"{step.folder}/decisions.parquet"
    counts = dict.fromkeys(schema.REASONS, 0)
    with run.create(path) as stream, pq.ParquetWriter(stream, schema.DECISIONS, compression="zstd") as writer:
        for table in decisions.tables(run, scored.folder, reason):
            writer.write_table(table)
            for item in table["reason"].value_counts().to_pylist():
                counts[item["values"]] += item["counts"]
    d = config.d if effective_d is None else effective_d
    found = recall_of(run, scored.folder, before, d) if config.compares and d is not None else None
    total = marker_of(run, "frames", "ingest")["rows_in"]
    assert sum(counts.values()) == total, f"{total} frames were listed, {sum(counts.values())} decided: {counts}"
    result = {
        "name": config.name,
        "pool": pool,
        "pool_bytes": pool_bytes(run),
        "kept": counts["kept"],
        "ratio": counts["kept"] / pool,
        "counts": counts,
        "effective_d": effective_d,
        "recall": found,
        "config": hashed_fields(config),
        "digest": digest([hashed_fields(config), inputs]),
    }
    run.write_json(f"{step.folder}/subset.json", result)
    note = f"{config.name} keeps {counts['kept']} of {pool} frames ({counts['kept'] / pool:.2%}); " + ", ".join(
        f"{count} {reason}" for reason, count in counts.items() if reason != "kept"
    )
    note += "; a budget of 1 keeps all that was left" if config.budget == 1 else ""
    note += f"; recall of duplicates at {clause(found)} in a sample" if found else ""
    summary = StepSummary(
        rows_in=total,
        rows_out=counts["kept"],
        rejected=counts["rejected"],
        copies=counts["exact copy"] + counts["near copy"],
        seconds=watch.seconds,
        note=note,
    )
    return step.finish(summary, [run.describe(path)], {"recall": found} if found else {})
