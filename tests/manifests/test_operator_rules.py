"""No overlay breaks a rule that only an operator checks; and each rule finds an object that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.manifests.kustomize import Object
from tests.manifests.operator_rules import RULES, kueue_has_room
from tests.manifests.overlays import OVERLAYS, rendered
from tests.manifests.quantities import amount
from tests.manifests.test_schemas import head, worker_group


def of(objects: list[Object], kind: str) -> Object:
    return next(one for one in objects if one["kind"] == kind)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_breaks_a_rule(overlay: str) -> None:
    assert [said for rule in RULES for said in rule(rendered(overlay))] == []


@pytest.mark.parametrize("job", ["gpu-kueue/collect", "gpu-kueue/finetune"])
def test_the_queue_has_room_for_each_job(job: str) -> None:
    assert list(kueue_has_room(rendered("gpu-kueue/queues") + rendered(job))) == []


Break = Callable[[list[Object]], Any]
BROKEN: dict[str, tuple[str, Break, str]] = {
    "a name that is too long": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["metadata"].update(name="x" * 48),
        "at most 47 characters",
    ),
    "a name with a dot": ("gpu", lambda all_: of(all_, "RayCluster")["metadata"].update(name="a.b"), "a DNS label"),
    "more replicas than the most": (
        "gpu",
        lambda all_: worker_group(of(all_, "RayCluster")).update(replicas=9),
        "not minReplicas 0 <= replicas 9 <= maxReplicas 4",
    ),
    "an idle time without the autoscaler": (
        "gpu-kueue/collect",
        lambda all_: worker_group(of(all_, "RayJob")).update(idleTimeoutSeconds=60),
        "idleTimeoutSeconds of a group is for autoscaler v2",
    ),
    "a parameter that is no text": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"]["headGroupSpec"]["rayStartParams"].update(block=True),
        "rayStartParams block is True",
    ),
    "a head that takes tasks": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"]["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
        "tasks may fill the head",
    ),
    "a head with a GPU": (
        "gpu/collect",
        lambda all_: head(of(all_, "RayJob"))["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
        "nvidia.com/gpu for a head",
    ),
    "no token": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"].pop("authOptions"),
        "authOptions is not {mode: token",
    ),
    "a Ray without tokens": (
        "gpu",
        lambda all_: of(all_, "RayService")["spec"]["rayClusterConfig"].update(rayVersion="2.9.0"),
        "token authentication needs one from 2.52.0",
    ),
    "a Redis password in the environment": (
        "gpu",
        lambda all_: head(of(all_, "RayCluster"))["containers"][0]["env"].append(
            {"name": "REDIS_PASSWORD", "value": "x"}
        ),
        "REDIS_PASSWORD is given by gcsFaultToleranceOptions",
    ),
    "a Redis password in the file": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"]["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
        "the Redis password does not come from a secret",
    ),
    "the old annotation": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["metadata"].update(annotations={"ray.io/ft-enabled": "true"}),
        "beside gcsFaultToleranceOptions",
    ),
    "a backend behind a gate": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"]["gcsFaultToleranceOptions"].update(backend="rocksdb"),
        "rocksdb is behind a feature gate",
    ),
    "fault tolerance for a job": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"]["rayClusterSpec"].update(
            gcsFaultToleranceOptions={"redisPassword": {}}
        ),
        "dies with its head",
    ),
    "workers that restart": (
        "gpu",
        lambda all_: worker_group(of(all_, "RayCluster"))["template"]["spec"].update(restartPolicy="Always"),
        "restartPolicy has to be Never",
    ),
    "the first autoscaler": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"]["autoscalerOptions"].update(version="v1"),
        "the autoscaler is not v2",
    ),
    "autoscaler options without it": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"].update(enableInTreeAutoscaling=False),
        "autoscalerOptions without enableInTreeAutoscaling",
    ),
    "KubeRay's own network policy": (
        "gpu",
        lambda all_: of(all_, "RayCluster")["spec"].update(networkPolicy={"mode": "DenyAll"}),
        "networkPolicy is behind a feature gate",
    ),
    "two ways of deletion": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].update(
            deletionStrategy={"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteCluster"}}
        ),
        "both shutdownAfterJobFinishes and deletionStrategy",
    ),
    "half a deletion strategy": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].update(
            shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0, deletionStrategy={"onSuccess": {}}
        ),
        "needs onSuccess and onFailure, or deletionRules",
    ),
    "a cluster that is left over": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].update(shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0),
        "is kept, and paid for",
    ),
    "time to live for what does not end": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].pop("shutdownAfterJobFinishes"),
        "ttlSecondsAfterFinished without shutdownAfterJobFinishes",
    ),
    "another's cluster, again and again": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].update(
            clusterSelector={"ray.io/cluster": "ftmeta"}, rayClusterSpec=None
        ),
        "does not go with clusterSelector",
    ),
    "no cluster": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].pop("rayClusterSpec"),
        "one of rayClusterSpec and",
    ),
    "a sidecar with a submitter": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"].update(submissionMode="SidecarMode"),
        "SidecarMode has no submitter",
    ),
    "a submitter that restarts for ever": (
        "gpu/collect",
        lambda all_: of(all_, "RayJob")["spec"]["submitterPodTemplate"]["spec"].update(restartPolicy="Always"),
        "is Never or OnFailure",
    ),
    "a negative limit": ("gpu/collect", lambda all_: of(all_, "RayJob")["spec"].update(backoffLimit=-1), "is negative"),
    "proxies on loopback": (
        "gpu",
        lambda all_: of(all_, "RayService")["spec"].update(serveConfigV2="http_options: {host: 127.0.0.1}"),
        "http_options.host 0.0.0.0",
    ),
    "an upgrade behind a gate": (
        "gpu",
        lambda all_: of(all_, "RayService")["spec"]["upgradeStrategy"].update(type="NewClusterWithIncrementalUpgrade"),
        "behind a feature gate",
    ),
    "a queued job that starts by itself": (
        "gpu-kueue/finetune",
        lambda all_: of(all_, "RayJob")["spec"].update(suspend=False),
        "starts before Kueue admits it",
    ),
    "a queued job that grows": (
        "gpu-kueue/finetune",
        lambda all_: of(all_, "RayJob")["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=True),
        "a cluster of a fixed size",
    ),
    "a queued job that gives up": (
        "gpu-kueue/finetune",
        lambda all_: of(all_, "RayJob")["spec"].update(preRunningDeadlineSeconds=60),
        "may run out in the queue",
    ),
    "a suspended job in no queue": (
        "gpu/finetune",
        lambda all_: of(all_, "RayJob")["spec"].update(suspend=True),
        "in no queue that would start it",
    ),
    "a percentage of Ray pods": (
        "gpu",
        lambda all_: of(all_, "PodDisruptionBudget")["spec"].update(minAvailable="50%"),
        "Ray pods need an integer minAvailable",
    ),
    "an object store larger than its memory": (
        "gpu",
        lambda all_: worker_group(of(all_, "RayCluster"))["rayStartParams"].update(
            {"object-store-memory": "9000000000"}
        ),
        "not 0 < object-store-memory",
    ),
    "the object store on a disk": (
        "gpu",
        lambda all_: [
            one.update(emptyDir={}) for one in head(of(all_, "RayCluster"))["volumes"] if one["name"] == "shm"
        ],
        "/dev/shm is not in memory",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_finds_what_breaks_it(name: str) -> None:
    overlay, break_it, said = BROKEN[name]
    objects = rendered(overlay)
    break_it(objects)
    assert said in "\n".join(found for rule in RULES for found in rule(objects))


def test_every_rule_is_broken_by_something() -> None:
    silent = {rule.__name__ for rule in RULES} - {"kueue_has_room"}
    for overlay, break_it, _ in BROKEN.values():
        objects = rendered(overlay)
        break_it(objects)
        silent -= {rule.__name__ for rule in RULES if list(rule(objects))}
    assert silent == set()


def test_a_job_larger_than_the_queue_is_found() -> None:
    objects = rendered("gpu-kueue/queues") + rendered("gpu-kueue/collect")
    of(objects, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][-1]["replicas"] = 5
    said = list(kueue_has_room(objects))
    assert "RayJob collect: asks for nvidia.com/gpu 20; the queue has 16" in said


def test_quantities() -> None:
    assert [amount(one) for one in ("500m", "2Gi", 3, "1k", "0.5")] == [0.5, 2 * 2**30, 3, 1000, 0.5]
    with pytest.raises(ValueError, match="could not convert"):
        amount("2 GB")
