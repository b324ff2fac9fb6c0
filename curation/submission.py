"""Commands as jobs of a Ray cluster: `submit`, `follow` and `stop`, a thin front of Ray's JobSubmissionClient.

`submit` checks the flags here, sends this very code and the `--config` file along, and follows the job's output. The
cluster's machines need our dependencies, not our package. No secret is sent: credentials belong in the environment of
the cluster's machines.
"""

import asyncio
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import tenacity

from curation import cli
from curation.engine.config import JobConfig, SubmitConfig
from curation.settings import config_path
from curation.store.filesystems import CREDENTIALS

PACKAGES = ("curation", "training", "tune")
ABOUT = "Run another command as a job of a Ray cluster: submit [flags] COMMAND [its flags]."
TAKE_A_VALUE = {
    f"--{each.name.replace('_', '-')}" for each in fields(SubmitConfig) if not isinstance(each.default, bool)
}
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
POLL_S, AGENT_S = 1.0, 60.0
LOST = 5  # connections in a row that may fail while a job is followed


def commands(package: str, known: Callable[[], Mapping[str, cli.Command]]) -> dict[str, cli.Command]:
    """The three commands, for a package whose other commands are `known`."""
    return {
        "submit": cli.Command(
            ABOUT,
            lambda _: (SubmitConfig,),
            lambda arguments: submit(package, known(), arguments),
            raw=True,
        ),
        "follow": cli.Command("Show the output of a job until it ends.", lambda _: (JobConfig,), follow_job),
        "stop": cli.Command("Stop a job; submitted again, it resumes.", lambda _: (JobConfig,), stop_job),
    }


def submit(package: str, known: Mapping[str, cli.Command], arguments: Sequence[str]) -> None:
    """Submit a command with its flags, and follow it. Exits with 1 where the job fails.

    A job of the same id that runs already is followed instead. ValueError: flags that the command would refuse, a
    secret among them, or a cluster that cannot be reached.
    """
    own, name, flags = split(known, arguments)
    [config] = cli.parse_flags(f"{package} submit", ABOUT, (SubmitConfig,), own)
    if name is None:
        raise ValueError(f"submit needs a command to run: one of {', '.join(known)}")
    check(package, name, known[name], flags)
    client = connected(config.address)
    with uploaded(config, flags) as (folder, sent):
        command = [*shlex.split(config.python), "-m", package, name, *sent]
        job = begin(client, config, shlex.join(command), folder)
    where = f"--address {client.get_address()}"
    print(f"job {job}\nfollow it: python -m {package} follow {job} {where}", flush=True)
    print(f"stop it:   python -m {package} stop {job} {where}", flush=True)
    if config.follow:
        follow(client, job)


def split(known: Mapping[str, Any], arguments: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Cut a command line into the flags of `submit`, the command, and that command's flags."""
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        if not argument.startswith("-"):
            if argument not in known or known[argument].raw:
                raise ValueError(f"no command {argument!r} to submit; {cli.nearest_name(argument, sorted(known))}")
            return list(arguments[:place]), argument, list(arguments[place + 1 :])
        place += 2 if argument in TAKE_A_VALUE else 1
    return list(arguments), None, []


def check(package: str, name: str, command: cli.Command, flags: Sequence[str]) -> None:
    """ValueError where a command would refuse its flags, or where one of them holds a secret."""
    path, _ = config_path(flags)
    settings = Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).is_file() else ""
    if any(map(CREDENTIALS.search, (*flags, settings))):
        raise ValueError(
            "an address holds credentials, which the cluster would show to all who see its jobs: leave them out, and "
            "put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment of the cluster's machines"
        )
    cli.parse_command(package, name, command, flags)


