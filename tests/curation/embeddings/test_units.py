"""Units: parts in their order, the last ones cut, and each chunk in exactly one of them."""

from hypothesis import given
from hypothesis import strategies as st

from curation.embeddings.units import LAST, SLICES, Unit, cut
from curation.store.directory import File


def files(rows: list[int]) -> list[File]:
    return [File(f"frames/part-{number:06d}.parquet", count, 1, "x") for number, count in enumerate(rows)]


def test_by_hand() -> None:
    units = list(cut(files([10] * 5 + [7]), chunk_rows=2, encoders=2))
    assert [(unit.part, unit.slice, unit.slices, unit.first, unit.end) for unit in units[:4]] == [
        (0, 0, 1, 0, 5),
        (1, 0, 1, 0, 5),
        (2, 0, 5, 0, 1),
        (2, 1, 5, 1, 2),
    ]
    assert [unit.slices for unit in units if unit.part == 5] == [4] * 4


def test_one_encoder_and_a_small_run() -> None:
    assert [unit.slices for unit in cut(files([100, 100]), 10, 1)] == [1, 1]
    assert len(list(cut(files([2000]), 64, 2))) == SLICES * 2
    assert list(cut(files([]), 64, 2)) == []
    [unit] = cut(files([0]), 64, 2)
    assert (unit.slices, unit.first, unit.end) == (1, 0, 1)


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 70), st.integers(1, 9))
def test_each_chunk_is_in_one_unit(rows: list[int], chunk_rows: int, encoders: int) -> None:
    given_files = files(rows)
    units = list(cut(given_files, chunk_rows, encoders))
    assert [Unit.from_row(unit.to_row()) for unit in units] == units
    for number, file in enumerate(given_files):
        of_part = [unit for unit in units if unit.part == number]
        assert {unit.file for unit in of_part} == {file}
        assert [unit.slice for unit in of_part] == list(range(len(of_part)))
        assert {unit.slices for unit in of_part} == {len(of_part)}
        chunks = [chunk for unit in of_part for chunk in range(unit.first, unit.end)]
        assert chunks == list(range(max(1, -(-file.rows // chunk_rows))))
        assert len(of_part) == 1 or number >= len(rows) - LAST * encoders
    assert [unit.part for unit in units] == sorted(unit.part for unit in units)
