"""The column that decides which of two stays: read from a run, ordered, and refused where it does not exist."""

import numpy as np
import pyarrow as pa
import pytest

from curation.scores import duplicates, measures
from curation.store import schema
from curation.store.directory import RunDirectory

IDS = [f"{number:032x}" for number in range(4)]


@pytest.fixture
def measured(run: RunDirectory) -> RunDirectory:
    """Two parts of frames; the first one's embeddings hold frame 3 of the second in place of its own frame 1."""
    rows = [
        {"source": "s", "uri": "u", "path": "p", "content_hash": "h", "byte_size": 1, "frame_id": IDS[number]}
        | {"width": 10 * number, "grade": grade, "note": "good"}
        for number, grade in enumerate((" 2.5", "-1", "", "1e3"))
    ]
    columns = schema.frames(("grade", "note"))
    for part, some in enumerate((rows[:2], rows[2:])):
        run.write_table(f"frames/part-00000{part}.parquet", pa.Table.from_pylist(some, columns))
    index = [{"content_hash": "h", "part": 1, "row": 1, "frame_id": IDS[3]}]
    run.write_table("frames/copies/part-000000.parquet", pa.Table.from_pylist(index, schema.COPIES))
    for part, frames in enumerate(([0, 3], [2])):
        row = dict.fromkeys(schema.MEASURES, 0.5) | {"embedding": [1.0, 0.0]}
        table = [row | {"frame_id": IDS[number], "sharpness": number / 8} for number in frames]
        made = pa.Table.from_pylist(table, schema.embeddings(2, "float32"))
        run.write_table(f"embeddings/part-00000{part}.parquet", made)
    return run


def test_columns_of_embeddings_and_of_frames_are_read_for_each_embedded_frame(measured: RunDirectory) -> None:
    first, second = "embeddings/part-000000.parquet", "embeddings/part-000001.parquet"
    for name, of_first, of_second in (
        ("sharpness", [0, 3 / 8], [2 / 8]),
        ("width", [0, 30], [20]),
        ("grade", [2.5, 1000], [np.nan]),
        ("timestamp_s", [np.nan, np.nan], [np.nan]),
    ):
        measures.check_column(measured, name)
        np.testing.assert_array_equal(measures.read_measure(measured, first, [IDS[0], IDS[3]], name), of_first)
        np.testing.assert_array_equal(measures.read_measure(measured, second, [IDS[2]], name), of_second)


def test_what_is_no_column_of_numbers_is_refused(measured: RunDirectory) -> None:
    with pytest.raises(ValueError, match=r"keep names the column 'blur', which .* has not; columns .* sharpness"):
        measures.check_column(measured, "blur")
    with pytest.raises(ValueError, match="keep names the column 'embedding'"):
        measures.check_column(measured, "embedding")
    with pytest.raises(ValueError, match=f"'note', which must hold numbers, and frame {IDS[0]} has 'good' there"):
        measures.read_measure(measured, "embeddings/part-000000.parquet", [IDS[0], IDS[3]], "note")


def test_the_better_comes_first_and_frames_without_a_value_last() -> None:
    value, keys = np.array([1.0, np.nan, 3.0, 3.0, -np.inf]), np.array([9, 1, 8, 2, 0], np.uint64)
    value = measures.finite(value)
    zero = np.zeros(5, np.float32)
    assert duplicates.visiting_order(zero, keys, "highest:x", 0, value).tolist() == [3, 2, 0, 4, 1]
    assert duplicates.visiting_order(zero, keys, "lowest:x", 0, value).tolist() == [0, 3, 2, 4, 1]
