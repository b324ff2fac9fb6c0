"""On what a command computes. It imports neither Ray nor PyTorch."""

from dataclasses import dataclass
from typing import Literal

from curation.options import option

Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """On what a command computes."""

    device: Device = option(
        "What computes. auto: GPUs, also those that an autoscaling cluster adds when asked, else CPUs; gpu: wait for a "
        "GPU, however long; cpu: no GPU.",
        "auto",
        hashed=False,
    )


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """How a command is submitted as a job."""

    address: str | None = option(
        "Ray's job server, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, else this machine's.", None, hashed=False
    )
    job_id: str | None = option(
        "Id of the job: where a job of this id runs already, it is followed. Default: a new one.", None, hashed=False
    )
    working_dir: str | None = option(
        "A folder to send along (without hidden files and runs/), which is the job's working directory.",
        None,
        hashed=False,
    )
    python: str = option("The cluster's Python, which has our dependencies.", "python", hashed=False)
    entrypoint_num_cpus: float = option(
        "CPUs that the command itself holds; above 0 it runs on any node, else on the head.", 0.0, hashed=False
    )
    follow: bool = option("Show the job's output until it ends.", True, hashed=False)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """A job that was submitted."""

    job: str = option("Id of the job.", hashed=False)
    address: str | None = option(
        "Ray's job server, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, else this machine's.", None, hashed=False
    )
