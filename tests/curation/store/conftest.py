"""What tests of leases share: taking a directory, here and in another thread."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from curation.store.directory import RunDirectory


@pytest.fixture(scope="session")
def take() -> Callable[[RunDirectory], None]:
    """take(run): hold a directory and let it go."""

    def hold(place: RunDirectory) -> None:
        with place.lock():
            pass

    return hold


@pytest.fixture(scope="session")
def in_thread() -> Callable[[Callable[[], Any]], str]:
    """in_thread(work): what a thread of its own raises, or ''."""

    def run(work: Callable[[], Any]) -> str:
        found: list[str] = []

        def call() -> None:
            try:
                work()
            except ValueError as error:
                found.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return "".join(found)

    return run