def connected(address: str | None) -> Any:
    """A client of the job server. ValueError where there is none, or where it refuses the token."""
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    client = import_module("ray.job_submission").JobSubmissionClient
    exceptions = import_module("ray.exceptions")
    try:
        made = client(found)
    except (ConnectionError, RuntimeError, exceptions.RayError) as error:
        raise ValueError(
            f"no Ray job server answers at {found}: {str(error).strip().splitlines()[0]}. Name it with --address (its "
            "port is the dashboard's, 8265 by default; `ray dashboard cluster.yaml` forwards it), and put the "
            "cluster's token into RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        ) from error
    for name in TALKATIVE:  # they report each package that is sent
        logging.getLogger(name).setLevel(logging.WARNING)
    return made


@contextmanager
def uploaded(config: SubmitConfig, flags: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder to send, and the flags that fit it: the `--config` file is in it. It is deleted after the block."""
    path, rest = config_path(flags)
    with tempfile.TemporaryDirectory(prefix="endosieve-job-") as folder:
        if config.working_dir:
            shutil.copytree(config.working_dir, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "runs"))
        if path is not None:
            sent = "submitted-settings.yaml"
            shutil.copyfile(path, f"{folder}/{sent}")
            rest = ["--config", sent, *rest]
        (Path(folder) / "submitted.txt").write_text(shlex.join(rest), encoding="utf-8")  # an empty one is refused
        yield folder, rest


def begin(client: Any, config: SubmitConfig, entrypoint: str, folder: str) -> str:
    """Submit an entry point and return its id; the id asked for where a job of that id runs already.

    ValueError where a job of that id has ended, or the job server refuses it.
    """
    try:
        return send(client, config, entrypoint, folder)
    except (RuntimeError, ConnectionError) as error:
        if config.job_id is None or "already exists" not in str(error):
            raise ValueError(f"the job server refused the job: {str(error).strip().splitlines()[0]}") from error
    if client.get_job_status(config.job_id).is_terminal():
        raise ValueError(f"a job {config.job_id} was here before and has ended; give another --job-id: it resumes")
    return config.job_id


@tenacity.retry(
    retry=tenacity.retry_if_exception_message(match="(?s).*No available agent"),  # a cluster that has just started
    stop=tenacity.stop_after_delay(AGENT_S),
    wait=tenacity.wait_fixed(POLL_S),
    reraise=True,
)
def send(client: Any, config: SubmitConfig, entrypoint: str, folder: str) -> str:
    """Submit an entry point with a folder and our code; its id. RuntimeError where the job server refuses it."""
    root = Path(__file__).parents[1]
    job: str = client.submit_job(
        entrypoint=entrypoint,
        submission_id=config.job_id,
        runtime_env={"working_dir": folder, "py_modules": [str(root / name) for name in PACKAGES]},
        entrypoint_num_cpus=config.entrypoint_num_cpus or None,
    )
    return job


def follow_job(config: JobConfig) -> None:
    """Follow a job to its end."""
    follow(connected(config.address), config.job)


def stop_job(config: JobConfig) -> None:
    """Stop a job, and wait until it has ended. ValueError for an unknown one."""
    client = connected(config.address)
    known(client, config.job)
    client.stop_job(config.job)
    while not client.get_job_status(config.job).is_terminal():
        time.sleep(POLL_S)
    print(f"job {config.job} {client.get_job_status(config.job).value.lower()}; submitted again, it resumes")


def known(client: Any, job: str) -> Any:
    """A job's state. ValueError, with those there are, for an unknown one."""
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        there = ", ".join(str(one.submission_id) for one in client.list_jobs()) or "none"
        raise ValueError(f"no job {job!r} at {client.get_address()}; there are: {there}") from error


def follow(client: Any, job: str) -> None:
    """Print a job's output until it ends. Exits with 1 where it failed or was stopped; Ctrl-C leaves it running."""
    known(client, job)
    shown, failures = 0, 0
    try:
        while True:
            try:
                shown = asyncio.run(tail(client, job, shown))
                if client.get_job_status(job).is_terminal():
                    break
                failures = 0
            except (RuntimeError, OSError):  # the head may be away for a while
                failures += 1
                if failures > LOST:
                    raise
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(f"\njob {job} goes on; follow or stop it with the commands above", file=sys.stderr)
        sys.exit(cli.INTERRUPTED)
    ended = client.get_job_info(job)
    print(f"job {job} {ended.status.value.lower()}", flush=True)
    if ended.status.value != "SUCCEEDED":
        raise SystemExit(getattr(ended, "driver_exit_code", None) or 1)


async def tail(client: Any, job: str, shown: int) -> int:
    """Print what a job wrote behind the first `shown` characters; how many there are when the connection ends."""
    seen = 0
    async for text in client.tail_job_logs(job):
        fresh = text[max(0, shown - seen) :]
        seen += len(text)
        if fresh:
            print(fresh, end="", flush=True)
    return max(shown, seen)
