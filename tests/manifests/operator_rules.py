"""What the operators check when an object reaches them, beyond its schema: KubeRay 1.7, Kueue, Kubernetes itself.

Each rule is a function of all objects that returns complaints, as `where: what`. KubeRay's are those of its functions
ValidateRayClusterSpec, ValidateRayJobSpec and ValidateRayServiceSpec as far as our manifests could break them, with the
feature gates as they are by default; a RayJob that breaks one is taken by the API server and never starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.manifests.kustomize import Object
from tests.manifests.overlays import of_kind, pods, ray_clusters
from tests.manifests.quantities import amount

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # a DNS label of RFC 1035
_LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}  # the operator appends to it and makes services of it
_LEAST_RAY = (2, 52)  # for token authentication
_QUEUE = "kueue.x-k8s.io/queue-name"
_OWN_RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}


def _groups(cluster: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group


def names(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, *_LONGEST):
        name, longest = one["metadata"]["name"], _LONGEST[one["kind"]]
        if len(name) > longest or not _NAME.fullmatch(name):
            yield f"{one['kind']} {name}: a name is a DNS label of at most {longest} characters"


def replicas(objects: list[Object]) -> Iterator[str]:
    for where, _, cluster in ray_clusters(objects):
        seen = [group["groupName"] for group in cluster.get("workerGroupSpecs", [])]
        if len(set(seen)) != len(seen):
            yield f"{where}: two groups of one name"
        for group in cluster.get("workerGroupSpecs", []):
            least, now, most = (group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))
            if None in (least, now, most):
                yield f"{where}, {group['groupName']}: say minReplicas, replicas and maxReplicas"
            elif not 0 <= least <= now <= most:
                yield f"{where}, {group['groupName']}: not minReplicas {least} <= replicas {now} <= maxReplicas {most}"
            if "idleTimeoutSeconds" in group and not (
                cluster.get("enableInTreeAutoscaling") and cluster.get("autoscalerOptions", {}).get("version") == "v2"
            ):
                yield f"{where}, {group['groupName']}: idleTimeoutSeconds of a group is for autoscaler v2"


def ray_start(objects: list[Object]) -> Iterator[str]:
    for where, _, cluster in ray_clusters(objects):
        for name, group in _groups(cluster):
            given = group.get("rayStartParams", {})
            for key, value in given.items():
                if not isinstance(value, str):
                    yield f"{where}, {name}: rayStartParams {key} is {value!r}; it has to be text"
            if _OWN_RESOURCES & given.keys() and group.get("resources"):
                yield f"{where}, {name}: resources both in rayStartParams and in resources"
            for key in {"labels", "redis-password", "redis-username"} & given.keys():
                yield f"{where}, {name}: rayStartParams may not have {key}"
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        gpus = [key for key in head["resources"]["limits"] if key.endswith("gpu")]
        if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
            yield f'{where}, head: num-cpus is not "0", so tasks may fill the head'
        if gpus:
            yield f"{where}, head: {gpus[0]} for a head that runs no tasks"


def authentication(objects: list[Object]) -> Iterator[str]:
    for where, one, cluster in ray_clusters(objects):
        options = cluster.get("authOptions", {})
        if options.get("mode") != "token" or not options.get("secretName"):
            yield f"{where}: authOptions is not {{mode: token, secretName: ..}}"
        version = re.match(r"(\d+)\.(\d+)\.\d+$", cluster.get("rayVersion", ""))
        if version is None or tuple(map(int, version.groups())) < _LEAST_RAY:
            yield f"{where}: rayVersion {cluster.get('rayVersion')!r}; token authentication needs one from 2.52.0"
        if options.get("enableK8sTokenAuth") and one["kind"] != "RayCluster":
            yield f"{where}: enableK8sTokenAuth is for a RayCluster alone"


def fault_tolerance(objects: list[Object]) -> Iterator[str]:
    taken = {"REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS"}
    for where, one, cluster in ray_clusters(objects):
        options = cluster.get("gcsFaultToleranceOptions")
        marks = {"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & one["metadata"].get(
            "annotations", {}
        ).keys()
        if marks:
            yield f"{where}: {sorted(marks)[0]} beside gcsFaultToleranceOptions, which is enough"
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        for name in sorted(taken & {entry["name"] for entry in head.get("env", [])}):
            yield f"{where}, head: {name} is given by gcsFaultToleranceOptions, not by env"
        if options is None:
            continue
        if options.get("backend", "redis") != "redis":
            yield f"{where}: backend {options['backend']} is behind a feature gate that is off by default"
        if "storage" in options:
            yield f"{where}: storage is not for the backend redis"
        if "valueFrom" not in options.get("redisPassword", {}):
            yield f"{where}: the Redis password does not come from a secret"
        if one["kind"] == "RayJob":
            yield f"{where}: a job's driver dies with its head, so fault tolerance of the head is of no use"


def autoscaling(objects: list[Object]) -> Iterator[str]:
    for where, _, cluster in ray_clusters(objects):
        scales = cluster.get("enableInTreeAutoscaling", False)
        options = cluster.get("autoscalerOptions")
        if options and not scales:
            yield f"{where}: autoscalerOptions without enableInTreeAutoscaling"
        if not scales:
            continue
        if (options or {}).get("version") != "v2":
            yield f"{where}: the autoscaler is not v2"
        for name, group in _groups(cluster):
            if group["template"]["spec"].get("restartPolicy") not in (None, "Never"):
                yield f"{where}, {name}: restartPolicy has to be Never with autoscaler v2"
            if group.get("suspend"):
                yield f"{where}, {name}: a group cannot be suspended where the autoscaler works"
            entries = group["template"]["spec"]["containers"][0].get("env", [])
            if any(entry["name"] == "RAY_enable_autoscaler_v2" for entry in entries):
                yield f"{where}, {name}: RAY_enable_autoscaler_v2 is given by autoscalerOptions.version"


def behind_gates(objects: list[Object]) -> Iterator[str]:
    for where, _, cluster in ray_clusters(objects):
        for field in sorted({"networkPolicy", "tlsOptions", "historyServerOptions"} & cluster.keys()):
            yield f"{where}: {field} is behind a feature gate that is off by default"


def ray_jobs(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "RayJob"):
        where, spec = f"RayJob {one['metadata']['name']}", one["spec"]
        ends, strategy = spec.get("shutdownAfterJobFinishes", False), spec.get("deletionStrategy")
        mode = spec.get("submissionMode", "K8sJobMode")
        if bool(spec.get("rayClusterSpec")) == bool(spec.get("clusterSelector")):
            yield f"{where}: one of rayClusterSpec and clusterSelector"
        if spec.get("clusterSelector") and spec.get("backoffLimit", 0) > 0:
            yield f"{where}: backoffLimit makes new clusters, so it does not go with clusterSelector"
        if spec.get("suspend") and (not ends or spec.get("clusterSelector")):
            yield f"{where}: suspend is for a job with a cluster of its own that ends with it"
        if spec.get("ttlSecondsAfterFinished", 0) > 0 and not ends:
            yield f"{where}: ttlSecondsAfterFinished without shutdownAfterJobFinishes"
        if strategy is not None and ends:
            yield f"{where}: both shutdownAfterJobFinishes and deletionStrategy"
        if (
            strategy is not None
            and "deletionRules" not in strategy
            and not {"onSuccess", "onFailure"} <= strategy.keys()
        ):
            yield f"{where}: deletionStrategy needs onSuccess and onFailure, or deletionRules"
        if not ends and strategy is None and not spec.get("clusterSelector"):
            yield f"{where}: its cluster is kept, and paid for, when it has ended"
        if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & spec.keys():
            yield f"{where}: SidecarMode has no submitter"
        for field in ("backoffLimit", "activeDeadlineSeconds"):
            if spec.get(field, 1) < 0:
                yield f"{where}: {field} is negative"
        if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
            yield f"{where}: runtimeEnvYAML is no mapping"
        submitter = spec.get("submitterPodTemplate", {}).get("spec", {})
        if submitter and submitter.get("restartPolicy") not in ("Never", "OnFailure"):
            yield f"{where}, submitter: the restartPolicy of a job is Never or OnFailure"


def ray_services(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "RayService"):
        where, spec = f"RayService {one['metadata']['name']}", one["spec"]
        kind = spec.get("upgradeStrategy", {}).get("type", "NewCluster")
        if kind not in ("NewCluster", "None"):
            yield f"{where}: upgradeStrategy {kind} is unknown or behind a feature gate"
        if spec["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
            yield f"{where}: headService may have no name"
        serve = yaml.safe_load(spec["serveConfigV2"])
        if serve.get("http_options", {}).get("host") != "0.0.0.0":
            yield f"{where}: Serve's proxies have to listen on the pod's address: http_options.host 0.0.0.0"
        if not spec.get("excludeHeadPodFromServeSvc"):
            yield f"{where}: requests come to the head, which has no replica"


def kueue(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "RayJob", "RayCluster", "RayService"):
        where, spec = f"{one['kind']} {one['metadata']['name']}", one["spec"]
        if _QUEUE not in one["metadata"].get("labels", {}):
            if spec.get("suspend"):
                yield f"{where}: suspended, and in no queue that would start it"
            continue
        if one["kind"] != "RayJob":
            yield f"{where}: in a queue it holds its resources for as long as it exists"
            continue
        cluster = spec.get("rayClusterSpec") or {}
        if not spec.get("suspend"):
            yield f"{where}: starts before Kueue admits it; suspend it"
        if not spec.get("shutdownAfterJobFinishes"):
            yield f"{where}: a job in a queue has to give its cluster back"
        if spec.get("clusterSelector"):
            yield f"{where}: a job in a queue has a cluster of its own"
        if "preRunningDeadlineSeconds" in spec:
            yield f"{where}: preRunningDeadlineSeconds may run out in the queue"
        if cluster.get("enableInTreeAutoscaling"):
            yield f"{where}: a job in a queue has a cluster of a fixed size"
        groups = cluster.get("workerGroupSpecs", [])
        if len(groups) > 7:
            yield f"{where}: Kueue takes at most seven groups of workers"
        for group in groups:
            if group["groupName"] == "head":
                yield f"{where}: a group named head"


def kueue_has_room(objects: list[Object]) -> Iterator[str]:
    """Each job fits into the queue, or it waits for ever. `objects` are the queues and the jobs."""
    for queue in of_kind(objects, "ClusterQueue"):
        quota: dict[str, float] = {}
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                for entry in flavor["resources"]:
                    quota[entry["name"]] = quota.get(entry["name"], 0) + amount(entry["nominalQuota"])
        for job in of_kind(objects, "RayJob"):
            asked: dict[str, float] = {}
            for times, spec in _pods_of_job(job):
                for container in spec["containers"]:
                    for name, value in container["resources"]["requests"].items():
                        asked[name] = asked.get(name, 0) + times * amount(value)
            for name, value in asked.items():
                there = quota.get(name, 0)
                if value > there:
                    yield f"RayJob {job['metadata']['name']}: asks for {name} {value:g}; the queue has {there:g}"


def _pods_of_job(job: Object) -> Iterator[tuple[int, dict[str, Any]]]:
    cluster = job["spec"]["rayClusterSpec"]
    yield 1, cluster["headGroupSpec"]["template"]["spec"]
    yield 1, job["spec"]["submitterPodTemplate"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["replicas"], group["template"]["spec"]


def disruption_budgets(objects: list[Object]) -> Iterator[str]:
    """Ray pods belong to a custom resource without a scale, for which only an integer minAvailable is allowed."""
    everything = list(pods(objects))
    for one in of_kind(objects, "PodDisruptionBudget"):
        where, spec = f"PodDisruptionBudget {one['metadata']['name']}", one["spec"]
        wanted = spec["selector"]["matchLabels"].items()
        selected = [pod for pod in everything if wanted <= pod.labels.items()]
        if any(pod.ray for pod in selected) and not (
            type(spec.get("minAvailable")) is int and "maxUnavailable" not in spec
        ):
            yield f"{where}: Ray pods need an integer minAvailable"


def ray_volumes(objects: list[Object]) -> Iterator[str]:
    """Where the object store lies, and where the autoscaler leaves its logs for the head."""
    for where, _, cluster in ray_clusters(objects):
        for name, group in _groups(cluster):
            spec = group["template"]["spec"]
            container = spec["containers"][0]
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
            if shm.get("medium") != "Memory":
                yield f"{where}, {name}: /dev/shm is not in memory"
                continue
            store = amount(group.get("rayStartParams", {}).get("object-store-memory", "0"))
            if not 0 < store <= amount(shm.get("sizeLimit", "0")) <= amount(container["resources"]["limits"]["memory"]):
                yield f"{where}, {name}: not 0 < object-store-memory <= /dev/shm <= memory"
            if mounts.get("/tmp/ray") != "ray-logs":
                yield f"{where}, {name}: /tmp/ray is not the volume ray-logs, by which the operator shares it"


RULES: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
    names,
    replicas,
    ray_start,
    authentication,
    fault_tolerance,
    autoscaling,
    behind_gates,
    ray_jobs,
    ray_services,
    kueue,
    kueue_has_room,
    disruption_budgets,
    ray_volumes,
)
