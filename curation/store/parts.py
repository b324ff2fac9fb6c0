"""Names of the parts of tables, and how parts are grouped: the only place where a part is named."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def part_path(folder: str, number: int) -> str:
    """The path of part `number` of the table in a folder."""
    return f"{folder}/part-{number:06d}.parquet"


def rejected_path(number: int, step: str) -> str:
    """The path of the frames that `step` rejected while it made part `number`."""
    return f"rejected/part-{number:06d}-{step}.parquet"


def assignments_path(embeddings_path: str) -> str:
    """The path of the assignments of a part of embeddings."""
    return f"clusters/assignments/{embeddings_path.rpartition('/')[2]}"


def part_number(path: str, step: str | None = None) -> int | None:
    """The number of the part at a path, or of that whose frames `step` rejected; None where it is not such a part."""
    ending = "" if step is None else f"-{re.escape(step)}"
    match = re.fullmatch(rf"part-(\d+){ending}\.parquet", path.rpartition("/")[2])
    return int(match[1]) if match else None


def rows_of(part: dict[str, Any]) -> int:
    """Rows of a part as its marker lists it."""
    return int(part["rows"])


def grouped(items: Iterable[Item], size: int, by: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Cut `items` into consecutive groups: each ends as soon as its sizes, given by `by`, add up to `size`."""
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += by(item)
        if total >= size:
            yield group
            group, total = [], 0
    if group:
        yield group
