"""The files of a folder tree, each once, in an order that does not depend on the file system.

It reads names, sizes and times, never contents, and holds one folder's names at a time. On a local disk, links are
followed; OURS is the rule by which a file that can be reached in several ways is listed once, whatever the order.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from curation.store.filesystems import filesystem_of

APPLE_DOUBLE = "AppleDouble"
LEFTOVERS = frozenset(
    {
        ".ds_store",
        ".localized",
        "icon\r",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        ".directory",
    }
)
LEFT_FOLDERS = frozenset(
    {
        "__macosx",
        ".appledouble",
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        ".temporaryitems",
        ".documentrevisions-v100",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "@eadir",
        "#recycle",
        "#snapshot",
        ".snapshot",
        ".ipynb_checkpoints",
        "lost+found",
        ".git",
        ".svn",
        ".hg",
        ".dvc",
        ".datalad",
        ".thumbnails",
        "__pycache__",
    }
)
LEFT_BEFORE = ("~$", ".~lock", ".nfs", ".smbdelete", ".fuse_hidden", ".trash-")
LEFT_AFTER = ("_$folder$",)
ENTERED = "__macosx"  # its AppleDouble files are counted singly
NO_LINK, NOT_UTF8, NO_NAME = "link to nothing", "name is not UTF-8", "name cannot be requested"
LINK_DEPTH, WAYS = 8, 16  # nested links followed, and ways into one folder through nested links: folders that link to
# each other would otherwise be walked in every order
SPECIAL_FILES = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@dataclass(frozen=True)
class Found:
    """A file of a tree: its path below it, size, time, and a reason and message where it cannot be read."""

    path: str
    size: int
    mtime_ns: int | None = None
    problem: tuple[str, str] | None = None


@dataclass
class Passed:
    """What a walk passed over, counted: leftovers of operating systems by name, special files by kind, links."""

    leftovers: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)
    links: int = 0  # to files that are listed anyway
    loops: list[str] = field(default_factory=list)  # links to a folder that they lie in


def is_leftover(name: str) -> str | None:
    """The kind of what an operating system or a tool leaves in folders, by a file's or folder's name; else None."""
    low = name.lower()
    if name.startswith("._"):
        return APPLE_DOUBLE
    if low in LEFTOVERS or low in LEFT_FOLDERS:
        return name.strip()
    return next(
        (f"{part}..." for part in LEFT_BEFORE if low.startswith(part)),
        next((f"...{part}" for part in LEFT_AFTER if low.endswith(part)), None),
    )


def leftovers_in(path: str) -> bool:
    """Whether any component of a path is a leftover."""
    return any(is_leftover(name) for name in path.split("/"))


def printable(name: str) -> str:
    """A name as text that can be stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def walk(uri: str, lists: Callable[[str], bool], passed: Passed) -> Iterator[Found]:
    """The files below a folder in the order of their paths' components; what is passed over is counted in `passed`.

    `lists` says whether a path will be listed: a file that can be reached in several ways counts as a link wherever
    the way without links, or else the first way, is listed too.
    """
    system, root = filesystem_of(uri)
    if isinstance(system, pafs.LocalFileSystem):
        return LocalWalk(root, lists, passed).below(root, "", ())
    return walk_objects(system, root, "", passed)


def walk_objects(system: pafs.FileSystem, root: str, folder: str, passed: Passed) -> Iterator[Found]:
    """The same in object storage, where there are no links. Keys that PyArrow cannot request have a problem."""
    base = f"{root}/{folder}".rstrip("/")
    infos = system.get_file_info(pafs.FileSelector(base))
    if any(info.path.rstrip("/") == base for info in infos):  # what PyArrow shows of a folder without a name in it
        yield from nameless(system, base, folder)
        infos = [info for info in infos if info.path.rstrip("/") != base]
    for info in sorted(infos, key=lambda info: (info.base_name, info.type == pafs.FileType.Directory)):
        path = f"{folder}/{info.base_name}".lstrip("/")
        if kind := is_leftover(info.base_name):
            if info.type == pafs.FileType.Directory and info.base_name.lower() == ENTERED:
                yield from walk_objects(system, root, path, passed)
            else:
                passed.leftovers[kind] += 1
        elif info.type == pafs.FileType.Directory:
            yield from walk_objects(system, root, path, passed)
        elif info.type == pafs.FileType.File:
            yield Found(path, info.size, info.mtime_ns, key_problem(path))


def key_problem(path: str) -> tuple[str, str] | None:
    """The problem of a key with an empty, `.` or `..` component, which clients change when they send it; else None."""
    if any(name in ("", ".", "..") for name in path.split("/")):
        return NO_NAME, "the key has an empty component, or one that is . or ..; copy the object to another key"
    return None


