"""Every object of every overlay against strict schemas, and the schemas against what they are reduced from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.kustomize import Object
from tests.manifests.overlays import OVERLAYS, of_kind, rendered
from tests.manifests.schemas import KUBERAY, VARIABLE, complaints, reduce, reduced


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay: str) -> None:
    found = [
        f"{one['kind']} {one['metadata']['name']}: {said}" for one in rendered(overlay) for said in complaints(one)
    ]
    assert found == []


@pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"KubeRay's full definitions are missing: ${VARIABLE} is not set"
)
def test_the_reduced_schema_is_that_of_the_release() -> None:
    assert reduce(Path(os.environ[VARIABLE])) == reduced()


def test_the_reduced_schema_says_where_it_is_from() -> None:
    assert reduced()["origin"] == KUBERAY
    assert "v1.7.0" in KUBERAY


def head(one: Object) -> dict[str, Any]:
    """The head's pod specification."""
    spec = one["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return dict(cluster["headGroupSpec"]["template"]["spec"])


def worker_group(one: Object) -> dict[str, Any]:
    spec = one["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return cluster["workerGroupSpecs"][0]  # type: ignore[no-any-return]


BROKEN: dict[str, tuple[str, str, Callable[[Object], Any], str]] = {
    "an unknown field of a RayCluster": (
        "gpu",
        "RayCluster",
        lambda one: one["spec"].update(headGroup={}),
        "headGroup",
    ),
    "a mode that is none": (
        "gpu",
        "RayCluster",
        lambda one: one["spec"]["authOptions"].update(mode="on"),
        "spec.authOptions.mode: 'on' is not one of",
    ),
    "a number as a parameter of ray start": (
        "gpu",
        "RayCluster",
        lambda one: one["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "0 is not of type 'string'",
    ),
    "replicas as text": ("gpu", "RayCluster", lambda one: worker_group(one).update(replicas="2"), "'2' is not of type"),
    "no head": ("gpu", "RayService", lambda one: one["spec"]["rayClusterConfig"].pop("headGroupSpec"), "headGroupSpec"),
    "a deletion rule without a policy": (
        "gpu/collect",
        "RayJob",
        lambda one: one["spec"].update(deletionStrategy={"deletionRules": [{"condition": {"ttlSeconds": 1}}]}),
        "'policy' is a required property",
    ),
    "a deadline of zero": (
        "gpu/collect",
        "RayJob",
        lambda one: one["spec"].update(preRunningDeadlineSeconds=0),
        "0 is less than the minimum of 1",
    ),
    "an unknown field of a pod within a Ray kind": (
        "gpu/collect",
        "RayJob",
        lambda one: head(one)["containers"][0].update(port=1),
        "spec.rayClusterSpec.headGroupSpec.template.template.spec.containers.0",
    ),
    "a probe without a port": (
        "gpu",
        "RayService",
        lambda one: head(one)["containers"][0].update(readinessProbe={"httpGet": {"path": "/"}}),
        "'port' is a required property",
    ),
    "an unknown field of a Deployment": ("gpu", "Deployment", lambda one: one["spec"].update(replica=1), "replica"),
    "a schedule that is missing": (
        "gpu",
        "CronJob",
        lambda one: one["spec"].pop("schedule"),
        "'schedule' is a required",
    ),
    "a port as a list": (
        "gpu",
        "NetworkPolicy",
        lambda one: one["spec"].update(ingress=[{"ports": [{"port": [1]}]}]),
        "ports.0.port",
    ),
    "an endpoint without a port": (
        "gpu",
        "PodMonitor",
        lambda one: one["spec"]["podMetricsEndpoints"][0].pop("port"),
        "'port' is a required property",
    ),
    "a queue that has no group": (
        "gpu-kueue/queues",
        "ClusterQueue",
        lambda one: one["spec"].update(resourceGroups=[]),
        "resourceGroups",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_object_is_found(name: str) -> None:
    overlay, kind, break_it, said = BROKEN[name]
    one = of_kind(rendered(overlay), kind)[0]
    assert complaints(one) == []
    break_it(one)
    assert said in "\n".join(complaints(one))


def test_an_unknown_kind_is_no_valid_one() -> None:
    with pytest.raises(FileNotFoundError):
        complaints({"apiVersion": "v1", "kind": "Podd", "metadata": {"name": "x"}})
