"""The Dockerfile: what it copies is there, and it installs this project, all of it, for a user without rights."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_holds_this_project() -> None:
    instructions = dockerfile()
    sources = [source for name, rest in instructions if name == "COPY" for source in shlex.split(rest)[:-1]]
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    project = PROJECT["project"]
    assert set(sources) == packages | {"pyproject.toml", project["readme"], *project["license-files"]}
    assert all((ROOT / source).exists() for source in sources)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    assert "*" in ignored
    [python] = [value for name, value in instructions if name == "ARG" and value.startswith("PYTHON_VERSION=")]
    assert int(python.rpartition(".")[2]) >= int(project["requires-python"].rpartition(".")[2])
    users = [value for name, value in instructions if name == "USER"]
    assert users == ["ray"]
    [added] = [value for name, value in instructions if name == "RUN" and value.startswith("useradd")]
    uid = re.search(r"--uid (\d+)", added)[1]  # type: ignore[index]
    pods = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text(encoding="utf-8"))["spec"]
    assert int(uid) == pods["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]


def test_the_image_installs_what_the_project_needs() -> None:
    [install] = [value for name, value in dockerfile() if name == "RUN" and "tomllib" in value]
    snippet = shlex.split(install)[2].replace("/tmp/pyproject.toml", str(ROOT / "pyproject.toml"))
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == PROJECT["project"]["dependencies"]
    assert '--requirement /tmp/requirements.txt "ray==${RAY_VERSION}"' in install
