"""Where frames come from: named folder trees, how they are written, and the identity of the files in them.

It does not walk the trees; curation/sources/folder.py does.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from curation.options import require
from curation.sources.pools import POOLS, Pool
from curation.store.filesystems import absolute, check_lasting, filesystem_of, scheme_of

NAME = "[A-Za-z0-9._-]+"
NAME_AND_PATH = re.compile(rf"({NAME})=(.+)", re.DOTALL)
MOUNTS = ("/mnt", "/media", "/run/media", "/Volumes", "/net", "/autofs")


@dataclass(frozen=True)
class Source:
    """A named folder tree, and its public pool where the user named one."""

    name: str
    uri: str
    pool: Pool | None = None

    @property
    def text(self) -> str:
        """NAME=URI, or the URI alone where that is enough: parsing it gives this source again, anywhere."""
        bare = self.pool is None and (self.name in POOLS or re.fullmatch(NAME, self.name) is None)
        return self.uri if bare else f"{self.name}={self.uri}"


@dataclass(frozen=True)
class Entry:
    """One image file: its place below the source, where its bytes are, how many, when they were written.

    `problem` is why it cannot be read, where that is known beforehand: a reason and a message.
    """

    source: str
    path: str
    uri: str
    size: int
    mtime_ns: int | None = None
    problem: tuple[str, str] | None = None


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Sources by name, from PATH or NAME=PATH. An existing path is read as PATH, also with a = in it.

    ValueError where two share a name, or one has a name that cannot be stored.
    """
    sources: dict[str, Source] = {}
    for text in texts:
        source = parse_source(text)
        require(
            source.name not in sources,
            f"two sources are named {source.name!r} ({sources.get(source.name, source).uri} and {source.uri}); "
            "give each a name of its own with NAME=PATH",
        )
        sources[source.name] = source
    return [sources[name] for name in sorted(sources)]


def parse_source(text: str) -> Source:
    """One source, from PATH or NAME=PATH. ValueError as `parse_sources`."""
    named = NAME_AND_PATH.fullmatch(text)
    if named and scheme_of(text) is None and os.path.exists(os.path.expanduser(text)):
        named = None
    uri = absolute(named[2] if named else text)
    _, path = filesystem_of(uri)
    check_lasting(path)
    name = named[1] if named else path.rpartition("/")[2]
    require(name != "", f"source {text} has no name of its own; name it with NAME={text}")
    shown = os.fsencode(uri).decode("utf-8", "backslashreplace")
    require(
        shown == uri,
        f"source {shown} has a name that is not UTF-8, which tables cannot hold; make a link with another name to it",
    )
    return Source(name, uri, POOLS.get(name) if named else None)


def readings(texts: Sequence[str]) -> list[str]:
    """Warnings of sources that can be read in two ways, since both folders exist."""
    return [
        f"source {text} is read as the existing folder of this name, not as the folder {named[2]} under the name "
        f"{named[1]}; for that, give {named[1]}=./{named[2]}"
        for text in texts
        if scheme_of(text) is None
        and (named := NAME_AND_PATH.fullmatch(text)) is not None
        and os.path.exists(os.path.expanduser(text))
        and os.path.exists(os.path.expanduser(named[2]))
    ]


def same(one: str, other: str) -> bool:
    """Whether two texts mean one source: the same name and folder, through whatever links."""
    if one == other:
        return True
    parts = [(named[1], named[2]) if (named := NAME_AND_PATH.fullmatch(text)) else ("", text) for text in (one, other)]
    local = [uri.startswith("/") for _, uri in parts]
    return all(local) and parts[0][0] == parts[1][0] and len({os.path.realpath(uri) for _, uri in parts}) == 1


def check_there(sources: Sequence[Source]) -> None:
    """ValueError where a source is missing, saying whether a disk may not be mounted, or is not a folder."""
    for source in sources:
        system, path = filesystem_of(source.uri)
        found = system.get_file_info(path).type
        hint = unmounted(path) if isinstance(system, pafs.LocalFileSystem) else ""
        require(found != pafs.FileType.NotFound, f"source {source.uri} does not exist{hint}")
        require(
            found == pafs.FileType.Directory,
            f"source {source.uri} is not a folder; a source is a tree of image files",
        )


def unmounted(path: str) -> str:
    """A clause where a local path is missing or empty, as if its disk were not mounted; otherwise empty."""
    there = path
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    if there == "/" or not os.access(there, os.R_OK | os.X_OK):
        return ""
    empty = not os.listdir(there)
    usual = any(f"{there}/".startswith(f"{mount}/") for mount in MOUNTS) and not os.path.ismount(there)
    if not empty and (there == path or not usual):
        return ""
    return f" ({there} {'is empty' if empty else 'is there'}: is a disk or share not mounted there yet?)"


def missing(sources: Sequence[Source]) -> dict[str, str]:
    """Names of the sources that cannot be listed now, each with what was found instead."""
    found: dict[str, str] = {}
    for source in sources:
        system, path = filesystem_of(source.uri)
        try:
            kind = system.get_file_info(path).type
            local = isinstance(system, pafs.LocalFileSystem)
            if kind != pafs.FileType.Directory:
                found[source.name] = f"source {source.uri} is not there{unmounted(path) if local else ''}"
            elif local and not os.listdir(path):
                found[source.name] = f"source {source.uri} is empty{unmounted(path)}"
        except OSError as error:
            found[source.name] = f"source {source.uri} cannot be listed ({error})"
    return found
