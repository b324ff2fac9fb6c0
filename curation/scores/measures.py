"""The column that decides which of two duplicates stays: of embeddings/ (image measures) or of frames/. Not on Ray."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.frames import copies
from curation.options import require
from curation.scores.duplicates import Measure
from curation.store import schema
from curation.store.directory import RunDirectory
from curation.store.parts import part_number


def check_column(run: RunDirectory, name: str) -> None:
    """ValueError, naming those there are, unless a column of numbers or of text exists; text is read as numbers."""
    [first, *_] = run.parts("embeddings").values()
    fields = [*(run.read_schema(first).field(one) for one in schema.MEASURES), *frames_schema(run)]
    usable = [one.name for one in fields if is_number(one.type) or pa.types.is_string(one.type)]
    numbers = [one.name for one in fields if is_number(one.type)]
    require(
        name in usable,
        f"keep names the column {name!r}, which {run.uri} has not; columns of numbers are {', '.join(numbers)}, and "
        "your metadata may hold more",
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def frames_schema(run: RunDirectory) -> pa.Schema:
    """The schema of frames/, with the user's metadata."""
    [first, *_] = run.parts("frames").values()
    return run.read_schema(first)


def read_measure(run: RunDirectory, path: str, frame_ids: list[str], name: str) -> Measure:
    """Return a column's values for the frames of a part of embeddings, float64 [N]; NaN where a frame has none.

    A name that both have is the image measure. ValueError, naming frame and value, where text is no number.
    """
    if name in schema.MEASURES:
        return finite(run.read_table(path, [name])[name].to_numpy())
    number = part_number(path)
    assert number is not None
    table = run.read_table(run.parts("frames")[number], ["frame_id", name])
    place = pc.index_in(pa.array(frame_ids, pa.string()), table["frame_id"].combine_chunks())
    values = numbers_in(table[name].combine_chunks().take(place), frame_ids, name)
    for row in np.flatnonzero(~np.asarray(place.is_valid())).tolist():
        values[row] = of_replacement(run, frame_ids[row], name)
    return values


def of_replacement(run: RunDirectory, frame_id: str, name: str) -> float:
    """Return the value of a frame that was embedded in the place of an exact copy, in another part of frames/."""
    with run.open(copies.INDEX) as file:
        [found] = pq.read_table(file, filters=[("frame_id", "=", frame_id)]).to_pylist()
    column = run.read_table(run.parts("frames")[found["part"]], [name])[name]
    return float(numbers_in(column.slice(found["row"], 1).combine_chunks(), [frame_id], name)[0])


def numbers_in(column: pa.Array, frame_ids: list[str], name: str) -> Measure:
    """Return a column of numbers, or of text that holds numbers, as float64 [N]; NaN for null, empty and not finite."""
    if not pa.types.is_string(column.type):
        return finite(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    trimmed = pc.utf8_trim_whitespace(column)
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    try:
        return finite(trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        row = next(row for row, text in enumerate(trimmed.to_pylist()) if not reads_as_number(text))
        raise ValueError(
            f"keep names the column {name!r}, which must hold numbers, and frame {frame_ids[row]} has "
            f"{column[row].as_py()!r} there; choose another column, or mend the table that it comes from"
        ) from None


def reads_as_number(text: str | None) -> bool:
    """Whether Arrow reads a text as a number; None is no text."""
    try:
        pa.array([text], pa.string()).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def finite(values_N: npt.NDArray[Any]) -> Measure:
    """Return numbers as float64 of their own memory, NaN where they are not finite."""
    values = np.array(values_N, np.float64)
    values[~np.isfinite(values)] = np.nan
    return values
