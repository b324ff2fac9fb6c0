"""The file system of a path or an address: the local disk, or object storage through PyArrow and fsspec."""

import os
import re

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path in it. ValueError for an unknown scheme."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri) is None:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        system, path = pafs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid:
        scheme = uri.split("://", 1)[0]
        if scheme not in fsspec.available_protocols():
            raise ValueError(
                f"{uri}: no file system is known for {scheme}://; use a path, s3://, gs:// or hdfs://"
            ) from None
        handler, path = fsspec.core.url_to_fs(uri)
        system = pafs.PyFileSystem(pafs.FSSpecHandler(handler))
    return system, path.rstrip("/")
