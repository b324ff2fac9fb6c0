"""What picture files hold beyond the frame that is read: pages and animation frames, counted and named."""

import json
from dataclasses import asdict, dataclass
from typing import Any

FURTHER = "further_frames"  # in a row, but not a column of the table
EXAMPLES = 3  # files named in a message


@dataclass(frozen=True)
class Further:
    """Pages and animation frames beyond the first, which are not read: how many, in how many files, the first names."""

    frames: int = 0
    files: int = 0
    names: tuple[str, ...] = ()

    def __add__(self, other: "Further") -> "Further":
        names = (*self.names, *other.names)[:EXAMPLES]
        return Further(self.frames + other.frames, self.files + other.files, names)

    def describe(self) -> str:
        """Return it as a sentence without a full stop; empty where there are none."""
        if not self.frames:
            return ""
        more = ", ..." if self.files > len(self.names) else ""
        return (
            f"{self.frames} further pages or animation frames in {self.files} files were not read "
            f"({', '.join(self.names)}{more})"
        )

    def to_bytes(self) -> bytes:
        """Return it as JSON, for the metadata of a part."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Further":
        """Return what `to_bytes` wrote."""
        found = json.loads(content)
        return cls(found["frames"], found["files"], tuple(found["names"]))


def further_of(rows: list[dict[str, Any]]) -> Further:
    """The further frames of the files of rows of `frame_row`, in their order."""
    found = [row for row in rows if row[FURTHER]]
    names = tuple(f"{row['source']}/{row['path']}" for row in found[:EXAMPLES])
    return Further(sum(row[FURTHER] for row in found), len(found), names)
