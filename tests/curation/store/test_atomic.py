"""Writes that fail on S3, whose server breaks off in the middle, leave the old object."""

import contextlib
import http.client
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from curation.store import atomic
from curation.store.directory import RunDirectory

KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
LARGE = 22 << 20  # several parts of an upload


def no_fault(*_: str) -> None:
    """Every request is handed on."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a server, except those that `fault` has an answer for: "500", or "break" in the body."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.behind = port
        self.fault: Callable[[str, str], str | None] = no_fault
        self.seen: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def answer(self) -> None:
        self.server.seen.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path)
        if fault == "break":
            self.rfile.read(min(100, int(self.headers.get("Content-Length", 100)) // 2))
            self.close_connection = True
            return
        body = self.body()
        if fault == "500":
            self.reply(500, {}, b"<Error><Code>InternalError</Code><Message>broken</Message></Error>")
            return
        dropped = ("content-length", "transfer-encoding", "expect", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        found = connection.getresponse()
        content = found.read()
        self.reply(found.status, dict(found.getheaders()), content)
        connection.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **KEYS).create_bucket(Bucket="bucket")
    with Proxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
    server.stop()


@pytest.fixture
def away(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[RunDirectory]:
    """A directory in the bucket behind the proxy, which hands everything on until a test says otherwise."""
    proxy.seen.clear()
    options = f"scheme=http&endpoint_override=127.0.0.1%3A{proxy.server_address[1]}&region=us-east-1"
    yield RunDirectory(f"s3://key:secret@bucket/{request.node.name.translate(str.maketrans('[]', '__'))}/run?{options}")
    proxy.fault = no_fault


def client(proxy: Proxy) -> Any:
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{proxy.behind}", **KEYS)


def stored(proxy: Proxy, run: RunDirectory) -> dict[str, bytes]:
    """Every object below the directory, as the server has it."""
    s3, prefix = client(proxy), f"{run.root.removeprefix('bucket/')}/"
    found = s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    keys = [entry["Key"] for entry in found if not entry["Key"].endswith("/")]
    return {key.removeprefix(prefix): s3.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}


def content(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


def stream_in(run: RunDirectory, path: str, whole: bytes) -> None:
    with run.create(path) as stream:
        for start in range(0, len(whole), 1 << 20):
            stream.write(whole[start : start + (1 << 20)])


WRITERS: dict[str, Callable[[RunDirectory, str, bytes], None]] = {
    "bytes": RunDirectory.write_bytes,
    "stream": stream_in,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [0, 1024, LARGE])
def test_what_is_put_arrives(
    proxy: Proxy, away: RunDirectory, monkeypatch: pytest.MonkeyPatch, size: int, writer: str
) -> None:
    monkeypatch.setattr(atomic, "SPOOL_BYTES", 4 << 20)
    monkeypatch.setattr(atomic, "SLICE_BYTES", 5 << 20)
    WRITERS[writer](away, "a/x", content(size))
    WRITERS[writer](away, "a/y", b"small")
    assert stored(proxy, away) == {"a/x": content(size), "a/y": b"small"}


@pytest.mark.parametrize(
    ("writer", "size", "where", "fault"),
    [
        ("stream", 1024, "", "break"),
        ("bytes", 1024, "", "500"),
        ("bytes", LARGE, "partNumber=2", "500"),
        ("stream", LARGE, "partNumber=2", "break"),
        ("stream", LARGE, "POST", "break"),
    ],
)
def test_a_server_that_fails_in_the_middle_of_an_upload_leaves_the_old_object(
    *,
    proxy: Proxy,
    away: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    fault: str,
    size: int,
    where: str,
) -> None:
    monkeypatch.setattr(atomic, "SPOOL_BYTES", 4 << 20)
    monkeypatch.setattr(atomic, "SLICE_BYTES", 5 << 20)
    away.write_bytes("a/x", b"good")
    away.write_bytes("a/other", b"other")

    def failing(method: str, path: str) -> str | None:
        finishing = where == "POST" and method == "POST" and "uploadId=" in path
        return fault if finishing or (where != "POST" and method in ("PUT", "POST") and where in path) else None

    proxy.fault = failing
    with pytest.raises(OSError, match="a/x"):
        WRITERS[writer](away, "a/x", content(size))
    assert stored(proxy, away) == {"a/x": b"good", "a/other": b"other"}
    proxy.fault = no_fault
    assert away.names("a") == ["other", "x"]
    WRITERS[writer](away, "a/x", content(size))
    assert stored(proxy, away)["a/x"] == content(size)


@pytest.mark.parametrize("size", [1024, LARGE])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_caller_that_fails_leaves_the_old_object(
    proxy: Proxy, away: RunDirectory, size: int, error: type[BaseException]
) -> None:
    def fail() -> None:
        with away.create("a/x") as stream:
            stream.write(content(size))
            raise error

    with pytest.raises(error):
        fail()
    assert stored(proxy, away) == {}
    away.write_bytes("a/x", b"good")
    with pytest.raises(error):
        fail()
    assert stored(proxy, away) == {"a/x": b"good"}
    assert not [path for method, path in proxy.seen if method == "DELETE"]


def test_an_interruption_while_it_is_put_waits_for_all_of_it(
    proxy: Proxy, away: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the stream of a half-written object would complete it."""
    program = (
        "import _thread, sys\n"
        "from curation.store import atomic\n"
        "from curation.store.directory import RunDirectory\n"
        "atomic.SLICE_BYTES = 5 << 20\n"
        "run, upload = RunDirectory(sys.argv[1]), atomic.upload\n"
        "def interrupted(*arguments):\n"
        "    _thread.interrupt_main()\n"
        "    upload(*arguments)\n"
        "atomic.upload = interrupted\n"
        f"try:\n    run.write_bytes('a/x', bytes(range(256)) * ({LARGE} // 256))\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    away.write_bytes("a/x", b"good")
    done = subprocess.run([sys.executable, "-c", program, away.uri], capture_output=True, text=True, check=True)
    assert done.stdout == "interrupted\n"
    assert stored(proxy, away) == {"a/x": content(LARGE)}


def test_little_is_in_memory_of_what_is_large(away: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "SPOOL_BYTES", 1 << 20)
    monkeypatch.setattr(atomic, "SLICE_BYTES", 5 << 20)
    before = pa.total_allocated_bytes()
    most = 0
    with away.create("a/x") as stream:
        for _ in range(LARGE >> 20):
            stream.write(content(1 << 20))
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4 << 20
    assert len(away.read_bytes("a/x")) == LARGE


def test_a_full_disk_while_content_waits_leaves_the_old_object(
    proxy: Proxy, away: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.write_bytes("a/x", b"good")
    monkeypatch.setattr(atomic, "SPOOL_BYTES", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        stream_in(away, "a/x", content(1 << 20))
    assert stored(proxy, away) == {"a/x": b"good"}
