"""An ingest that is called again: its sources as they were, spelled otherwise, changed, or away; and odd files."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from curation.embeddings.config import EmbedConfig
from curation.embeddings.encoder import resolved
from curation.frames.ingest import Reading, ingest, ingest_part
from curation.sources import lineage, listing, reader
from curation.sources.config import IngestConfig
from curation.store.directory import RunDirectory

ACCESS, SECRET = "AKIAEXAMPLEKEYOFATEST", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE"


def picture(number: int, kind: str = "BMP") -> bytes:
    """A picture of its own; all BMPs have one size."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Six frames, in a folder that a link leads to."""
    folder = tmp_path / "disk" / "frames"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.bmp").write_bytes(picture(number))
    (tmp_path / "link").symlink_to("disk")
    return folder


def again(run_dir: Path, *texts: str) -> dict[str, Any]:
    return ingest(IngestConfig(run_dir=str(run_dir), source=texts, part_rows=2, max_rejected=1.0))


def refusal(run_dir: Path, *texts: str) -> str:
    with pytest.raises(ValueError, match=r"sources? ") as caught:
        again(run_dir, *texts)
    return str(caught.value)


def test_a_finished_ingest_knows_its_sources_however_they_are_spelled(
    *, local_ray: None, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(frames, other / "frames")
    monkeypatch.chdir(tmp_path / "disk")
    first = again(run_dir, "frames", f"more={other}/frames")
    assert (first["rows_out"], "reused" in first) == (12, False)
    assert json.loads((run_dir / "run.json").read_text())["steps"]["frames"]["config"]["source"] == [
        f"frames={frames}",
        f"more={other}/frames",
    ]
    for texts in (
        (f"more={other}/frames/", "frames"),
        (f"frames={frames}", f"more={other}/frames"),
        (f"{tmp_path}/link/frames", f"more={other}/frames"),
    ):
        assert again(run_dir, *texts)["reused"]
    monkeypatch.chdir(other)
    assert f"source was ['frames={frames}', " in refusal(run_dir, "frames", f"more={other}/frames")


def test_a_finished_ingest_says_what_changed(*, local_ray: None, frames: Path, tmp_path: Path) -> None:
    run_dir, text = tmp_path / "run", str(frames)
    again(run_dir, text)
    before = (run_dir / "frames/_SUCCESS.json").read_bytes()
    os.utime(frames / "1.bmp", ns=(1, 1))
    state = (run_dir / "frames/_listing/state.json").read_bytes()
    assert again(run_dir, text)["reused"]
    assert (run_dir / "frames/_listing/state.json").read_bytes() != state, "it is not read again each time"
    assert again(run_dir, text)["reused"]
    (frames / "1.bmp").write_bytes(picture(77))  # of the same size
    message = refusal(run_dir, text)
    assert f"the sources changed since {run_dir} read them: 1 of other content (1.bmp)" in message
    assert "another --run-dir; or delete frames/ there, and what was made from it" in message
    (frames / "1.bmp").write_bytes(picture(1))
    assert again(run_dir, text)["reused"]
    (frames / "2.bmp").unlink()
    (frames / "5.bmp").write_bytes(picture(5) + b"\0")
    for letter in "abcde":
        (frames / f"{letter}.bmp").write_bytes(picture(ord(letter)))
    message = refusal(run_dir, text)
    for part in ("5 added (a.bmp, b.bmp, c.bmp, ...)", "1 removed (2.bmp)", "1 of another size (5.bmp)"):
        assert part in message
    assert (run_dir / "frames/_SUCCESS.json").read_bytes() == before


def test_a_source_that_is_away_does_not_hold_up_a_finished_run(
    *, local_ray: None, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, more = tmp_path / "run", tmp_path / "more"
    shutil.copytree(frames, more)
    again(run_dir, str(frames), str(more))
    frames.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert again(run_dir, str(frames), str(more))["reused"]
    told = capsys.readouterr().err
    assert f"warning: source {frames} is not there ({frames.parent} is empty: is a disk or share" in told
    frames.mkdir()
    assert again(run_dir, str(frames), str(more))["reused"]
    assert f"warning: source {frames} is empty" in capsys.readouterr().err
    (more / "9.bmp").write_bytes(picture(9))
    assert "1 added (9.bmp)" in refusal(run_dir, str(frames), str(more))


def test_a_killed_ingest_makes_again_what_changed(
    *, local_ray: None, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, text = tmp_path / "run", str(frames)
    (frames / "3.bmp").unlink()
    (frames / "3.bmp").symlink_to("/mnt/away/3.bmp")
    again(run_dir, text)
    (run_dir / "frames/_SUCCESS.json").unlink()
    (run_dir / "frames/part-000002.parquet").unlink()
    (frames / "0.bmp").write_bytes(picture(50))
    os.utime(frames / "0.bmp", ns=(5, 5))
    (frames / "3.bmp").unlink()
    (frames / "3.bmp").write_bytes(picture(3))
    capsys.readouterr()
    assert again(run_dir, text)["rejected"] == 0
    told = capsys.readouterr().err
    assert "1 of another time (0.bmp), 1 of another size (3.bmp); 2 parts are made again" in told
    fresh = tmp_path / "fresh"
    again(fresh, text)
    for name in ("part-000000.parquet", "part-000001.parquet", "part-000002.parquet"):
        assert (run_dir / "frames" / name).read_bytes() == (fresh / "frames" / name).read_bytes()
    assert list((run_dir / "rejected").iterdir()) == []
    (run_dir / "frames/_SUCCESS.json").unlink()
    (frames / "6.bmp").write_bytes(picture(6))
    (run_dir / "frames/part-000002.parquet").unlink()
    (run_dir / "frames/part-000000.parquet").unlink()
    assert again(run_dir, text)["rows_out"] == 7


def test_odd_files_are_rejected_rows_and_the_others_go_through(
    *, local_ray: None, frames: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    for number in range(2):
        (frames / f"annex_{number}.png").symlink_to(f".git/annex/objects/{number}.png")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (frames / "lfs.png").write_text(pointer)
    Path(os.fsdecode(os.fsencode(frames) + b"/H\xf6he.png")).write_bytes(picture(9, "PNG"))
    os.mkfifo(frames / "pipe.png")
    (frames / "._0.bmp").write_bytes(b"\x00\x05\x16\x07")
    marker = again(run_dir, str(frames))
    assert (marker["rows_in"], marker["rows_out"], marker["rejected"]) == (10, 6, 4)
    assert "passed over 1 leftovers of operating systems and tools (1 AppleDouble)" in marker["note"]
    assert "passed over 1 special files (1 named pipe)" in marker["note"]
    rows = pa.concat_tables(pq.read_table(file) for file in (run_dir / "rejected").iterdir()).to_pylist()
    assert {row["path"]: row["reason"] for row in rows} == {
        "annex_0.png": "link to nothing",
        "annex_1.png": "link to nothing",
        "lfs.png": "pointer to a file elsewhere",
        "H\\xf6he.png": "name is not UTF-8",
    }
    assert again(run_dir, str(frames))["reused"]


def test_tasks_work_wherever_their_worker_is(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(frames.parent)
    config = IngestConfig(run_dir="run", source=("frames",), lineage_pattern=r"(?P<shot>\d)")
    found = reader.parse_sources(config.source)
    [part] = listing.Listing(config, found).parts(100)
    lineages = lineage.Lineages(found, config.lineage_pattern)
    call = pickle.dumps((RunDirectory(config.run_dir), lineages, Reading(config.max_pixels, hashed=False), part, False))
    weights = resolved(EmbedConfig(run_dir="run", weights="encoder/w.safetensors")).weights
    assert weights == f"{frames.parent}/encoder/w.safetensors"
    assert resolved(EmbedConfig(run_dir="run", weights="random")).weights == "random"
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError, match="all nodes must see it at the same path"):
        ingest_part(*pickle.loads(call))  # a machine that has not mounted the disk
    (tmp_path / "disk" / "run").mkdir(parents=True)
    done = ingest_part(*pickle.loads(call))
    assert (done.frames, done.rejected) == (6, 0)
    table = pq.read_table(frames.parent / "run/frames/part-000000.parquet")
    assert table["uri"].to_pylist() == [f"{frames}/{number}.bmp" for number in range(6)]
    assert table["shot"].to_pylist() == list("012345")


@pytest.fixture
def bucket() -> Iterator[str]:
    """HOST:PORT of an S3 server with frames in the bucket `frames`."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    client.create_bucket(Bucket="frames")
    for number, name in enumerate(("img- (1).png", "a#b.png", "a%20b.png", "a?b.png", "a+b.png", "ü.png")):
        client.put_object(Bucket="frames", Key=f"my frames/{name}", Body=picture(number, "PNG"))
    yield f"{host}:{port}"
    server.stop()


def test_credentials_in_an_address_leave_no_trace(
    bucket: str, environment: dict[str, str], tmp_path: Path, python: Callable[..., Any]
) -> None:
    """Neither in the run, nor in what is printed, nor in Ray's logs; and all steps read with them."""
    run_dir, session = tmp_path / "run", tempfile.mkdtemp(dir="/tmp")
    address = f"s3://{ACCESS}:{SECRET}@frames/my frames?endpoint_override=http://{bucket}"
    command = [sys.executable, "-m", "curation", "run", f"--run-dir={run_dir}", f"--source=mine={address}"]
    command += ["--encoder=vit_tiny_patch16_224", "--weights=random", "--image-size=32", "--d=1.0", "--epsilon=2.0"]
    clean = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    try:
        done = subprocess.run(
            command, env=clean | {"RAY_TMPDIR": session}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        files = [file for folder in (tmp_path, Path(session)) for file in folder.rglob("*") if file.is_file()]
        logged = {file.name for file in files}
        assert "kept.parquet" in logged
        assert "raylet.out" in logged
        traces = [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    finally:
        shutil.rmtree(session)
    assert traces == []
    assert SECRET not in done.stdout + done.stderr
    assert ACCESS not in done.stdout + done.stderr
    kept = pq.read_table(run_dir / "subsets/curated/kept.parquet")
    assert sorted(kept["path"].to_pylist()) == sorted(
        ["img- (1).png", "a#b.png", "a%20b.png", "a?b.png", "a+b.png", "ü.png"]
    )
    assert {uri.partition("?")[2] for uri in kept["uri"].to_pylist()} == {f"endpoint_override=http://{bucket}"}
