"""The manifests, against the fields of KubeRay that kuberay_fields.json lists, or all of them (KUBERAY_CRDS)."""

import json
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERAY = runpy.run_path(str(Path(__file__).with_name("kuberay_fields.py")))
PYTHON_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "number": float}


def cluster_spec(name: str) -> dict[str, Any]:
    """The cluster of a manifest."""
    spec = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return found


def faults(value: Any, path: str, known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What a manifest has and KubeRay does not: fields it does not know, of another type, or that are missing."""
    if path not in known:
        yield f"{path}: unknown; if it is right, run tests/deploy/kuberay_fields.py"
        return
    fact = known[path]
    kinds = fact["type"] if isinstance(fact["type"], list) else [fact["type"]]
    right = any(isinstance(value, PYTHON_TYPES[kind]) for kind in kinds)
    if not right or (isinstance(value, bool) and kinds != ["boolean"]) or value not in fact.get("enum", [value]):
        yield f"{path}: {value!r} is no {fact}"
    if isinstance(value, list):
        for item in value:
            yield from faults(item, f"{path}[]", known)
    elif isinstance(value, dict):
        yield from (f"{path}.{name}: missing" for name in fact.get("required", []) if name not in value)
        free = f"{path}{{}}" in known
        for name, item in value.items():
            yield from faults(item, f"{path}{{}}" if free else f"{path}.{name}", known)


def known_fields(kind: str) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = json.loads(KUBERAY["FACTS"].read_text(encoding="utf-8"))[kind]
    return fields


@pytest.mark.parametrize("document", KUBERAY["documents"](), ids=lambda document: document["kind"])
def test_kuberay_knows_every_field(document: dict[str, Any]) -> None:
    assert document["apiVersion"] == ("v1" if document["kind"] == "PersistentVolumeClaim" else "ray.io/v1")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
    assert list(faults(document["spec"], "spec", known_fields(document["kind"]))) == []


def damage_name(spec: dict[str, Any]) -> None:
    spec["enableInTreeAutoscalling"] = spec.pop("enableInTreeAutoscaling")


def damage_type(spec: dict[str, Any]) -> None:
    spec["workerGroupSpecs"][1]["minReplicas"] = "0"


def damage_container(spec: dict[str, Any]) -> None:
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountpath"] = "/mnt"


def damage_choice(spec: dict[str, Any]) -> None:
    spec["autoscalerOptions"]["version"] = "v3"


def damage_parameter(spec: dict[str, Any]) -> None:
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def damage_required(spec: dict[str, Any]) -> None:
    del spec["workerGroupSpecs"][0]["groupName"]


DAMAGES = [damage_name, damage_type, damage_container, damage_choice, damage_parameter, damage_required]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_field_is_found(damage: Any) -> None:
    spec = json.loads(json.dumps(cluster_spec("raycluster")))  # aliases of the YAML file become copies
    damage(spec)
    assert len(list(faults(spec, "spec", known_fields("RayCluster")))) == 1


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder with KubeRay's definitions")
def test_manifests_fit_the_definitions_of_kuberay() -> None:
    schemas = KUBERAY["definitions"](Path(os.environ["KUBERAY_CRDS"]))
    for document in KUBERAY["documents"]():
        jsonschema.validate({"spec": document["spec"]}, schemas[document["kind"]])


def test_clusters_on_kubernetes() -> None:
    spec = cluster_spec("raycluster")
    assert spec == cluster_spec("rayjob")
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token", "secretName": "endosieve-token"}
    assert spec["headGroupSpec"]["rayStartParams"].items() >= {"num-cpus": "0", "num-gpus": "0"}.items()
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]
    [claim] = [document for document in KUBERAY["documents"]() if document["kind"] == "PersistentVolumeClaim"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert group["rayStartParams"]["object-spilling-directory"] == mounts["scratch"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group.get("groupName") == "gpu")
        assert "restartPolicy" not in pod  # the autoscaler needs KubeRay's own
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
    assert job["submissionMode"] == "K8sJobMode"
    assert job["shutdownAfterJobFinishes"]
    assert job["backoffLimit"] > 0
