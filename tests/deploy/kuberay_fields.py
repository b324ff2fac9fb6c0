"""Write the fields of KubeRay that our manifests use, from its own definitions: names, types, and which must be there.

    .venv/bin/python tests/deploy/kuberay_fields.py FOLDER

FOLDER holds ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of a KubeRay release (its Helm chart has them in crds/).
The manifests are validated against them in full, and tests/deploy/kuberay_fields.json is written, which the tests use
where the definitions are not there. To be run when a manifest begins to use another field, and for another release. The
file there now is of release 1.7.0.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(__file__).with_suffix(".json")
MANIFESTS = [ROOT / "deploy" / name for name in ("kuberay-storage.yaml", "raycluster.yaml", "rayjob.yaml")]
HEAD = ("headGroupSpec", "template", "spec")
CLAIM = ("volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")  # where a pod spells a PersistentVolumeClaim


def documents() -> list[dict[str, Any]]:
    """All objects of the manifests."""
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def definitions(folder: Path) -> dict[str, dict[str, Any]]:
    """The closed schema of each kind of object in the manifests, and of the claim as a pod's volume spells it."""
    found = {}
    for kind in ("RayCluster", "RayJob"):
        text = (folder / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
        [version] = [one for one in yaml.safe_load(text)["spec"]["versions"] if one["name"] == "v1"]
        found[kind] = closed(version["schema"]["openAPIV3Schema"])
        found[kind]["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    schema = below(found["RayCluster"], ("spec", *HEAD, *CLAIM))
    found["PersistentVolumeClaim"] = {"type": "object", "properties": {"spec": schema}}
    return found


def closed(schema: Any) -> Any:
    """A schema that refuses fields it does not name, as `kubectl apply` does."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        result["type"] = ["integer", "string"]
    if "properties" in schema:
        result["properties"] = {name: closed(below_it) for name, below_it in schema["properties"].items()}
        result.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if name in schema:
            result[name] = closed(schema[name])
    return result


def below(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The schema of what is at a path; `[]` are the items of a list, `{}` the values of a map with free keys."""
    for step in path:
        if step == "[]":
            schema = schema["items"]
        elif step == "{}":
            schema = schema["additionalProperties"]
        else:
            schema = schema["properties"][step]
    return schema


def facts(schema: dict[str, Any], value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a schema says about each place of a value: its type, the values it may have, the fields it must have."""
    named = {"type": schema["type"]}
    named |= {name: sorted(schema[name]) for name in ("enum", "required") if name in schema}
    free = isinstance(schema.get("additionalProperties"), dict)
    yield path, named
    if isinstance(value, list):
        for item in value:
            yield from facts(schema["items"], item, f"{path}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = schema["additionalProperties"] if free else schema["properties"][name]
            yield from facts(inner, item, f"{path}{{}}" if free else f"{path}.{name}")


def lines(fields: dict[str, Any]) -> str:
    """JSON of the fields of a kind, one a line."""
    return ",\n".join(f" {json.dumps(path)}: {json.dumps(fields[path])}" for path in sorted(fields))


def main(folder: Path) -> None:
    """Validate all manifests and write the facts. jsonschema.ValidationError where one is wrong."""
    schemas = definitions(folder)
    found: dict[str, dict[str, Any]] = {}
    for document in documents():
        kind, spec = document["kind"], {"spec": document["spec"]}
        jsonschema.validate(spec, schemas[kind])
        found.setdefault(kind, {}).update(facts(below(schemas[kind], ("spec",)), document["spec"], "spec"))
    kinds = [f'"{kind}": {{\n{lines(fields)}\n}}' for kind, fields in sorted(found.items())]
    FACTS.write_text("{" + ",\n".join(kinds) + "}\n", encoding="utf-8")
    print(f"{len(documents())} objects are valid; {sum(map(len, found.values()))} fields")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
