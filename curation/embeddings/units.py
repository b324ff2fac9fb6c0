"""What an encoder is given at once: a part of frames, or a slice of one of the last parts, so that all end together.

A part's originals are encoded in chunks of `chunk_rows`, whatever unit they are in: where parts are cut does not show
in a table. It knows neither Ray nor PyTorch.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curation.store.directory import File, Listed
from curation.store.parts import part_number

LAST = 2  # parts for each encoder that are cut into slices: the last ones (OURS)
SLICES = 16  # for each encoder, at least, of those parts together, where they have so many chunks (OURS)


@dataclass(frozen=True)
class Unit:
    """Chunks `first` to `end` (exclusive) of a part of frames; `slices` is in how many units the part is, 1: whole."""

    file: File
    slice: int
    slices: int
    first: int
    end: int

    @property
    def part(self) -> int:
        """The part's number."""
        number = part_number(self.file.path)
        assert number is not None
        return number

    @property
    def path(self) -> Listed:
        """The part's path, with what its marker says of it."""
        return Listed(self.file)

    def to_row(self) -> dict[str, Any]:
        """The unit as a flat row."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "file"}
        return vars(self.file) | own

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Unit":
        """The unit of a row of `to_row`."""
        of_file = {field.name for field in dataclasses.fields(File)}
        file = File(**{name: row[name] for name in of_file})
        return cls(file, **{name: value for name, value in row.items() if name not in of_file})


def cut(files: list[File], chunk_rows: int, encoders: int) -> Iterator[Unit]:
    """Units of some parts of frames, in their order.

    Parts are whole but for the last LAST for each encoder, if there are several. A part has as many chunks as its rows
    fill; where some are exact copies the last slices are empty.
    """
    sliced = min(len(files), LAST * encoders) if encoders > 1 else 0
    for place, file in enumerate(files):
        chunks = max(1, -(-file.rows // chunk_rows))
        wanted = -(-SLICES * encoders // sliced) if place >= len(files) - sliced else 1
        size = -(-chunks // wanted)
        slices = -(-chunks // size)
        for number in range(slices):
            yield Unit(file, number, slices, number * size, min((number + 1) * size, chunks))
