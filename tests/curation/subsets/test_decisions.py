"""What `select` leaves of a scored run: a reason for every frame, what it gave way to, and the grid of sizes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.console import StepSummary
from curation.embeddings.vectors import keys_of
from curation.sources.config import IngestConfig
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.markers import Step
from curation.subsets import grid, scored, select
from curation.subsets.config import SelectConfig

IDS = [f"{number:016x}{0:016x}" for number in range(7)]


@pytest.fixture
def scored_run(tmp_path: Path) -> RunDirectory:
    """Seven files: 4 scored in two parts, an exact copy of frame 1, and two rejected ones."""
    run = RunDirectory(str(tmp_path))
    frames = [
        {"frame_id": IDS[row], "source": "s", "uri": "u", "path": "p", "content_hash": "h", "byte_size": 1}
        | {"copy_of": IDS[1] if row == 4 else None}
        for row in range(5)
    ]
    run.write_table("frames/part-000000.parquet", pa.Table.from_pylist(frames, schema.FRAMES))
    lost = {}
    for row, step in ((5, "ingest"), (6, "embed")):
        one = dict.fromkeys(schema.REJECTED.names, "x") | {"frame_id": IDS[row], "step": step, "replaced_by": None}
        table = pa.Table.from_pylist([one], schema.REJECTED)
        lost[step] = [run.write_table(f"rejected/part-000000-{step}.parquet", table)]
    scores = [
        [(IDS[2], 0, 0.1, -1.0, None), (IDS[0], 0, 0.2, 0.98, IDS[2])],
        [(IDS[3], 1, 0.3, -1.0, None), (IDS[1], 1, 0.95, 0.5, IDS[3])],
    ]
    files = [
        run.write_table(
            f"scores/part-{number:06d}.parquet",
            pa.Table.from_pylist([dict(zip(schema.SCORES.names, row, strict=True)) for row in rows], schema.SCORES),
        )
        for number, rows in enumerate(scores)
    ]
    unused = IngestConfig(run_dir=str(tmp_path), source=("s",))
    Step(run, "ingest", "frames", unused, {}).finish(StepSummary(rows_in=7, rows_out=7, seconds=0.0), lost["ingest"])
    Step(run, "embed", "embeddings", unused, {}).finish(
        StepSummary(rows_in=5, rows_out=4, copies=1, seconds=0.0), lost["embed"]
    )
    Step(run, "score", "scores", unused, {}).finish(StepSummary(rows_in=4, rows_out=4, seconds=0.0), files)
    return run


def decided(run: RunDirectory, **values: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    marker = select.select(SelectConfig(run_dir=run.uri, name="x", **values))
    table = run.read_table("subsets/x/decisions.parquet")
    assert table.schema == schema.DECISIONS
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(rows) == len({row[0] for row in rows}) == 7
    return marker, {row[0]: row[1:] for row in rows}


def test_select_names_a_reason_for_every_frame(scored_run: RunDirectory) -> None:
    marker, rows = decided(scored_run, d=0.9)
    near = pytest.approx
    assert rows[IDS[2]] == (True, "kept", None, None, near(0.1), 0)
    assert rows[IDS[0]] == (False, "duplicate", IDS[2], near(0.98), near(0.2), 0)
    assert rows[IDS[3]] == (True, "kept", None, None, near(0.3), 1)
    assert rows[IDS[1]] == (False, "outlier", None, None, near(0.95), 1)
    assert rows[IDS[4]] == (False, "exact copy", IDS[1], 1.0, None, None)
    assert rows[IDS[5]] == rows[IDS[6]] == (False, "rejected", None, None, None, None)
    subset = scored_run.read_json("subsets/x/subset.json")
    assert (subset["pool"], subset["kept"], subset["ratio"], subset["effective_d"]) == (5, 2, 0.4, None)
    assert subset["counts"] == {
        "kept": 2,
        "outlier": 1,
        "duplicate": 1,
        "exact copy": 1,
        "near copy": 0,
        "over budget": 0,
        "rejected": 2,
    }
    assert (marker["rows_in"], marker["rows_out"], marker["rejected"], marker["copies"]) == (7, 2, 2, 1)


def test_select_by_budget_names_what_a_frame_gave_way_to(scored_run: RunDirectory) -> None:
    _, rows = decided(scored_run, budget=0.4, epsilon=2.0)
    assert [rows[IDS[row]][1] for row in range(4)] == ["over budget", "over budget", "kept", "kept"]
    assert rows[IDS[0]][2:4] == (IDS[2], pytest.approx(0.98))
    assert rows[IDS[1]][2:4] == (IDS[3], pytest.approx(0.5))
    subset = scored_run.read_json("subsets/x/subset.json")
    assert (subset["kept"], subset["effective_d"]) == (2, -1.0)


def test_select_again_reuses_and_refuses_other_settings(scored_run: RunDirectory) -> None:
    first, _ = decided(scored_run, d=0.9)
    before = scored_run.read_bytes("subsets/x/decisions.parquet")
    again, _ = decided(scored_run, d=0.9)
    assert again == first | {"reused": True}
    with pytest.raises(ValueError, match=r"d was 0\.9, now 0\.8"):
        decided(scored_run, d=0.8)
    assert scored_run.read_bytes("subsets/x/decisions.parquet") == before
    with pytest.raises(ValueError, match=r"scores/farthest_any_epsilon-0.9 is missing .* curation score"):
        select.select(SelectConfig(run_dir=scored_run.uri, d=0.9, keep="farthest"))


def test_columns_and_grid_of_a_run(scored_run: RunDirectory) -> None:
    columns = scored.read_columns(scored_run, "scores")
    assert columns.keys.tolist() == keys_of([IDS[2], IDS[0], IDS[3], IDS[1]]).tolist() == [2, 0, 3, 1]
    assert columns.similarity.tolist() == pytest.approx([-1, 0.98, -1, 0.5])
    assert columns.distance.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.95])
    assert columns.cluster.tolist() == [0, 0, 1, 1]
    text = grid.size_table(SelectConfig(run_dir=scored_run.uri, grid=True, grid_epsilon=(0.15, 2.0), grid_d=(0.4, 0.9)))
    numbers = [line.split() for line in text.splitlines()[2:]]
    assert [(row[0], row[1], row[-2]) for row in (" ".join(line).replace("(", "").split() for line in numbers)] == [
        ("0.15", "1", "1"),
        ("2", "2", "3"),
    ]
    assert "of 5" in text.splitlines()[0]


def scored_anew(run: RunDirectory, *tables: pa.Table) -> None:
    """Other parts of scores, listed by a marker of their own."""
    files = [run.write_table(f"scores/part-{number:06d}.parquet", table) for number, table in enumerate(tables)]
    unused = IngestConfig(run_dir=run.uri, source=("s",))
    Step(run, "score", "scores", unused, {}).finish(StepSummary(rows_in=4, rows_out=4, seconds=0.0), files)


def test_scores_that_are_no_numbers_are_refused(scored_run: RunDirectory) -> None:
    table = scored_run.read_table("scores/part-000001.parquet")
    place = table.schema.get_field_index("duplicate_similarity")
    spoilt = table.set_column(place, table.schema.field(place), pa.array([-1.0, float("nan")], pa.float32()))
    scored_anew(scored_run, scored_run.read_table("scores/part-000000.parquet"), spoilt)
    with pytest.raises(ValueError, match=f"scores/part-000001.parquet: duplicate_similarity of frame {IDS[1]} is not"):
        select.select(SelectConfig(run_dir=scored_run.uri, name="x", d=0.9))


def test_parts_of_scores_do_not_show_in_decisions(scored_run: RunDirectory) -> None:
    decided(scored_run, d=0.9)
    before = scored_run.read_bytes("subsets/x/decisions.parquet")
    whole = pa.concat_tables([scored_run.read_table(path) for path in scored_run.parts("scores").values()])
    scored_anew(scored_run, whole, whole.slice(4))
    config = SelectConfig(run_dir=scored_run.uri, name="other", d=0.9)
    select.select(config)
    assert scored_run.read_bytes("subsets/other/decisions.parquet") == before
