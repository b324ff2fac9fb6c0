"""The file system of a path or an address, how an address is written, and credentials, which are never part of one.

A local file is written as its absolute path. An object is written as a URI: its key percent-encoded, then, where they
were given, the options by which PyArrow reaches the store: s3://bucket/a%20key.png?endpoint_override=HOST&scheme=http.
Any other address of fsspec is written as fsspec writes it.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # those PyArrow reaches by itself
SAFE = "/!$&'()*+,;=~"  # what stands for itself in a key
OPTIONS = frozenset(
    {
        "endpoint_override",
        "region",
        "scheme",
        "allow_bucket_creation",
        "allow_bucket_deletion",
        "tls_ca_file_path",
        "tls_ca_dir_path",
        "tls_verify_certificates",
        "check_directory_existence_before_creation",
        "force_virtual_addressing",
        "smart_defaults",
        "retry_limit_seconds",
        "project_id",
        "user",
        "replication",
        "buffer_size",
        "blob_storage_authority",
        "dfs_storage_authority",
        "enable_tls",
    }
)
JOB_COPY = "/runtime_resources/working_dir_files/"
SECRET = re.compile("key|secret|token|password|passwd|credential|signature|sig$", re.IGNORECASE)
KEYS_OF_S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
USER = r"([^/@?#:\s]*)"
SLASHED = "(?:s3[an]?|abfss?)://"  # where a secret may have a slash in it, since no port can follow the name
CREDENTIALS = re.compile(rf"\b({SLASHED}){USER}:([^@]*)@|\b([a-z][a-z0-9+.-]*://){USER}:([^@/?#\s]*)@", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A place in an object store: scheme, bucket (or host), key as the store has it, and PyArrow's options."""

    scheme: str
    bucket: str
    key: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        key = f"/{quote(self.key, safe=SAFE)}" if self.key else ""
        return f"{self.root}{key}{self.query}"

    @property
    def root(self) -> str:
        """The address of the bucket, without options."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def query(self) -> str:
        """The options as an address ends with them."""
        return f"?{urlencode(self.options, safe='/:')}" if self.options else ""


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or an address, and the path in it, for any key that an address can hold.

    ValueError for an unknown scheme, an unknown option, and credentials that must not be in an address.
    """
    uri = without_credentials(uri)
    scheme = scheme_of(uri)
    if scheme is None or scheme == "file":
        return pafs.LocalFileSystem(), local_path(uri)
    if scheme in STORES:
        place = address_of(uri)
        system, base = _store(place.root, tuple(sorted(store_options(place, os.environ).items())))
        return system, f"{base.rstrip('/')}/{place.key}".rstrip("/")
    if scheme not in fsspec.available_protocols():
        raise ValueError(f"{uri}: no file system is known for {scheme}://; use a path, s3://, gs:// or hdfs://")
    handler, path = _handled(uri)
    return pafs.PyFileSystem(pafs.FSSpecHandler(handler)), path.rstrip("/")


def check_lasting(path: str) -> None:
    """ValueError for a folder in the working directory of a Ray job: a copy on each node that is deleted after it."""
    if JOB_COPY in path:
        raise ValueError(
            f"{path.partition(JOB_COPY)[2].partition('/')[2] or '.'} is a relative path, which in a job is in a copy "
            "of the working directory that is deleted with the job; give an absolute path on a disk that all nodes "
            "see, or an address in object storage"
        )


def scheme_of(uri: str) -> str | None:
    """The scheme of an address; None for a local path."""
    found = SCHEME.match(uri)
    return found[1].lower() if found else None


def local_path(uri: str) -> str:
    """The absolute form of a local path, of ~ and of file:///. ValueError where a file:// names another machine."""
    if scheme_of(uri) == "file":
        path = uri[len("file://") :].removeprefix("localhost")
        if not path.startswith("/"):
            raise ValueError(f"{uri}: a file:// address must be absolute and on this machine: file:///folder/name")
        return os.path.abspath(unquote(path))
    return os.path.abspath(os.path.expanduser(uri))


