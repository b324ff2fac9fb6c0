"""What all tests share: no time limit for properties, an interruption that arrives, one thread for torch."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a slow machine is not a wrong result
settings.load_profile("any machine")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background would have it ignored


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for a busy core cost far more here than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