def nameless(system: pafs.FileSystem, base: str, folder: str) -> Iterator[Found]:
    """The objects below a folder without a name (a//b), which only a recursive listing of its parent shows."""
    infos = system.get_file_info(pafs.FileSelector(base, recursive=True))
    for info in sorted(infos, key=lambda info: info.path.split("/")):
        rest = info.path[len(base) :]
        if info.type == pafs.FileType.File and rest.startswith("//"):
            path = f"{folder}{rest}" if folder else rest[1:]
            yield Found(path, info.size, info.mtime_ns, key_problem(path))


class LocalWalk:
    """A walk over a local tree that follows links."""

    def __init__(self, root: str, lists: Callable[[str], bool], passed: Passed) -> None:
        self.root = os.path.realpath(root)
        self.lists = lists
        self.passed = passed
        self.ways: dict[tuple[int, int], list[str]] = {}  # paths to folders reached through links, in order

    def below(self, folder: str, path: str, above: tuple[tuple[int, int], ...], links: int = 0) -> Iterator[Found]:
        """The files in a folder, `path` below the root, after the folders `above`, of which `links` are links."""
        status = os.stat(folder)
        above = (*above, (status.st_dev, status.st_ino))
        others = self.other_ways(folder, path, above[-1]) if links else []
        with os.scandir(folder) as entries:
            ordered = sorted((printable(entry.name), entry.name, entry.is_symlink()) for entry in entries)
        for name, raw, link in ordered:
            place, below = f"{folder}/{raw}", f"{path}/{name}" if path else name
            found = status_of(place)
            is_folder = found is not None and stat.S_ISDIR(found.st_mode)
            if (kind := is_leftover(name)) and not (is_folder and name.lower() == ENTERED):
                self.passed.leftovers[kind] += 1
            elif is_folder and found is not None:
                yield from self.enter(place, below, (found, above), links + link)
            elif found is None:
                yield Found(below, 0, None, self.dangling(place))
            elif not stat.S_ISREG(found.st_mode):
                self.passed.special[SPECIAL_FILES.get(stat.S_IFMT(found.st_mode), "special file")] += 1
            elif self.known(place, below, name, others, link):
                self.passed.links += 1
            else:
                yield Found(below, found.st_size, found.st_mtime_ns, not_utf8(place))

    def enter(
        self, place: str, path: str, where: tuple[os.stat_result, tuple[tuple[int, int], ...]], links: int
    ) -> Iterator[Found]:
        """The files of a folder in another, unless it is already on the way here."""
        found, above = where
        identity = (found.st_dev, found.st_ino)
        if identity in above or links > LINK_DEPTH or (links > 1 and len(self.ways.get(identity, [])) >= WAYS):
            self.passed.loops.append(path)
        else:
            yield from self.below(place, path, above, links)

    def other_ways(self, folder: str, path: str, identity: tuple[int, int]) -> list[str]:
        """The other paths to a folder reached through a link: the one without links, and those through earlier ones."""
        others = [way for way in [self.inside(os.path.realpath(folder))] if way is not None]
        earlier = self.ways.setdefault(identity, [])
        others += earlier
        earlier.append(path)
        return others

    def inside(self, place: str) -> str | None:
        """The path below the root of a place without links; None where it lies elsewhere."""
        if place == self.root:
            return ""
        return (
            printable(place[len(self.root.rstrip("/")) + 1 :])
            if place.startswith(f"{self.root.rstrip('/')}/")
            else None
        )

    def known(self, place: str, path: str, name: str, others: list[str], link: bool) -> bool:
        """Whether a file is listed under another path, by the rule stated in `walk`."""
        ways = [f"{other}/{name}".lstrip("/") for other in others]
        if link:
            real = self.inside(os.path.realpath(place))
            ways += [real] if real is not None else []
        return any(way != path and not leftovers_in(way) and self.lists(way) for way in ways)

    def dangling(self, place: str) -> tuple[str, str]:
        """Why a name leads to no file, and what to do."""
        target = printable(os.readlink(place)) if os.path.islink(place) else ""
        if not target:
            return NO_LINK, "the file is gone since its folder was listed"
        if "annex/objects/" in target:
            todo = "its content is not here: run `git annex get` or `datalad get` on it"
        else:
            todo = "restore or mount what it points to, or remove it"
        return NO_LINK, f"it points to {target}, which is not there; {todo}"


def status_of(place: str) -> os.stat_result | None:
    """The status of what a path leads to, through links; None for nothing. OSError where it cannot be read."""
    try:
        return os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        if os.path.islink(place) and not os.path.exists(place):  # links in a circle, or to an unreadable place
            return None
        raise


def not_utf8(place: str) -> tuple[str, str] | None:
    """The problem of a path that no table can hold; None where it is UTF-8."""
    if printable(place) == place:
        return None
    return NOT_UTF8, "its name is not UTF-8, which tables cannot hold; rename it (convmv renames whole trees)"
