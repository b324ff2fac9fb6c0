"""Masks of frames: where each is, by a rule on the frame's path, and its bytes. It does not use Ray.

A rule is FIND=>REPLACE: a regular expression and what stands for each of its matches in the path of a mask. Both paths
are below the same source. A frame whose path has no match has no mask, and so has one without such a file.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow.fs as pafs

from curation.exports.config import mask_rule
from curation.frames import decoding
from curation.frames.frame import MISSING, read_bytes
from curation.options import require
from curation.store.filesystems import STORES, address_of, filesystem_of, scheme_of


def mask_path(rule: str, path: str) -> str | None:
    """The path of the mask of the frame at `path`; None where the rule finds nothing in it, or changes nothing.

    ValueError where the mask's path would lead out of the source.
    """
    find, put = mask_rule(rule)
    made, matches = find.subn(put, path)
    if not matches or made == path:
        return None
    plain = posixpath.normpath(made)
    require(
        not made.startswith("/") and plain.split("/")[0] not in ("..", "."),
        f"mask makes {made!r} of the path {path!r}, which is not below the frame's source; give another rule",
    )
    return plain


def mask_uri(uri: str, path: str, mask: str) -> str:
    """The address of the file at `mask` below the source of the frame at `path`, whose address is `uri`."""
    if scheme_of(uri) in STORES:
        place = address_of(uri)
        assert place.key.endswith(path), f"{uri} does not end with {path}"
        return str(replace(place, key=place.key.removesuffix(path) + mask))
    assert uri.endswith(path), f"{uri} does not end with {path}"
    return uri.removesuffix(path) + mask


def uri_of(rule: str, row: Mapping[str, Any]) -> str | None:
    """The address at which the mask of a row of frames would be; None where the rule names none."""
    path = mask_path(rule, row["path"])
    return None if path is None else mask_uri(row["uri"], row["path"], path)


def read_mask(rule: str, row: Mapping[str, Any]) -> bytes | None:
    """The bytes of the mask of a row of frames; None where there is no such file.

    ValueError where there is one that cannot be read. ReadError where it cannot be read at the moment.
    """
    uri = uri_of(rule, row)
    if uri is None:
        return None
    try:
        return read_bytes(uri)
    except decoding.FrameError as error:
        if error.reason == MISSING:
            return None
        raise ValueError(
            f"the mask of frame {row['frame_id']} cannot be used: {uri}: {error.reason}, {error.message}; repair or "
            "delete it"
        ) from error


def has_mask(rule: str, row: Mapping[str, Any]) -> bool:
    """Whether there is a file where the mask of a row of frames would be."""
    uri = uri_of(rule, row)
    if uri is None:
        return False
    system, path = filesystem_of(uri)
    return bool(system.get_file_info(path).type == pafs.FileType.File)
