"""Every overlay keeps every policy; and each policy finds a manifest that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.manifests.kustomize import Object
from tests.manifests.overlays import OVERLAYS, pods, rendered
from tests.manifests.policies import POLICIES


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_breaks_a_policy(overlay: str) -> None:
    assert [said for policy in POLICIES for said in policy(rendered(overlay))] == []


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pod(objects: list[Object], where: str) -> dict[str, Any]:
    """The specification of the pod at `where`, to be changed."""
    return next(one.spec for one in pods(objects) if one.where == where)


def container(objects: list[Object], where: str) -> dict[str, Any]:
    return pod(objects, where)["containers"][0]  # type: ignore[no-any-return]


HEAD, WORKER, MLFLOW = "RayCluster ftmeta, head", "RayCluster ftmeta, gpu-4x24gb", "Deployment mlflow"
WORLD = {"ipBlock": {"cidr": "0.0.0.0/0"}}
Break = Callable[[list[Object]], Any]
BROKEN: dict[str, tuple[Break, str]] = {
    "no limits": (lambda all_: container(all_, MLFLOW)["resources"].pop("limits"), "mlflow: no limits for cpu"),
    "no request of memory": (
        lambda all_: container(all_, WORKER)["resources"]["requests"].pop("memory"),
        "no requests for memory",
    ),
    "an autoscaler without limits": (
        lambda all_: named(all_, "RayCluster", "ftmeta")["spec"]["autoscalerOptions"].pop("resources"),
        "RayCluster ftmeta, autoscaler: no limits for memory",
    ),
    "GPUs that are requested twice": (
        lambda all_: container(all_, WORKER)["resources"]["requests"].update({"nvidia.com/gpu": "2"}),
        "nvidia.com/gpu is requested otherwise",
    ),
    "a volume without an end": (
        lambda all_: pod(all_, HEAD)["volumes"].append({"name": "more", "emptyDir": {}}),
        "volume more may fill",
    ),
    "root": (lambda all_: pod(all_, MLFLOW)["securityContext"].update(runAsUser=0), "runAsUser is missing or 0"),
    "perhaps root": (lambda all_: pod(all_, MLFLOW)["securityContext"].pop("runAsNonRoot"), "runAsNonRoot is not true"),
    "root in a container": (
        lambda all_: container(all_, HEAD)["securityContext"].update(runAsUser=0),
        "privileged or root",
    ),
    "privileges": (
        lambda all_: container(all_, HEAD)["securityContext"].update(allowPrivilegeEscalation=True),
        "allowPrivilegeEscalation is not false",
    ),
    "a capability": (
        lambda all_: container(all_, WORKER)["securityContext"].update(capabilities={"add": ["SYS_PTRACE"]}),
        "not all capabilities are dropped",
    ),
    "a root that can be written": (
        lambda all_: container(all_, WORKER)["securityContext"].pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem is not true",
    ),
    "an autoscaler that may do more": (
        lambda all_: named(all_, "RayCluster", "ftmeta")["spec"]["autoscalerOptions"].pop("securityContext"),
        "autoscaler: not all capabilities are dropped",
    ),
    "no seccomp": (lambda all_: pod(all_, HEAD)["securityContext"].pop("seccompProfile"), "no seccompProfile"),
    "the machine's network": (lambda all_: pod(all_, HEAD).update(hostNetwork=True), "hostNetwork"),
    "the machine's files": (
        lambda all_: pod(all_, HEAD)["volumes"].append({"name": "disk", "hostPath": {"path": "/"}}),
        "volume disk is a hostPath",
    ),
    "nowhere to write": (
        lambda all_: container(all_, MLFLOW).update(volumeMounts=[]),
        "Deployment mlflow, mlflow: /tmp is not a volume",
    ),
    "a token for every pod": (
        lambda all_: named(all_, "ServiceAccount", "ray-worker").pop("automountServiceAccountToken"),
        "ServiceAccount ray-worker: mounts its token everywhere",
    ),
    "a token in a pod": (
        lambda all_: pod(all_, WORKER).update(automountServiceAccountToken=True),
        "automountServiceAccountToken is not false",
    ),
    "the autoscaler's token for jobs": (
        lambda all_: container(all_, HEAD)["volumeMounts"].append({"name": "kubernetes", "mountPath": "/x"}),
        "mounts a token of the API server",
    ),
    "the default account": (lambda all_: pod(all_, WORKER).pop("serviceAccountName"), "runs under the default account"),
    "a right": (
        lambda all_: all_.append({"kind": "ClusterRoleBinding", "metadata": {"name": "admin"}}),
        "ClusterRoleBinding admin",
    ),
    "a load balancer": (
        lambda all_: named(all_, "Service", "mlflow")["spec"].update(type="LoadBalancer"),
        "Service mlflow: reached from outside",
    ),
    "a dashboard on the net": (
        lambda all_: named(all_, "RayCluster", "ftmeta")["spec"]["headGroupSpec"].update(serviceType="NodePort"),
        "the dashboard is reached from outside",
    ),
    "a service on the net": (
        lambda all_: named(all_, "RayService", "selector")["spec"].update(serveService={"spec": {"type": "NodePort"}}),
        "RayService selector: the service is reached from outside",
    ),
    "an ingress in plain text": (
        lambda all_: all_.append({"kind": "Ingress", "metadata": {"name": "page"}, "spec": {"rules": []}}),
        "Ingress page: without TLS",
    ),
    "a port of the machine": (
        lambda all_: container(all_, HEAD)["ports"][0].update(hostPort=6379),
        "port 6379 is open on the machine",
    ),
    "everyone is let in": (
        lambda all_: named(all_, "NetworkPolicy", "redis")["spec"].update(ingress=[{"ports": [{"port": 6379}]}]),
        "NetworkPolicy redis: lets everyone in",
    ),
    "the world is let in": (
        lambda all_: named(all_, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"].append(WORLD),
        "NetworkPolicy redis: lets addresses in",
    ),
    "every namespace is let in": (
        lambda all_: named(all_, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"].append(
            {"namespaceSelector": {}}
        ),
        "NetworkPolicy redis: lets every pod in",
    ),
    "out to the world": (
        lambda all_: named(all_, "NetworkPolicy", "fetch")["spec"]["egress"][0].pop("ports"),
        "NetworkPolicy fetch: out to the world at more than",
    ),
    "out to the metadata service": (
        lambda all_: named(all_, "NetworkPolicy", "fetch")["spec"]["egress"][0]["to"][0]["ipBlock"].pop("except"),
        "NetworkPolicy fetch: out to the machines' metadata service",
    ),
    "nothing is denied": (
        lambda all_: all_.remove(named(all_, "NetworkPolicy", "default-deny")),
        "no policy denies everything",
    ),
    "a lax namespace": (
        lambda all_: named(all_, "Namespace", "ftmeta")["metadata"].update(labels={}),
        "does not enforce the restricted standard",
    ),
    "a secret in a file": (
        lambda all_: all_.append({"kind": "Secret", "metadata": {"name": "mine"}}),
        "Secret mine: in a file",
    ),
    "a password as a value": (
        lambda all_: container(all_, MLFLOW)["env"].append({"name": "MY_PASSWORD", "value": "x"}),
        "MY_PASSWORD has its value in the file",
    ),
    "a password in an address": (
        lambda all_: container(all_, MLFLOW)["args"].append("--uri=postgresql://me:secret@postgres/mlflow"),
        "an address has a password",
    ),
    "a password in a file of settings": (
        lambda all_: named(all_, "ConfigMap", "mlflow")["data"].update({"a.ini": "uri = postgresql://me:x@postgres/m"}),
        "an address in a.ini has a password",
    ),
    "the latest image": (
        lambda all_: container(all_, "StatefulSet redis").update(image="redis:latest"),
        "redis:latest has no version",
    ),
    "an image without a tag": (
        lambda all_: container(all_, HEAD).update(image="registry.example:5000/ftmeta"),
        "has no version",
    ),
    "no readiness": (lambda all_: container(all_, MLFLOW).pop("readinessProbe"), "no readinessProbe"),
    "no way to leave": (lambda all_: container(all_, WORKER).pop("lifecycle"), "without leaving its cluster"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_policy_finds_what_breaks_it(name: str) -> None:
    break_it, said = BROKEN[name]
    objects = rendered("gpu")
    break_it(objects)
    assert said in "\n".join(found for policy in POLICIES for found in policy(objects))


def test_every_policy_is_broken_by_something() -> None:
    silent = {policy.__name__ for policy in POLICIES}
    for break_it, _ in BROKEN.values():
        objects = rendered("gpu")
        break_it(objects)
        silent -= {policy.__name__ for policy in POLICIES if list(policy(objects))}
    assert silent == set()
