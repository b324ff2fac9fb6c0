"""A whole run from, in and to object storage that is slow and fails now and then: the same result as on a disk."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from curation.store.directory import RunDirectory

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "flaky_storage.py"
ODD = ["a b", "c#d", "50%", "e%20f", "what?", "größe", "ひらがな", "plus+and&", "quote'\"", "semi;colon=x"]
KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def flaky() -> Iterator[str]:
    """The address of a bucket whose server answers one request in fifty with 503, with `{}` for a name in it."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--fail", "0.02"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


@pytest.mark.slow
def test_a_whole_run(
    flaky: str,
    drawn: tuple[Path, Any],
    flags: Callable[..., list[str]],
    settings: Callable[..., Any],
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    """Frames under odd keys; run and export in the bucket; all tables but those that name files are those of a disk."""
    host = flaky.partition("endpoint_override=")[2].partition("&")[0].replace("%3A", ":")
    client = boto3.client("s3", endpoint_url=f"http://{host}", **KEYS)
    for number, file in enumerate(sorted(drawn[0].rglob("*.jpg"))):
        name = Path(ODD[number % len(ODD)], f"{ODD[number // len(ODD) % len(ODD)]} {number}.jpg")
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / name).write_bytes(file.read_bytes())
        client.put_object(Bucket="frames", Key=f"pool/{name}", Body=file.read_bytes())
    found = {}
    for place, source, run, output in (
        ("disk", str(tmp_path / "pool"), str(tmp_path / "run"), str(tmp_path / "out")),
        ("storage", flaky.format("pool"), flaky.format("run"), flaky.format("out")),
    ):
        config = settings(run, source=(f"pool={source}",), ingest={"lineage_pattern": None})
        given = flags(config.ingest, config.embed, config.cluster, config.select, config.export)
        done = python("-m", "curation", "run", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "secret" not in done.stdout + done.stderr
        exported = python(
            "-m",
            "curation",
            "export",
            "--run-dir",
            run,
            "--output",
            output,
            "--format",
            "webdataset",
            "--shard-mb",
            "1",
        )
        assert exported.returncode == 0, exported.stderr[-3000:]
        found[place] = RunDirectory(run), RunDirectory(output)
    failed, answered = map(int, urllib.request.urlopen(f"http://{host}/_failed").read().split())
    assert answered > 1000
    assert failed > answered / 100
    disk, storage = found["disk"], found["storage"]
    for folder in ("embeddings", "clusters/assignments", "scores"):
        parts = disk[0].parts(folder)
        assert storage[0].parts(folder) == parts
        assert all(storage[0].read_bytes(path) == disk[0].read_bytes(path) for path in parts.values()), folder
    decisions = "subsets/curated/decisions.parquet"
    assert storage[0].read_table(decisions).equals(disk[0].read_table(decisions))
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert shards
    assert [name for name in sorted(storage[1].names("")) if name.endswith(".tar")] == shards
