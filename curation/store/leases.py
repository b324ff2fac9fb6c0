"""Who may write to a directory: one call at a time, in any process on any machine. It uses neither steps nor Ray.

Where a local file system locks files, the system's lock on `.lease.json` decides, and ends with its process; on a
network file system it reaches as far as that system's locks do. Elsewhere a claim with a heartbeat decides
(curation/store/claims.py).
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextvars import ContextVar

from curation.store.claims import Directory, Owner, claimed, owner_here, read_owner, refusal

LOCK = ".lease.json"
TRIES = 100
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOTTY}
HELD: ContextVar[frozenset[str]] = ContextVar("HELD", default=frozenset())  # directories that this call chain holds


@contextlib.contextmanager
def hold(directory: Directory) -> Iterator[None]:
    """Hold a directory, made where it is missing, until the block ends. A call chain may hold it several times over.

    A directory that was made here and is empty at the end is deleted again. ValueError, naming the owner, where
    another process or thread holds it, or where the lease was lost meanwhile.
    """
    key = f"{directory.filesystem.type_name}:{directory.root}"
    if key in HELD.get():
        yield
        return
    taken = locked(directory) if directory.filesystem.type_name == "local" else claimed(directory)
    with taken, borrowed(frozenset((key,))):
        yield


def current() -> frozenset[str]:
    """What this call chain holds, to pass to a process that works for it."""
    return HELD.get()


@contextlib.contextmanager
def borrowed(held: frozenset[str]) -> Iterator[None]:
    """Work, until the block ends, under what another call chain holds for as long."""
    before = HELD.get()
    HELD.set(before | held)
    try:
        yield
    finally:
        HELD.set(before)


@contextlib.contextmanager
def locked(directory: Directory) -> Iterator[None]:
    """Hold a local directory by the system's lock on a file in it; by a claim where it locks no files."""
    made = make_folder(directory.root)
    try:
        lock = take(directory)
        if lock is None:
            with claimed(directory):
                yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(f"{directory.root}/{LOCK}")  # while it is locked, so that nobody holds a deleted file
            os.close(lock)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it has something in it
                os.rmdir(folder)


def make_folder(folder: str) -> list[str]:
    """Make a local folder and those above it; return the new ones, the deepest first."""
    missing, above = [], folder
    while not os.path.isdir(above) and above != os.path.dirname(above):
        missing.append(above)
        above = os.path.dirname(above)
    make_folders(folder)
    return missing


def make_folders(folder: str) -> None:
    """Make a local folder and those above it, even while other calls delete them because they are empty."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(folder, exist_ok=True)
            return
    os.makedirs(folder, exist_ok=True)


def take(directory: Directory) -> int | None:
    """Lock the file in a local directory and write this process into it; its descriptor, or None without locks."""
    path = f"{directory.root}/{LOCK}"
    while True:
        make_folders(directory.root)  # an earlier holder may have deleted it just now
        lock = open_lock(path)
        if lock is None:
            continue
        if stat.S_ISDIR(os.fstat(lock).st_mode):
            return lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = owner_of(lock)
            os.close(lock)
            raise refusal(directory, owner) from None
        except OSError as error:
            os.close(lock)
            if error.errno not in NO_LOCKS:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                write_owner(lock)
                return lock
        os.close(lock)  # an earlier holder deleted it after it was opened here


def owner_of(lock: int) -> Owner | None:
    """Who holds a lock file; read for up to a second, since a holder writes itself into it after locking it."""
    for _ in range(20):
        if owner := read_owner(os.pread(lock, 4096, 0)):
            return owner
        time.sleep(0.05)
    return None


def open_lock(path: str) -> int | None:
    """Open the file to lock; None where its folder was deleted just now.

    Where this process may not write to the folder, the folder itself is opened: a step that would write fails anyway.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(path, os.O_RDONLY)  # another user's, who may hold it
    except FileNotFoundError:
        return os.open(os.path.dirname(path), os.O_RDONLY)


def write_owner(lock: int) -> None:
    """Write this process into a lock file, unless that is another user's."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(dataclasses.asdict(owner_here())).encode(), 0)
