"""Strict JSON schemas of what the manifests hold: core kinds, Ray's kinds, and those of two operators.

Core kinds come from the package kubernetes-validate. Ray's kinds come from data/kuberay-1.7.json, which has names,
types, enums, bounds and required fields, reduced from KubeRay's custom resource definitions:

    FTMETA_KUBERAY_CRDS=FOLDER python -m tests.manifests.schemas

with FOLDER holding ray.io_rayclusters.yaml(.gz) and its two siblings of the release. A pod template in them is
validated as a core kind. data/operators.json is written by hand and has the fields that k8s/ uses.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.manifests.kustomize import Object

FOLDER = Path(__file__).parent / "data"
VARIABLE = "FTMETA_KUBERAY_CRDS"
KUBERAY = "KubeRay v1.7.0, ray-operator/config/crd/bases, version v1 of ray.io"
KUBERNETES = ("1.32", "1.37")  # the oldest that the manifests are for, and the newest known
_RAY = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
_CORE = {  # fields of Ray's kinds that hold a core kind, and which
    "template": "PodTemplate",
    "submitterPodTemplate": "PodTemplate",
    "headService": "Service",
    "serveService": "Service",
}
_KEPT = ("type", "enum", "minimum", "maximum", "minItems", "required")
_INTEGER_OR_STRING = {"type": ["integer", "string"]}


def complaints(one: Object) -> list[str]:
    """What does not fit the schemas, as `path: message`; empty for a valid object. KeyError for an unknown kind."""
    if one["apiVersion"].startswith("ray.io/"):
        found = list(_ray_complaints(one))
    elif one["kind"] in operators():
        found = _by(jsonschema.Draft7Validator(operators()[one["kind"]]), one)
    else:
        found = [said for version in KUBERNETES for said in _core_complaints(one, version)]
    return sorted(set(found))


def reduced() -> dict[str, Any]:
    return json.loads((FOLDER / "kuberay-1.7.json").read_text(encoding="utf-8"))


@functools.cache
def operators() -> dict[str, Any]:
    return json.loads((FOLDER / "operators.json").read_text(encoding="utf-8"))["kinds"]


def _by(validator: Any, one: Any, prefix: str = "") -> list[str]:
    return [
        f"{prefix}{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for error in validator.iter_errors(one)
    ]


@functools.cache
def _core_validator(kind: str, api_version: str, version: str) -> Any:
    """As kubernetes_validate does it, but that 5 MB of definitions are read once for each version."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group = api_version.split("/")[0].split(".")[0] + "-" if "/" in api_version else ""
    schema = schema_contents(f"{folder}/{kind.lower()}-{group}{api_version.split('/')[-1]}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> Any:
    contents = schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json", version)
    return Resource.from_contents(contents) @ Registry()


def _core_complaints(one: Object, version: str, prefix: str = "") -> list[str]:
    return _by(_core_validator(one["kind"], one["apiVersion"], version), one, prefix)


@functools.cache
def _ray_validator(kind: str) -> Any:
    schemas = reduced()
    return jsonschema.Draft7Validator({**schemas["kinds"][kind], "definitions": schemas["definitions"]})


def _ray_complaints(one: Object) -> Iterator[str]:
    yield from _by(_ray_validator(one["kind"]), one)
    for path, kind, value in _core_parts(one["spec"], "spec"):
        whole = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}
        whole |= {"template": value} if kind == "PodTemplate" else {"spec": value.get("spec", {})}
        for version in KUBERNETES:
            yield from _core_complaints(whole, version, f"{path}.")


def _core_parts(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Path, kind and value of each core kind within a Ray kind."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in _CORE:
                yield f"{path}.{key}", _CORE[key], value
            else:
                yield from _core_parts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _core_parts(value, f"{path}.{index}")


def reduce(crds: Path) -> dict[str, Any]:
    """The reduced schemas from the definitions in the folder `crds`."""
    kinds = {kind: _strict(_definition(crds / f"ray.io_{plural}.yaml")) for kind, plural in _RAY.items()}
    cluster = kinds["RayCluster"]["properties"]["spec"]
    for kind, field in (("RayJob", "rayClusterSpec"), ("RayService", "rayClusterConfig")):
        holder = kinds[kind]["properties"]["spec"]["properties"]
        assert holder[field] == cluster, f"{field} of {kind} is no RayClusterSpec"
        holder[field] = {"$ref": "#/definitions/RayClusterSpec"}
    kinds["RayCluster"]["properties"]["spec"] = {"$ref": "#/definitions/RayClusterSpec"}
    for kind, schema in kinds.items():
        schema["properties"] |= {
            "apiVersion": {"enum": ["ray.io/v1"]},
            "kind": {"enum": [kind]},
            "metadata": {"type": "object", "required": ["name"]},
        }
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return {"origin": KUBERAY, "definitions": {"RayClusterSpec": cluster}, "kinds": kinds}


def _definition(path: Path) -> dict[str, Any]:
    packed = path.with_name(f"{path.name}.gz")
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    (version,) = [one for one in _load(text)["spec"]["versions"] if one["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]
    return dict(schema)


def _load(text: bytes) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Names, types, enums, bounds and required fields; objects whose fields are known have no others."""
    if schema.get("x-kubernetes-int-or-string"):
        return _INTEGER_OR_STRING
    kept: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
    if "properties" in schema:
        kept["properties"] = {
            name: {"type": "object", "x-kind": _CORE[name]} if name in _CORE else _strict(below)
            for name, below in schema["properties"].items()
        }
        kept["additionalProperties"] = False
        # What has a default need not be given.
        required = [name for name in kept.get("required", []) if "default" not in schema["properties"][name]]
        kept.pop("required", None)
        if required:
            kept["required"] = required
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = _strict(schema["additionalProperties"])
    if "items" in schema:
        kept["items"] = _strict(schema["items"])
    return kept


def main() -> None:
    crds = os.environ.get(VARIABLE)
    if crds is None:
        sys.exit(f"${VARIABLE} is not set; give the folder with KubeRay's custom resource definitions")
    text = json.dumps(reduce(Path(crds)), separators=(",", ":"), sort_keys=True)
    (FOLDER / "kuberay-1.7.json").write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
