"""Join the cluster that RAY_ADDRESS names, or start a local Ray; and how the process ends."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import ray

from curation.engine.resources import RETRIES


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start a local Ray; nothing where one is running already."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task warns about the future
    os.environ.setdefault("RAY_TASK_MAX_RETRIES", str(RETRIES))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it announces that it is on
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else actors announce how they would be restarted,
    with held_back_stderr():  # and the level announces itself
        if "RAY_ADDRESS" in os.environ:
            ray.init(logging_level=logging.WARNING)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)  # instead of Ray's C++ code, which prints a stack and aborts


def leave(number: int, _: Any) -> None:
    """End the process as Python does, so that a local Ray ends with it."""
    sys.exit(number)


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Keep what C++ code writes to stderr from the terminal, unless the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
