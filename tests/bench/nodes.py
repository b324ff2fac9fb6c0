"""A Ray cluster of several nodes on this machine, for tests and benchmarks: started, killed and joined node by node.

Every node is a `ray start --block` in a process session of its own, so that killing the session is a power cut of
that machine: its raylet, its agents and all workers end in the same moment. Nothing else is touched. All nodes listen
on this machine, and the cluster has a token of its own.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_S = 240.0
RAY = Path(sys.executable).with_name("ray")
STORE_BYTES = 200_000_000
HOST = "127.0.0.1"
HEAD_TYPE = "ray.head.default"  # as the test provider names it
IDLE_MINUTES = 0.2


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, seconds: float = START_S) -> None:
    """Wait until a condition holds. TimeoutError, saying what was waited for."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


class Session(subprocess.Popen[bytes]):
    """A command in a process session of its own: it and all that it started end together."""

    def living(self) -> dict[int, str]:
        """Command lines of the living processes of the session, by process id."""
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def kill_all(self) -> None:
        """End all processes of the session at once."""
        while left := self.living():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        self.wait()

    def __exit__(self, *error: Any) -> None:
        self.kill_all()
        super().__exit__(*error)


class Nodes:
    """A cluster: a head that takes no work, and nodes that come and go. A context manager; leaving it ends all.

    With `types` (a node's resources, and `max_workers`, by name) Ray's own autoscaler adds and removes nodes, as it
    would in a cloud; its test provider starts them on this machine, in the session of the head.
    """

    def __init__(
        self, head_cpus: int = 0, types: Mapping[str, Mapping[str, int]] | None = None, **variables: str
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: Ray makes sockets below it
        self.port, self.dashboard_port = free_port(), free_port()
        self.head_cpus = head_cpus
        self.types = types
        self.nodes: list[Session] = []
        self.begun = 0
        outside = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = outside | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(24),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONWARNINGS": "ignore",
        }
        self.environment |= variables

    @property
    def address(self) -> str:
        """The cluster's address, as RAY_ADDRESS has it."""
        return f"{HOST}:{self.port}"

    @property
    def dashboard(self) -> str:
        """The address of the job server."""
        return f"http://{HOST}:{self.dashboard_port}"

    @property
    def client_environment(self) -> dict[str, str]:
        """The environment of a driver that joins this cluster."""
        return self.environment | {"RAY_ADDRESS": self.address}

    def __enter__(self) -> "Nodes":
        self.start_head()
        return self

    def start_head(self) -> None:
        """Start the head, and wait until it takes nodes."""
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", f"--temp-dir={self.folder / 'ray'}"]
        if self.types is not None:
            ports.append(f"--autoscaling-config={self._autoscaling(self.types)}")
        self.head = self._start("--head", *ports, f"--num-cpus={self.head_cpus}", "--num-gpus=0")
        wait_until(lambda: self._listens(self.port), "Ray's head does not start")

    def add(self, cpus: int = 1, gpus: int = 0) -> Session:
        """Start a node and return it; it has joined once `Nodes.alive` counts it."""
        before = len(self._sockets())
        resources = f"--num-cpus={cpus}", f"--num-gpus={gpus}"
        node = self._start(f"--address={self.address}", *resources)
        self.nodes.append(node)
        wait_until(lambda: len(self._sockets()) > before, "a node does not start")  # two at once take the same name
        return node

    def kill(self, node: Session) -> None:
        """Cut the power of a node."""
        self.nodes.remove(node)
        node.kill_all()

    def kill_head(self) -> None:
        """Cut the power of the head. `start_head` starts another one; nodes have to be added again."""
        self.head.kill_all()
        for node in [*self.nodes]:
            self.kill(node)

    def call(self, *arguments: str, timeout: float = 300, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m ...` as a driver on this cluster, to its end."""
        command, environment = [sys.executable, "-m", *arguments], self.client_environment | variables
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.folder
        )

    def begin(self, log: Path, *arguments: str, **variables: str) -> Session:
        """Start `python -m ...` as a driver on this cluster."""
        with log.open("ab") as stream:
            return Session(
                [sys.executable, "-m", *arguments],
                env=self.client_environment | variables,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=self.folder,
            )

    def __exit__(self, *_: object) -> None:
        for one in [*self.nodes, self.head]:
            one.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *arguments: str) -> Session:
        self.begun += 1
        own = f"--object-store-memory={STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}"
        command = [str(RAY), "start", "--block", f"--node-ip-address={HOST}", *own, *arguments]
        with (self.folder / f"node-{self.begun}.log").open("wb") as log:
            return Session(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def _autoscaling(self, types: Mapping[str, Mapping[str, int]]) -> Path:
        """Write the autoscaler's config and return its path."""
        head = "f" * 51 + "00000"  # the id that the test provider takes for the head's
        self.environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        self.environment |= {"RAY_CLOUD_INSTANCE_ID": head, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head}
        known: dict[str, Any] = {HEAD_TYPE: {"resources": {"CPU": self.head_cpus}, "node_config": {}, "max_workers": 0}}
        for name, resources in types.items():
            limits = {"min_workers": 0, "max_workers": resources["max_workers"]}
            granted = {key: value for key, value in resources.items() if key != "max_workers"}
            known[name] = {"resources": granted, "node_config": {}} | limits
        provider = {"type": "fake_multinode", "disable_launch_config_check": True, "disable_node_updaters": True}
        provider |= {"gcs_address": self.address, "head_node_id": head, "use_node_id_as_ip": True}
        lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        config = {f"{name}_commands": [] for name in lists} | {
            "cluster_name": "nodes",
            "max_workers": sum(one["max_workers"] for one in types.values()),
            "upscaling_speed": 5,
            "idle_timeout_minutes": IDLE_MINUTES,
            "provider": provider,
            "available_node_types": known,
            "head_node_type": HEAD_TYPE,
            **{name: {} for name in ("docker", "file_mounts", "auth")},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts_sync_continuously": False,
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def _sockets(self) -> list[Path]:
        return list((self.folder / "ray").glob("session_*/sockets/plasma_store*"))

    def _listens(self, port: int) -> bool:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            return False
        return True
