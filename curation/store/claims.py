"""Claims to a directory where the file system has no locks, as in object storage. It uses neither steps nor Ray.

Every call that wants the directory writes its own claim, waits SETTLE_S and lists all claims: the earliest that is
alive holds, by the store's clock and then by id. A claim is alive while it or its heartbeat, a second file, is younger
than EXPIRY_S by that same clock, unless its process is known to have ended. A later call watches it until it beats, and
gives up, or expires, and takes over: so the command of a machine that died goes on where it is given again at once.
(The protocol is OURS.)

Guaranteed: of calls that start at once exactly one holds, where a listing shows all that was written before it and the
clocks of the store's servers differ by less than SETTLE_S less the second that times are rounded to. No conditional
put is needed. A holder that stands still for more than EXPIRY_S (a suspended machine) can lose the directory to
another call; it notices at its next heartbeat, and ends with an error.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow.fs as pafs

from curation.console import warn

CLAIM = re.compile(r"\.lease-([0-9a-f]{32})\.json")
BEAT_S = 15.0
EXPIRY_S = 90.0
SETTLE_S = 2.0
IN_MEMORY = "py::fsspec+memory"  # fsspec's, of one process: its times are exact, so nothing has to settle


class Directory(Protocol):
    """What a lease needs of a run directory."""

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Where it is."""

    @property
    def root(self) -> str:
        """Its path there."""

    @property
    def uri(self) -> str:
        """How it is written in messages."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file below it."""

    def holds_files(self, folder: str) -> bool:
        """Whether there is any file in a folder."""

    def read_bytes(self, path: str) -> bytes:
        """The content of a file."""

    def write_json(self, path: str, value: Any) -> None:
        """Put a JSON file there, whole or not at all."""

    def delete(self, path: str) -> None:
        """Delete one file."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process behind a lease. `machine` distinguishes hosts and containers of one name; `since` is UTC seconds."""

    id: str
    host: str
    machine: str
    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        """The owner as messages name it."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.command}, process {self.pid} on {self.host}, since {since}"

    @property
    def alive(self) -> bool | None:
        """Whether it runs on this machine; None where that cannot be seen, since it was begun on another one."""
        if self.machine != machine() or not self.machine:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def owner_here() -> Owner:
    """Describe this process. Of its command line only the command is kept, since flags can hold secrets."""
    program, *arguments = sys.argv or [""]
    folder, name = os.path.split(program)
    command = f"python -m {os.path.basename(folder)}" if name == "__main__.py" else name or "python"
    if name == "__main__.py" and arguments and arguments[0].isalpha():
        command += f" {arguments[0]}"
    return Owner(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), command, time.time())


def machine() -> str:
    """What processes that see each other's ids have in common: this boot of the system, and the namespace of ids."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def read_owner(content: bytes) -> Owner | None:
    """The owner that a lease names; None where it is only half-written."""
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def refusal(directory: Directory, owner: Owner | None) -> ValueError:
    """The error that says who holds a directory."""
    who = f": {owner}" if owner else ""
    return ValueError(f"{directory.uri} is in use by another process{who}; wait until it ends, or name another one")


