"""What no manifest of ours may do, as functions of all objects that return complaints (`where: what`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.manifests.kustomize import Object
from tests.manifests.overlays import Pod, of_kind, pods, ray_clusters

_SECRET_WORDS = re.compile(r"(password|passwd|secret|token|api_?key)", re.IGNORECASE)
_WRITABLE = {"emptyDir", "persistentVolumeClaim", "configMap", "secret", "projected"}  # volumes of the standard
_WORLD = {"0.0.0.0/0", "::/0"}
_OPEN_PORTS = {443, 6443}  # to which a pod may go out: HTTPS, the API server


def _containers(pod: Pod) -> Iterator[tuple[str, dict[str, Any]]]:
    for container in [*pod.spec.get("initContainers", []), *pod.spec["containers"]]:
        yield f"{pod.where}, {container['name']}", container


def limits(objects: list[Object]) -> Iterator[str]:
    """Requests and limits for CPU and memory; what cannot be shared is requested as it is limited."""
    everything = [(where, one.get("resources", {})) for pod in pods(objects) for where, one in _containers(pod)]
    for where, _, cluster in ray_clusters(objects):
        if "autoscalerOptions" in cluster:
            everything.append((f"{where}, autoscaler", cluster["autoscalerOptions"].get("resources", {})))
    for where, resources in everything:
        for kind in ("requests", "limits"):
            for name in sorted({"cpu", "memory"} - resources.get(kind, {}).keys()):
                yield f"{where}: no {kind} for {name}"
        for name, value in resources.get("limits", {}).items():
            if "/" in name and resources.get("requests", {}).get(name) != value:
                yield f"{where}: {name} is requested otherwise than it is limited"
    for pod in pods(objects):
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.where}: volume {volume['name']} may fill the machine's disk"


def not_root(objects: list[Object]) -> Iterator[str]:
    """The restricted standard for pods, a read-only root file system, and no user 0."""
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            yield f"{pod.where}: runAsNonRoot is not true"
        if not context.get("runAsUser"):
            yield f"{pod.where}: runAsUser is missing or 0"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.where}: no seccompProfile RuntimeDefault"
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.spec.get(field):
                yield f"{pod.where}: {field}"
        for volume in pod.spec.get("volumes", []):
            for kind in sorted(volume.keys() - {"name"} - _WRITABLE):
                yield f"{pod.where}: volume {volume['name']} is a {kind}"
    contexts = [(where, one.get("securityContext", {})) for pod in pods(objects) for where, one in _containers(pod)]
    for where, _, cluster in ray_clusters(objects):
        if "autoscalerOptions" in cluster:
            contexts.append((f"{where}, autoscaler", cluster["autoscalerOptions"].get("securityContext", {})))
    for where, context in contexts:
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation is not false"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: readOnlyRootFilesystem is not true"
        if context.get("capabilities", {}) != {"drop": ["ALL"]}:
            yield f"{where}: not all capabilities are dropped"
        if context.get("privileged") or context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
            yield f"{where}: privileged or root"


def has_room_to_write(objects: list[Object]) -> Iterator[str]:
    """With a read-only root, /tmp has to be a volume."""
    for pod in pods(objects):
        for where, container in _containers(pod):
            mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
            if "/tmp" not in mounted and not where.startswith("StatefulSet redis"):  # redis-server writes /data alone
                yield f"{where}: /tmp is not a volume"


def no_api_rights(objects: list[Object]) -> Iterator[str]:
    """No pod gets a token of the API server by default; the autoscaler alone mounts one. Nobody is given rights."""
    accounts = {one["metadata"]["name"]: one for one in of_kind(objects, "ServiceAccount")}
    for name, one in accounts.items():
        if one.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {name}: mounts its token everywhere"
    for pod in pods(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: automountServiceAccountToken is not false"
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield f"{pod.where}: runs under the default account"
        tokens = {
            volume["name"]
            for volume in pod.spec.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        }
        for where, container in _containers(pod):
            if tokens & {mount["name"] for mount in container.get("volumeMounts", [])}:
                yield f"{where}: mounts a token of the API server"
    for one in of_kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield f"{one['kind']} {one['metadata']['name']}: ftmeta needs no rights beyond those the operator gives"


def no_open_door(objects: list[Object]) -> Iterator[str]:
    """No Service, port or policy lets the world in; out goes HTTPS alone, and nothing to the metadata service."""
    for one in of_kind(objects, "Service"):
        if one["spec"].get("type", "ClusterIP") != "ClusterIP" or one["spec"].get("externalIPs"):
            yield f"Service {one['metadata']['name']}: reached from outside the cluster"
    for where, _, cluster in ray_clusters(objects):
        if cluster["headGroupSpec"].get("serviceType") != "ClusterIP" or cluster["headGroupSpec"].get("enableIngress"):
            yield f"{where}: the dashboard is reached from outside the cluster"
    for one in of_kind(objects, "RayService"):
        if one["spec"].get("serveService", {}).get("spec", {}).get("type", "ClusterIP") != "ClusterIP":
            yield f"RayService {one['metadata']['name']}: the service is reached from outside the cluster"
    for one in of_kind(objects, "Ingress"):
        if not one["spec"].get("tls"):
            yield f"Ingress {one['metadata']['name']}: without TLS"
    for pod in pods(objects):
        for where, container in _containers(pod):
            for port in container.get("ports", []):
                if "hostPort" in port:
                    yield f"{where}: port {port['containerPort']} is open on the machine"
    for one in of_kind(objects, "NetworkPolicy"):
        yield from _open_policy(f"NetworkPolicy {one['metadata']['name']}", one["spec"])


def _open_policy(where: str, spec: dict[str, Any]) -> Iterator[str]:
    for rule in spec.get("ingress", []):
        peers = rule.get("from", [])
        if not peers:
            yield f"{where}: lets everyone in"
        for peer in peers:
            if "ipBlock" in peer:
                yield f"{where}: lets addresses in, not pods"
            if peer.get("namespaceSelector") == {} or ("podSelector" in peer and peer["podSelector"] == {}):
                yield f"{where}: lets every pod in"
            if "namespaceSelector" in peer and not rule.get("ports"):
                yield f"{where}: lets another namespace in at every port"
    for rule in spec.get("egress", []):
        if not rule.get("to"):
            yield f"{where}: lets out to everyone"
        for peer in rule.get("to", []):
            block = peer.get("ipBlock", {})
            if block.get("cidr") in _WORLD:
                if {port.get("port") for port in rule.get("ports", [{}])} - _OPEN_PORTS:
                    yield f"{where}: out to the world at more than {sorted(_OPEN_PORTS)}"
                if "169.254.0.0/16" not in block.get("except", []):
                    yield f"{where}: out to the machines' metadata service"


def default_deny(objects: list[Object]) -> Iterator[str]:
    """A namespace in which pods run has the policy that denies everything, and enforces the restricted standard."""
    for one in of_kind(objects, "Namespace"):
        if one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {one['metadata']['name']}: does not enforce the restricted standard"
        deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if not any(policy["spec"] == deny for policy in of_kind(objects, "NetworkPolicy")):
            yield f"Namespace {one['metadata']['name']}: no policy denies everything"


def no_secrets(objects: list[Object]) -> Iterator[str]:
    """Values of secrets are in no manifest: no Secret object, no literal for a name that sounds like one, no password
    in an address."""
    for one in of_kind(objects, "Secret"):
        yield f"Secret {one['metadata']['name']}: in a file"
    for one in of_kind(objects, "ConfigMap"):
        for key, value in one.get("data", {}).items():
            if _SECRET_WORDS.search(key) and key not in _HARMLESS:
                yield f"ConfigMap {one['metadata']['name']}: {key}"
            if re.search(r"://[^/\s:@]+:[^/\s@]+@", value):
                yield f"ConfigMap {one['metadata']['name']}: an address in {key} has a password"
    for pod in pods(objects):
        for where, container in _containers(pod):
            for entry in container.get("env", []):
                if _SECRET_WORDS.search(entry["name"]) and entry.get("value"):
                    yield f"{where}: {entry['name']} has its value in the file"
            words = yaml.safe_dump([container.get("command"), container.get("args"), container.get("env")])
            if re.search(r"://[^/\s:@]+:[^/\s@]+@", words):
                yield f"{where}: an address has a password"


_HARMLESS = {"TOKENIZERS_PARALLELISM"}


def pinned(objects: list[Object]) -> Iterator[str]:
    """Every image has a tag that is a version."""
    for pod in pods(objects):
        for where, container in _containers(pod):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            if not re.match(r"\d+\.\d+", tag):
                yield f"{where}: image {container['image']} has no version"
            if container.get("imagePullPolicy") == "Always":
                yield f"{where}: an image that is pulled again may be another one"


def probes(objects: list[Object]) -> Iterator[str]:
    """What runs for long says when it is ready and whether it lives."""
    for pod in pods(objects):
        if pod.owner["kind"] in ("Job", "CronJob") or pod.where.endswith("submitter"):
            continue
        for where, container in _containers(pod):
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{where}: no {probe}"
            if pod.ray and "startupProbe" not in container:
                yield f"{where}: no startupProbe, and Ray takes a while"
            if pod.ray and "preStop" not in container.get("lifecycle", {}):
                yield f"{where}: is killed without leaving its cluster"


POLICIES: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
    limits,
    not_root,
    has_room_to_write,
    no_api_rights,
    no_open_door,
    default_deny,
    no_secrets,
    pinned,
    probes,
)
