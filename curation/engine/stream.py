"""A bounded stream of tasks and their results."""

from collections.abc import Iterable, Iterator
from typing import Any

import ray

from curation.engine.resources import under_way


def stream(task: Any, calls: Iterable[tuple[Any, ...]], *, in_order: bool = False) -> Iterator[Any]:
    """Results of `task.remote(*call)`, as they arrive or in the order of the calls.

    At most two calls per CPU are under way (`under_way`), and `calls` is drawn from as results are taken, so nothing
    piles up. A call whose node is lost runs again on another.
    """
    pending: list[Any] = []
    for call in calls:
        pending.append(task.remote(*call))
        while len(pending) >= under_way():
            yield ray.get(next_of(pending, in_order))
    while pending:
        yield ray.get(next_of(pending, in_order))


def next_of(pending: list[Any], in_order: bool) -> Any:
    """Take the first reference, or the first one that is ready, out of `pending`."""
    reference = pending[0] if in_order else ray.wait(pending, num_returns=1)[0][0]
    pending.remove(reference)
    return reference
