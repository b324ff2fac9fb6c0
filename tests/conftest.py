"""What all tests share: no limit on time for properties, an interruption that arrives, one thread, object storage."""

import signal
from collections.abc import Iterator

import boto3
import pytest
import torch
from hypothesis import settings
from moto.server import ThreadedMotoServer

settings.register_profile("any machine", deadline=None)  # a slow machine is not a wrong result
settings.load_profile("any machine")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background would have it ignored


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for a busy core cost far more here than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket of a real S3 server on this machine, its keys in it, with `{}` for a name."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="frames")
    yield f"s3://key:secret@frames/{{}}?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"
    server.stop()