def address_of(uri: str) -> Address:
    """The parts of the address of an object. A ? begins options where PyArrow has one of those that follow.

    ValueError: an unknown option next to a known one, or one that seems to be a secret.
    """
    head, mark, tail = uri.rpartition("?")
    options = dict(parse_qsl(tail, keep_blank_values=True)) if mark else {}
    secret = [name for name in options if SECRET.search(name)]
    if secret:
        raise ValueError(
            f"an address has {', '.join(secret)} among its options; credentials do not belong in an address, where "
            f"tables and logs would keep them: put them in the environment ({', '.join(KEYS_OF_S3)} for s3://)"
        )
    unknown = [name for name in options if name not in OPTIONS]
    if options and len(unknown) == len(options):
        head, options = uri, {}  # it is part of the key
    elif unknown:
        raise ValueError(f"{uri}: no option {', '.join(unknown)}; expected one of {', '.join(sorted(OPTIONS))}")
    scheme, _, rest = (head or uri).partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() == "s3" and "@" in bucket:
        raise ValueError(
            "an s3:// address has an access key without its secret; put both in the environment, as "
            f"{' and '.join(KEYS_OF_S3)}, and leave them out of the address"
        )
    return Address(scheme.lower(), bucket, unquote(key).rstrip("/"), tuple(sorted(options.items())))


def store_options(place: Address, environment: Mapping[str, str]) -> dict[str, str]:
    """The options by which PyArrow reaches a store: the address's, and for s3 the environment's endpoint and region.

    A known region is always passed, since PyArrow would otherwise ask Amazon for the bucket's.
    """
    options = dict(place.options)
    if place.scheme != "s3":
        return options
    named = (environment.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = options.get("endpoint_override") or next(filter(None, named), "")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or (endpoint and "us-east-1")
    if "://" in endpoint:
        options["scheme"], _, endpoint = endpoint.partition("://")
    given = {"endpoint_override": endpoint.rstrip("/"), "region": region}
    return {name: value for name, value in given.items() if value} | {
        name: value for name, value in options.items() if name != "endpoint_override"
    }


@functools.lru_cache(maxsize=64)
def _store(root: str, options: tuple[tuple[str, str], ...]) -> tuple[pafs.FileSystem, str]:
    """The file system of a bucket, made once per process, and the bucket's path in it."""
    address = f"{root}?{urlencode(options)}" if options else root
    try:
        found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{address} cannot be opened: {error}") from error
    return found


def _handled(uri: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it, taken as it stands, whatever characters it has."""
    root = re.match(r"[^:]+://[^/]*", uri)
    try:
        if root is None or "::" in uri[: root.end()]:  # an address chained with others
            handler, path = fsspec.core.url_to_fs(uri)
        else:
            handler, _ = fsspec.core.url_to_fs(root[0])
            path = handler._strip_protocol(uri)
    except ImportError as error:
        raise ValueError(f"{uri}: a package is missing for {scheme_of(uri)}://: {error}") from error
    return handler, str(path)


def absolute(uri: str) -> str:
    """One form of a path or an address, for any process: absolute, no credentials, no slash at its end.

    A link in a path stays as it is given, so that its target can be moved.
    """
    uri = without_credentials(uri)
    scheme = scheme_of(uri)
    if scheme is None or scheme == "file":
        return local_path(uri)
    return str(address_of(uri)) if scheme in STORES else uri.rstrip("/")


def below(uri: str, path: str) -> str:
    """The address of `path`, as the file system has it, below a folder written as `absolute` does."""
    if scheme_of(uri) not in STORES:
        return f"{uri.rstrip('/')}/{path}"
    place = address_of(uri)
    return str(Address(place.scheme, place.bucket, f"{place.key}/{path}".removeprefix("/"), place.options))


def without_credentials(text: str) -> str:
    """The text without the access key and secret of an s3 address in it, which move into this process's environment.

    Processes started later inherit them; no table or log holds them. ValueError where the environment has others, and
    for a password of any other scheme.
    """
    found = CREDENTIALS.search(text)
    if found is None:
        return text
    scheme = (found[1] or found[4]).lower()
    if scheme != "s3://":
        variable = f"FSSPEC_{re.sub('[^A-Za-z0-9]', '_', scheme[:-3]).upper()}_PASSWORD"
        raise ValueError(
            f"{scheme}...@{text[found.end() :]} has a password in it, which tables and logs would keep; leave it out, "
            f"and put it in the environment, for example as {variable}, where fsspec finds it"
        )
    _into_environment(dict(zip(KEYS_OF_S3, (unquote(found[2]), unquote(found[3])), strict=True)))
    return without_credentials(text[: found.start()] + scheme + text[found.end() :])


def _into_environment(keys: dict[str, str]) -> None:
    there = {name: os.environ.get(name) for name in keys}
    if there == keys:
        return
    if any(there.values()) or os.environ.get("AWS_SESSION_TOKEN"):
        raise ValueError(
            f"an s3:// address names other credentials than {', '.join(KEYS_OF_S3)} (and AWS_SESSION_TOKEN) in the "
            "environment, or than another address does; a process has one pair: leave them out of the addresses"
        )
    os.environ.update(keys)
