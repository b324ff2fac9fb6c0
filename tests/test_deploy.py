"""cluster.yaml as Ray's launcher and autoscaler take it, and what docs/cluster.md and the files of deploy/ name."""

import copy
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NODES = "available_node_types"
GIB = {"cpu": 128, "gpu": 64, "gpu8": 1152}  # memory of the instance types


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return loaded


def on_this_machine(config: dict[str, Any]) -> dict[str, Any]:
    """A prepared config whose nodes are processes of this machine: the same types, resources and limits.

    Ray's provider for it knows the head by the name of its type.
    """
    config = copy.deepcopy(config)
    head = "ray.head.default"
    types = {head if name == config["head_node_type"] else name: kind for name, kind in config.pop(NODES).items()}
    for kind in types.values():
        kind["node_config"] = {}
    empty: dict[str, Any] = {name: [] for name in config if name.endswith("_commands")}
    provider = {"type": "fake_multinode", "head_resources": types[head]["resources"]}
    return config | empty | {"provider": provider, "auth": {}, "file_mounts": {}, "head_node_type": head, NODES: types}


@pytest.mark.parametrize("convert", [lambda config: config, on_this_machine])
def test_ray_up_takes_the_file(cluster: dict[str, Any], convert: Any) -> None:
    config = convert(prepare_config(cluster))
    validate_config(config)
    types = [kind for name, kind in config[NODES].items() if name != config["head_node_type"]]
    assert [kind["resources"] for kind in types] == [{"CPU": 32}, {"CPU": 16, "GPU": 1}, {"CPU": 96, "GPU": 8}]
    assert [kind["max_workers"] for kind in types] == [16, 8, 0]
    assert sum(kind["max_workers"] for kind in types) == config["max_workers"]
    assert config[NODES][config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert config[NODES][config["head_node_type"]]["max_workers"] == 0
    config["idle_timeout_minute"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(config)


def test_aws_knows_every_field_of_a_node(cluster: dict[str, Any]) -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for kind in cluster[NODES].values():
        request = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        assert ParamValidator().validate(request | {"InstanceMarketOption": {}}, shape).has_errors()


@pytest.mark.slow  # for the catalogue of instance types
def test_ray_up_prepares_a_stand_in_for_aws(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that `ray up` does before it launches the head; the instance types have what the file says they have."""
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "unused")
    monkeypatch.setattr("time.sleep", lambda _: None)
    said = {name: kind["resources"] for name, kind in cluster[NODES].items()}
    for name in GIB:
        cluster[NODES][name]["resources"] = {}  # which Ray then looks up
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        config = _bootstrap_config(cluster, no_config_cache=True)
        groups = boto3.client("ec2", "us-west-2").describe_security_groups()["SecurityGroups"]
    for name, gib in GIB.items():
        found = config[NODES][name]["resources"]
        assert said[name] == {each: found[each] for each in said[name]}
        assert found["memory"] == pytest.approx(0.7 * gib * 2**30, rel=0.01)
    [rules] = [group["IpPermissions"] for group in groups if group["GroupName"] == "endosieve-nodes"]
    assert [rule.get("FromPort") for rule in rules if rule["IpRanges"]] == [22]


def launched(cluster: dict[str, Any], *waiting: dict[str, Any]) -> dict[str, int]:
    """The nodes that Ray's autoscaler launches for tasks that wait, on a cluster that has only its head."""
    types = prepare_config(cluster)[NODES]
    for name, size in GIB.items():
        types[name]["resources"]["memory"] = int(0.7 * size * 2**30)
    scorer = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    nodes, left = get_nodes_for(types, {}, "head", cluster["max_workers"], list(waiting), scorer)
    assert not left
    return dict(nodes)


def test_work_brings_the_nodes_that_the_comments_promise(cluster: dict[str, Any]) -> None:
    gpu = {"CPU": 1, "GPU": 1}
    assert launched(cluster, {"CPU": 1}) == {"cpu": 1}
    assert launched(cluster, *[{"CPU": 1}] * 100) == {"cpu": 4}
    assert launched(cluster, {"GPU": 1}) == {"gpu": 1}
    assert launched(cluster, *[gpu] * 8) == {"gpu": 8}
    assert launched(cluster, *[{"CPU": 1}] * (16 * 32 + 1)) == {"cpu": 16, "gpu": 1}
    cluster[NODES]["gpu8"]["max_workers"] = 1
    assert launched(cluster, gpu) == {"gpu": 1}
    assert launched(cluster, *[gpu] * 8) == {"gpu8": 1}


def test_nodes_get_our_package_and_nobody_else_gets_in(cluster: dict[str, Any]) -> None:
    mounts = {Path(there).name: here for there, here in cluster["file_mounts"].items()}
    assert mounts.pop("auth_token") == "~/.ray/auth_token"
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    project = PROJECT["project"]
    assert mounts.keys() == packages | {"pyproject.toml", project["readme"], *project["license-files"]}
    assert all(there == here and (ROOT / here).exists() for there, here in mounts.items())
    starts = [cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--num-cpus=0 --num-gpus=0" in starts[0]
    spilled = {re.search(r"--object-spilling-directory=(\S+)", command)[1] for command in starts}  # type: ignore[index]
    assert len(spilled) == 1
    assert any(f"mkdir -p {folder}" in command for folder in spilled for command in cluster["setup_commands"])
    [mount] = [command for command in cluster["setup_commands"] if "mount -t nfs4" in command]
    assert f".efs.{cluster['provider']['region']}." in mount


def test_one_ray_version_everywhere(cluster: dict[str, Any]) -> None:
    pins = {found for command in cluster["setup_commands"] for found in re.findall(r"ray==([\d.]+)", command)}
    pin = r"(?:ray==|rayVersion: |RAY_VERSION=)(\d+\.\d+\.\d+)"
    for name in ("raycluster.yaml", "rayjob.yaml", "runtime_env.yaml", "Dockerfile"):
        there = set(re.findall(pin, (DEPLOY / name).read_text(encoding="utf-8")))
        assert there, name
        pins |= there
    [version] = pins
    [lowest] = [one.rpartition(">=")[2] for one in PROJECT["project"]["dependencies"] if one.startswith("ray[")]
    assert [int(part) for part in version.split(".")] >= [int(part) for part in lowest.split(".")]


@pytest.mark.parametrize("way", ["py_modules", "uv", "pip"])
def test_every_variant_of_the_runtime_environment(way: str) -> None:
    text = (DEPLOY / "runtime_env.yaml").read_text(encoding="utf-8")
    [found] = re.findall(rf"^(?:# )?({way}:.*\n(?:#   .*\n)*)", text, flags=re.MULTILINE)
    variant = yaml.safe_load(found.replace("\n#", "\n"))
    assert RuntimeEnv(**variant).to_dict().keys() >= {way}
    if way == "py_modules":
        assert yaml.safe_load(text) == variant  # the one that is not in comments
        assert all((ROOT / folder / "__init__.py").exists() for folder in variant[way])
    else:
        wheel = f"{PROJECT['project']['name']}-{PROJECT['project']['version']}-py3-none-any.whl"
        assert variant[way]["packages"][0].endswith(f"/{wheel}")


def commands_of_documents() -> list[list[str]]:
    """Every call of our command line in the documentation and the deployment files, from the package's name on."""
    found = []
    files = [ROOT / "docs/cluster.md", *DEPLOY.glob("*.yaml"), *DEPLOY.glob("*.slurm")]
    for text in (file.read_text(encoding="utf-8") for file in files):
        joined = re.sub(r"\s*\\\n#?\s*", " ", text)
        found += re.findall(r"(?:python -m|endosieve\.slurm) ((?:curation|training|tune) [^`\n]*)", joined)
    return [shlex.split(line.partition("  #")[0].rstrip(".,;:)")) for line in found]


@cache
def help_of(package: str, command: str) -> set[str]:
    """The flags of a command."""
    call = [sys.executable, "-m", package, command, "--help"]
    text = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z0-9-]+", text))


def test_the_commands_in_documents_exist() -> None:
    seen = set()
    for package, *words in commands_of_documents():
        inner = (place for place, word in enumerate(words) if place and re.fullmatch("[a-z]+", word))
        outer = next(inner, 0) if words[0] == "submit" else 0
        for command, *rest in (words[:outer], words[outer:]) if outer else (words,):
            assert {word for word in rest if word.startswith("--")} <= help_of(package, command), (package, command)
            seen.add((package, command))
    assert seen >= {("curation", "run"), ("training", "pretrain"), ("tune", "sweep")}


def test_the_documentation_names_files_that_there_are() -> None:
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\(([^)]+)\)", text))
    assert all((ROOT / path).exists() for path in re.findall(r"\bdeploy/[\w.-]+\w", text))
    for block in re.findall(r"(?:^    .*\n|^\n)+", text, flags=re.MULTILINE):
        if re.match(r"\s*(scrape_configs|provider):", block):
            assert yaml.safe_load("\n".join(line[4:] for line in block.splitlines()))
