"""An S3 server on this machine that fails now and then and is slow, for tests and benchmarks.

    .venv/bin/python tests/bench/flaky_storage.py --fail 0.02 --slow-ms 5

Prints the address of its bucket, with `{}` for a name in it, and serves until it is ended.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

HOST, BUCKET = "127.0.0.1", "frames"
ERROR = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Flaky:
    """A WSGI application before another one: a share of the requests gets 503, and all wait a little."""

    def __init__(self, application: Callable[..., Iterable[bytes]], fail: float, slow_ms: float, seed: int) -> None:
        self.application, self.fail, self.slow_s = application, fail, slow_ms / 1000
        self.chance, self.lock = random.Random(seed), threading.Lock()
        self.on = False
        self.failed = self.answered = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        with self.lock:
            fails = self.on and self.chance.random() < self.fail
            self.failed += fails
            self.answered += 1
        if environ["PATH_INFO"] == "/_failed":
            start("200 OK", [("Content-Type", "text/plain")])
            return [f"{self.failed} {self.answered}".encode()]
        time.sleep(self.slow_s if self.on else 0)
        if not fails:
            return self.application(environ, start)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(ERROR)))])
        return [ERROR]


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fail", type=float, default=0.02)
    parser.add_argument("--slow-ms", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    flaky = Flaky(DomainDispatcherApplication(create_backend_app), asked.fail, asked.slow_ms, asked.seed)
    server = make_server(HOST, 0, flaky, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{HOST}:{server.port}", **keys).create_bucket(Bucket=BUCKET)
    flaky.on = True
    query = f"scheme=http&endpoint_override={HOST}%3A{server.port}&region=us-east-1"
    print(f"s3://key:secret@{BUCKET}/{{}}?{query}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
