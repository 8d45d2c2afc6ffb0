"""The overlays of k8s/, rendered, and the pods that come of them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.manifests.kustomize import Object, build

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
_FOLDERS = sorted(str(file.parent.relative_to(K8S / "overlays")) for file in K8S.glob("overlays/**/kustomization.yaml"))
OVERLAYS = [name for name in _FOLDERS if not name.endswith("/cluster")]  # those are parts of others
PLATFORMS = [name for name in OVERLAYS if "/" not in name]
# A job's folder is applied beside its platform, so names are looked up in both; tasks go with every platform.
_BESIDE = {"tasks": "gpu"}
TOGETHER = {
    name: (_BESIDE.get(name.split("/")[0], name.split("/")[0]), name) if "/" in name else (name,) for name in OVERLAYS
}


@dataclass(frozen=True)
class Pod:
    """A pod template with the labels that the pods will have, those that KubeRay adds included."""

    where: str
    spec: dict[str, Any]
    labels: dict[str, str]
    annotations: dict[str, str]
    owner: Object
    ray: str | None = None  # head, worker; None: no Ray node


def rendered(overlay: str) -> list[Object]:
    """The objects of an overlay, to be changed at will."""
    return copy.deepcopy(_rendered(overlay))


@functools.cache
def _rendered(overlay: str) -> list[Object]:
    return build(K8S / "overlays" / overlay)


def with_platform(overlay: str) -> list[Object]:
    """The objects of an overlay and of the platform that it needs."""
    return [one for name in TOGETHER[overlay] for one in rendered(name)]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def ray_clusters(objects: list[Object]) -> Iterator[tuple[str, Object, dict[str, Any]]]:
    """Where, the object, and its RayClusterSpec, for each Ray cluster that comes of the objects."""
    for one in objects:
        spec = one.get("spec", {})
        field = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(one["kind"], "")
        cluster = spec if field is None else spec.get(field)
        if cluster and field != "":
            yield f"{one['kind']} {one['metadata']['name']}", one, cluster


def pods(objects: list[Object]) -> Iterator[Pod]:
    for one in objects:
        where = f"{one['kind']} {one['metadata']['name']}"
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield _pod(where, spec["template"], one)
        elif one["kind"] == "CronJob":
            yield _pod(where, spec["jobTemplate"]["spec"]["template"], one)
        elif one["kind"] == "Pod":
            yield _pod(where, one, one)
        if "submitterPodTemplate" in spec:
            yield _pod(f"{where}, submitter", spec["submitterPodTemplate"], one)
    for where, one, cluster in ray_clusters(objects):
        head = cluster["headGroupSpec"]["template"]
        yield _pod(f"{where}, head", head, one, "head")
        for group in cluster.get("workerGroupSpecs", []):
            yield _pod(f"{where}, {group['groupName']}", group["template"], one, "worker")


def _pod(where: str, template: dict[str, Any], owner: Object, ray: str | None = None) -> Pod:
    metadata = template.get("metadata", {})
    added = {} if ray is None else {"ray.io/node-type": ray, "ray.io/is-ray-node": "yes"}
    labels = {**metadata.get("labels", {}), **added}
    return Pod(where, template["spec"], labels, metadata.get("annotations", {}), owner, ray)
