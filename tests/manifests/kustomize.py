"""What `kubectl kustomize` makes of a folder, for the subset of kustomize that k8s/ uses, where there is no kubectl.

In: a folder with a kustomization.yaml. Out: the objects. Anything outside the subset is an error, so that nothing is
passed over in silence. test_rendering.py compares it with kubectl where that is at hand.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_KNOWN = {"apiVersion", "kind", "resources", "components", "labels", "patches", "namespace", "images"}
_KNOWN |= {"configMapGenerator", "replacements"}
_WITHOUT_NAMESPACE = {"Namespace", "ClusterQueue", "ResourceFlavor"}
_LOCAL = "config.kubernetes.io/local-config"  # an object with it is there to be copied from


def build(folder: Path) -> list[Object]:
    """Raises AssertionError for what is outside the subset, and KeyError for a patch whose path is not there."""
    return _accumulate(folder.resolve(), [])


def _accumulate(folder: Path, objects: list[Object]) -> list[Object]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert not kustomization.keys() - _KNOWN, f"{folder}: {sorted(kustomization.keys() - _KNOWN)}"
    for entry in kustomization.get("resources", []):
        path = folder / entry
        objects = objects + (_accumulate(path.resolve(), []) if path.is_dir() else _documents(path))
    for entry in kustomization.get("components", []):
        objects = _accumulate((folder / entry).resolve(), objects)
    objects += [_config_map(folder, entry) for entry in kustomization.get("configMapGenerator", [])]
    for patch in kustomization.get("patches", []):
        _apply(patch, folder, objects)
    if "namespace" in kustomization:
        _set_namespace(objects, kustomization["namespace"])
    for entry in kustomization.get("labels", []):
        assert entry.keys() == {"pairs"}, entry
        for one in objects:
            one["metadata"].setdefault("labels", {}).update(entry["pairs"])
    for image in kustomization.get("images", []):
        for container in containers(objects):
            if container.get("image") == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    for entry in kustomization.get("replacements", []):
        _replace(entry, objects)
    return [one for one in objects if one["metadata"].get("annotations", {}).get(_LOCAL) != "true"]


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """All containers anywhere below `node`."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


def _documents(path: Path) -> list[Object]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def _config_map(folder: Path, entry: dict[str, Any]) -> Object:
    options = entry["options"]
    assert entry.keys() == {"name", "files", "options"}, entry
    assert options["disableNameSuffixHash"], "a name with a hash is outside the subset"
    data = {name: (folder / name).read_text(encoding="utf-8") for name in entry["files"]}
    metadata = {"name": entry["name"], "labels": dict(options.get("labels", {}))}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _apply(patch: dict[str, Any], folder: Path, objects: list[Object]) -> None:
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text(encoding="utf-8")
    operations = yaml.safe_load(text)
    assert isinstance(operations, list), "a patch is a list of operations (RFC 6902) in the subset"
    for one in objects:
        kind, name = patch["target"]["kind"], patch["target"].get("name", ".*")
        if re.fullmatch(kind, one["kind"]) and re.fullmatch(name, one["metadata"]["name"]):
            for operation in operations:
                _operate(one, copy.deepcopy(operation))


def _operate(root: Object, operation: dict[str, Any]) -> None:
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    node: Any = root
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node[part]
    op = operation["op"]
    if isinstance(node, list):
        if op == "remove":
            del node[int(last)]
        else:
            assert (op, last) == ("add", "-"), operation
            node.append(operation["value"])
        return
    if op != "add" and last not in node:
        raise KeyError(f"nothing at {operation['path']} of {root['kind']} {root['metadata']['name']}")
    if op == "remove":
        del node[last]
    else:
        assert op in ("add", "replace"), operation
        node[last] = operation["value"]


def _set_namespace(objects: list[Object], namespace: str) -> None:
    for one in objects:
        if one["kind"] == "Namespace":
            one["metadata"]["name"] = namespace
        elif one["kind"] not in _WITHOUT_NAMESPACE:
            one["metadata"]["namespace"] = namespace


def _replace(entry: dict[str, Any], objects: list[Object]) -> None:
    (source,) = [one for one in objects if one["kind"] == entry["source"]["kind"]]
    value: Any = source
    for part in entry["source"]["fieldPath"].split("."):
        value = value[part]
    for target in entry["targets"]:
        assert target["options"] == {"create": True}, target
        for one in objects:
            if one["kind"] == target["select"]["kind"]:
                for path in target["fieldPaths"]:
                    *way, last = path.split(".")
                    node = one
                    for part in way:
                        node = node.setdefault(part, {})
                    node[last] = copy.deepcopy(value)