@contextlib.contextmanager
def claimed(directory: Directory) -> Iterator[None]:
    """Hold a directory by a claim with a heartbeat. ValueError where an earlier one is alive, or this one was lost."""
    existed = directory.exists("")
    claim = Claim(directory, owner_here())
    try:
        claim.win()
        beating = threading.Thread(target=claim.beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            claim.over.set()
            beating.join(timeout=10)
        if claim.lost:
            raise ValueError(
                f"the lease on {directory.uri} was lost: this process stood still for more than {EXPIRY_S:.0f} s and "
                "another may have written there since; wait until that one ends, then rerun the same command"
            )
    finally:
        claim.withdraw()
        if not existed and not directory.holds_files(""):
            with contextlib.suppress(OSError):
                directory.filesystem.delete_dir(directory.root)


class Claim:
    """One call's claim to a directory."""

    def __init__(self, directory: Directory, owner: Owner) -> None:
        self.directory, self.owner = directory, owner
        self.over, self.lost = threading.Event(), False

    @property
    def path(self) -> str:
        """The path of the claim."""
        return f".lease-{self.owner.id}.json"

    def win(self) -> None:
        """Claim the directory. ValueError where an earlier claim is alive; what may be is watched until it shows."""
        place: tuple[float, str] | None = None
        while place is None:  # again where a claim was deleted, as with a directory that was found empty
            self.directory.write_json(self.path, dataclasses.asdict(self.owner))
            time.sleep(0 if self.directory.filesystem.type_name == IN_MEMORY else SETTLE_S)
            found = claim_times(self.directory)
            place = (found[self.path], self.owner.id) if self.path in found else None
        first: dict[str, float] = {}
        while earlier := self.earlier(place, found):
            name, owner, beat = earlier
            if beat > first.get(name, beat) or (owner and owner.alive):
                raise refusal(self.directory, owner)
            if not first:
                who = owner or "another process"
                warn(f"{self.directory.uri} is held by {who}: waiting for up to {EXPIRY_S:.0f} s to see if that lives")
            first.setdefault(name, beat)
            time.sleep(BEAT_S / 5)
            self.directory.write_json(heartbeat(self.owner.id), {"at": time.time()})
            found = claim_times(self.directory)

    def earlier(self, place: tuple[float, str], found: dict[str, float]) -> tuple[str, Owner | None, float] | None:
        """An earlier claim that may be alive: name, owner and last heartbeat. Those that cannot be are deleted."""
        now = max(place[0], found.get(heartbeat(self.owner.id), 0.0))
        for name, at in found.items():
            match = CLAIM.fullmatch(name)
            if match is None or match[1] == self.owner.id:
                continue
            with contextlib.suppress(FileNotFoundError):
                other = read_owner(read_claim(self.directory, name))
                beat = max(at, found.get(heartbeat(match[1]), at))
                if now - beat > EXPIRY_S or (other and other.alive is False):
                    delete_claims(self.directory, heartbeat(match[1]), name)
                elif (at, match[1]) < place:
                    return name, other, beat
        return None

    def beat(self) -> None:
        """Renew the heartbeat until it is over. A renewal that fails is tried again at the next beat."""
        while not self.over.wait(BEAT_S):
            with contextlib.suppress(OSError):
                if not self.directory.exists(self.path):
                    self.lost = True
                    return
                self.directory.write_json(heartbeat(self.owner.id), {"at": time.time()})

    def withdraw(self) -> None:
        """Delete the claim."""
        delete_claims(self.directory, heartbeat(self.owner.id), self.path)


@dataclasses.dataclass(frozen=True)
class Standing:
    """A claim that is there: whose, and when its last heartbeat was, by the store's clock."""

    owner: Owner
    beat: float


def standing(directory: Directory) -> list[Standing]:
    """The claims to a directory, the earliest first; the first that is alive holds it."""
    found, claims = claim_times(directory), list[tuple[float, str, Standing]]()
    for name, at in found.items():
        if match := CLAIM.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                if owner := read_owner(read_claim(directory, name)):
                    claims.append((at, match[1], Standing(owner, max(at, found.get(heartbeat(match[1]), at)))))
    return [claim for *_, claim in sorted(claims, key=lambda entry: entry[:2])]


def heartbeat(claim: str) -> str:
    """The path of a claim's heartbeat."""
    return f".lease-{claim}.beat"


def read_claim(directory: Directory, name: str) -> bytes:
    """All of a lease file. FileNotFoundError where it is gone: PyArrow raises other errors once it began to read."""
    try:
        return directory.read_bytes(name)
    except OSError as error:
        if directory.exists(name):
            raise
        raise FileNotFoundError(f"{directory.uri}/{name} is gone") from error


def delete_claims(directory: Directory, *paths: str) -> None:
    """Delete those of some files that exist."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if directory.exists(path):
                directory.delete(path)


def claim_times(directory: Directory) -> dict[str, float]:
    """When each lease file in a directory was written, by the store's clock, in seconds."""
    system = directory.filesystem
    if isinstance(system, pafs.PyFileSystem):
        system.handler.fs.invalidate_cache()  # else some return an old listing
    found = system.get_file_info(pafs.FileSelector(directory.root, allow_not_found=True))
    seconds: dict[str, float] = {}
    for info in found:
        if info.base_name.startswith(".lease-"):
            with contextlib.suppress(FileNotFoundError):  # withdrawn since it was listed
                seconds[info.base_name] = written_at(directory, info)
    return seconds


def written_at(directory: Directory, info: pafs.FileInfo) -> float:
    """When a lease file was written; by its writer's clock where the store reports no times."""
    if info.mtime_ns:
        return float(info.mtime_ns / 1e9)
    try:
        return float(directory.filesystem.handler.fs.modified(info.path).timestamp())
    except NotImplementedError:
        content: dict[str, Any] = json.loads(read_claim(directory, info.base_name))
        return float(content.get("at") or content["since"])
