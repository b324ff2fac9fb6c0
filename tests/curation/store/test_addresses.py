"""Addresses of objects: every key has one spelling that leads back to it, and credentials are part of none."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from curation.frames import frame
from curation.sources import listing, reader
from curation.sources.config import IngestConfig
from curation.store.directory import RunDirectory
from curation.store.filesystems import absolute, address_of, below, filesystem_of, without_credentials

KEYS = (
    "img- (1).png",
    "a#b.png",
    "a%20b.png",
    "a%2Fb.png",
    "a?b.png",
    "a?region=x.png",
    "a+b.png",
    "a,b.png",
    "a=b.png",
    "a:b@c.png",
    "[1].png",
    "{x,y}.png",
    " lead.png",
    "trail .png",
    "tab\tx.png",
    "q'uote\".png",
    "back\\slash.png",
    "Hoehe_\u00f6.png",
    "Hoehe_o\u0308.png",
    "\u5185\u955c_001.png",
    "polyp_\U0001f52c.png",
    "n" * 236 + ".png",
    "s3:x.png",
    "~.png",
    "a.png",
    "a.png/b.png",
)
ACCESS, SECRET = "AKIAEXAMPLE", "wJalr/XUtn+FEMI="


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """HOST:PORT of an S3 server with an empty bucket `frames`."""
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    client(f"{host}:{port}").create_bucket(Bucket="frames")
    yield f"{host}:{port}"
    running.stop()


def client(server: str) -> Any:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://{server}", **keys)


@pytest.fixture
def put(server: str) -> Callable[..., None]:
    """put(prefix, *keys): objects whose content is their key."""

    def call(prefix: str, *keys: str) -> None:
        for key in keys:
            client(server).put_object(Bucket="frames", Key=f"{prefix}{key}", Body=key.encode())

    return call


def listed(source: str) -> list[reader.Entry]:
    return list(listing.Listing(IngestConfig(run_dir="unused", source=(source,))))


@pytest.mark.parametrize("prefix", ["names", "#names/100%", "what?/a b", "names=1"])
def test_every_key_is_listed_and_read_with_the_endpoint_in_the_address(
    server: str, put: Callable[..., None], prefix: str
) -> None:
    put(f"{prefix}/", *KEYS, "folder/", "folder/deep/1.png", "notes.txt")
    address = f"s3://{ACCESS}:{SECRET}@frames/{prefix}?endpoint_override=http://{server}"
    entries = listed(address)
    assert sorted(entry.path for entry in entries) == sorted([*KEYS, "folder/deep/1.png"])
    assert {entry.path: frame.read_bytes(entry.uri) for entry in entries} == {
        key: key.encode() for key in [*KEYS, "folder/deep/1.png"]
    }
    assert all(entry.mtime_ns for entry in entries)
    assert not [entry.uri for entry in entries if "AKIA" in entry.uri or "wJalr" in entry.uri]
    assert {entry.uri.partition("?")[2] for entry in entries} == {f"endpoint_override=http://{server}"}


def test_keys_that_cannot_be_asked_for_are_counted_with_a_reason(server: str, put: Callable[..., None]) -> None:
    bad = ("x//y.png", "x/.//z.png", "/lead.png", "up/../v.png", "dot/./z.png")
    put("odd/", "good.png", "x/1.png", *bad)
    entries = listed(f"s3://{ACCESS}:{SECRET}@frames/odd?endpoint_override={server}&scheme=http&region=us-east-1")
    assert sorted(entry.path for entry in entries) == sorted([*bad, "good.png", "x/1.png"])
    assert {entry.path for entry in entries if entry.problem} == set(bad)
    assert {entry.problem[0] for entry in entries if entry.problem} == {"name cannot be requested"}
    assert [entry.path.split("/") for entry in entries] == sorted(entry.path.split("/") for entry in entries)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_of_the_environment(
    server: str, put: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("environment/", "a b.png")
    monkeypatch.setenv(name, f"http://{server}/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    [entry] = listed("s3://frames/environment/")
    assert entry.uri == "s3://frames/environment/a%20b.png"
    assert frame.read_bytes(entry.uri) == b"a b.png"


def test_a_run_directory_with_the_endpoint_in_its_address(server: str) -> None:
    run = RunDirectory(f"s3://{ACCESS}:{SECRET}@frames/my run?endpoint_override=http://{server}")
    run.write_bytes("frames/x", b"1")
    assert (RunDirectory(below(run.address, "frames")).read_bytes("x"), run.names("frames")) == (b"1", ["x"])
    assert not [text for text in (run.uri, run.address, repr(vars(run))) if "AKIA" in text or "wJalr" in text]


def test_one_file_system_for_a_bucket() -> None:
    one, other = (f"s3://frames/{key}?endpoint_override=localhost:1&region=eu-west-1" for key in ("a", "b?c"))
    assert filesystem_of(one)[0] is filesystem_of(other)[0]
    assert filesystem_of(other)[1] == "frames/b?c"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
    .map(lambda key: key.rstrip("/"))
    .filter(bool)
)
def test_every_key_has_one_spelling_that_leads_back(key: str) -> None:
    for root in ("s3://bucket", "s3://bucket/pre/fix?endpoint_override=http://host:1&region=eu", "gs://bucket/pre"):
        address = below(absolute(root), key)
        place = address_of(address)
        prefix = address_of(root).key
        assert place.key == (f"{prefix}/{key}" if prefix else key).rstrip("/")
        assert str(place) == address == absolute(address)
        assert place.options == address_of(root).options
        assert re.fullmatch(r"[!-~]*", address), "a spelling of printable ASCII"
        assert without_credentials(address) == address


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/a b/", "s3://bucket/a%20b"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/50%/x", "s3://bucket/50%25/x"),
        ("s3://bucket/a?b/x", "s3://bucket/a%3Fb/x"),
        (
            "s3://bucket/x?region=eu&endpoint_override=http://h:1",
            "s3://bucket/x?endpoint_override=http://h:1&region=eu",
        ),
        ("memory://a b/", "memory://a b"),
        ("file:///a%20b/", "/a b"),
        ("file://localhost/a", "/a"),
    ],
)
def test_spellings(given: str, expected: str) -> None:
    assert absolute(given) == expected


def test_addresses_that_are_refused() -> None:
    for uri, message in (
        ("s3://bucket/x?region=eu&colour=red", "no option colour; expected one of .*endpoint_override"),
        ("s3://bucket/x?secret_key=hidden", "has secret_key among its options"),
        ("s3://bucket/x?region=eu&access_key=hidden", "has access_key among its options"),
        ("s3://hidden@bucket/x", "an access key without its secret"),
        ("file://elsewhere/x", "must be absolute and on this machine"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            filesystem_of(uri)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sftp", "https", "abfss", "smb", "ftp"])
def test_passwords_are_refused_without_being_told(scheme: str) -> None:
    with pytest.raises(ValueError, match=rf"^{scheme}://\.\.\.@host/x has a password in it") as caught:
        filesystem_of(f"{scheme}://me:hidden@host/x")
    assert "hidden" not in str(caught.value)
    assert f"FSSPEC_{scheme.upper()}_PASSWORD" in str(caught.value)


@pytest.mark.parametrize("text", ["s3://{}@b/k?region=eu", "mine=s3://{}@b/k", "--source=mine=s3://{}@b/k"])
@pytest.mark.parametrize("secret", [SECRET, "wJalr%2FXUtn%2BFEMI%3D"])
def test_credentials_move_into_the_environment(text: str, secret: str) -> None:
    assert without_credentials(text.format(f"{ACCESS}:{secret}")) == text.format("").replace("@", "")
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == (ACCESS, SECRET)
    assert without_credentials(f"s3://{ACCESS}:{secret}@c") == "s3://c"
    with pytest.raises(ValueError, match="names other credentials than") as caught:
        without_credentials("s3://AKIAOTHER:hidden@c")
    assert "hidden" not in str(caught.value)
    assert os.environ["AWS_ACCESS_KEY_ID"] == ACCESS


def test_credentials_of_a_session_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    with pytest.raises(ValueError, match="names other credentials"):
        without_credentials("s3://AKIAOTHER:hidden@c")
    assert "AWS_ACCESS_KEY_ID" not in os.environ


@pytest.mark.parametrize(
    "text", ["s3://bucket/a:b@c", "/data/s3:x@y", "hdfs://host:8020/a@b", "abfs://box@account.dfs.core.windows.net/x"]
)
def test_what_only_looks_like_credentials_stays(text: str) -> None:
    assert without_credentials(text) == text


def test_existing_paths_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("center=1/frames", "a=b", "b", "frames"):
        (tmp_path / folder).mkdir(parents=True)

    def read(text: str) -> tuple[str, str]:
        [source] = reader.parse_sources((text,))
        again = reader.parse_source(source.text)
        assert (again.name, again.uri) == (source.name, source.uri)
        return source.name, source.uri.removeprefix(f"{tmp_path}/")

    assert read("center=1/frames") == ("frames", "center=1/frames")
    assert read("x=center=1/frames") == ("x", "center=1/frames")
    assert read("a=b") == ("a=b", "a=b")
    assert read("a=./b") == ("a", "b")
    assert read("c=b") == ("c", "b")
    assert read("frames/") == ("frames", "frames")
    assert read("./center=1") == ("center=1", "center=1")
    [told] = reader.readings(("a=b", "c=b", "center=1/frames"))
    assert "a=b is read as the existing folder of this name" in told
    assert "give a=./b" in told
    with pytest.raises(ValueError, match="has no name of its own; name it with NAME=/"):
        reader.parse_source("/")


def test_sources_that_are_not_there_say_whether_a_disk_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x.png").write_bytes(b"1")
    hint = "is empty: is a disk or share not mounted there yet"
    with pytest.raises(ValueError, match=f"disk/frames does not exist .*disk {hint}"):
        reader.check_there(reader.parse_sources((f"{tmp_path}/disk/frames",)))
    with pytest.raises(ValueError, match=r"full/frames does not exist$"):
        reader.check_there(reader.parse_sources((f"{tmp_path}/full/frames",)))
    with pytest.raises(ValueError, match=f"no image found in .*disk {hint}"):
        listing.count_files(IngestConfig(run_dir="unused", source=(f"{tmp_path}/disk",)))
    with pytest.raises(ValueError, match=f"is there: {hint.partition(': ')[2]}"):
        reader.check_there(reader.parse_sources(("/mnt/no-such-disk/frames",)))


@pytest.mark.parametrize(
    "text", ["S3://AKIAOTHER:hid/den@b/k", "s3a://AKIAOTHER:hid/den@b/k", "ABFSS://me:hid/den@b/k"]
)
def test_credentials_are_seen_however_the_scheme_is_written(text: str) -> None:
    try:
        left = without_credentials(text)
    except ValueError as error:
        left = str(error)
    assert "den" not in left
    assert "b/k" in left
