"""The Slurm script, run on two nodes that are both this machine, with stand-ins for Slurm's programs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/endosieve.slurm"


def test_the_slurm_script_is_well_formed() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


SRUN = """#!/usr/bin/env bash
for word; do [[ $word == --nodelist=* ]] && echo "${word#*=}" >> steps; done
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
PROBE = """
import sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes()]
where = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
found = ray.get([where.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes])
print("ran on all:", found == nodes)
print("nodes:", len(nodes), "cores:", ray.cluster_resources()["CPU"], "arguments:", sys.argv[1:], flush=True)
time.sleep(600 if "--wait" in sys.argv else 0)
sys.exit(3)
"""


class Allocation:
    """Two nodes of Slurm, both this machine: stand-ins for its programs, and a command that looks at the cluster."""

    def __init__(self, folder: Path, number: int) -> None:
        (folder / "scontrol").write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"${3//,/$'\\n'}\"\n")
        (folder / "srun").write_text(SRUN)
        (folder / "probe.py").write_text(PROBE)
        for program in ("scontrol", "srun"):
            (folder / program).chmod(0o755)
        paths = (str(folder), str(Path(sys.executable).parent), os.environ["PATH"])
        self.folder, self.mark = folder, f"SLURM_JOB_ID={number}"
        self.environment = os.environ | {
            "PATH": os.pathsep.join(paths),
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_MEM_PER_NODE": "700",
            "RAY_ADDRESS": "a cluster that this job must not join",
        }

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Begin the job; what it prints goes to the file `output`."""
        command = ["bash", str(SCRIPT), "probe", *arguments]
        with (self.folder / "output").open("wb") as stream:
            return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=stream, stderr=stream)

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def processes(self) -> list[Path]:
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{self.mark}\0".encode() in file.read_bytes():
                    found.append(file)
            except OSError:
                continue
        return found

    def folders(self) -> set[Path]:
        return {path for path in Path("/tmp").glob("endosieve-??????") if path.stat().st_uid == os.getuid()}


def gone(allocation: Allocation, before: set[Path]) -> bool:
    """Whether all that a job left is gone, after at most 20 s."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not allocation.processes() and allocation.folders() <= before:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_the_slurm_script_runs_a_command_on_all_nodes(tmp_path: Path) -> None:
    allocation = Allocation(tmp_path, 400_000 + os.getpid() % 2000)
    before = allocation.folders()
    job = allocation.start("--flag", "two words")
    assert job.wait(timeout=200) == 3, allocation.output()  # the command's own
    assert "ran on all: True" in allocation.output()
    assert "nodes: 2 cores: 2.0 arguments: ['--flag', 'two words']" in allocation.output()
    assert (tmp_path / "steps").read_text().split() == ["127.0.0.2", "127.0.0.1", "127.0.0.2"]
    assert gone(allocation, before)


@pytest.mark.slow
def test_a_job_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    allocation = Allocation(tmp_path, 402_000 + os.getpid() % 2000)
    before = allocation.folders()
    job = allocation.start("--wait")
    end = time.monotonic() + 200
    while "nodes: 2" not in allocation.output() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=100) == 128 + signal.SIGTERM, allocation.output()
    assert "nodes: 2" in allocation.output()
    assert gone(allocation, before)
