"""What one file names, another has: secrets, accounts, claims, services, ports, images, and the way between pods."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.manifests.kustomize import Object, containers
from tests.manifests.network import WORLD, End, allowed, selects
from tests.manifests.overlays import (
    K8S,
    OVERLAYS,
    PLATFORMS,
    ROOT,
    of_kind,
    pods,
    ray_clusters,
    rendered,
    with_platform,
)
from tests.manifests.test_secrets import made_secrets

PROBED = {52365}  # the port of a Ray node's agent, which is no port of ours to declare
ADDED = {"kube-root-ca.crt"}  # ConfigMaps that Kubernetes puts into every namespace


def dicts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from dicts(value)
    elif isinstance(node, list):
        for value in node:
            yield from dicts(value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_secret_is_one_that_the_script_makes(overlay: str) -> None:
    made = made_secrets()
    for one in rendered(overlay):
        for node in dicts(one):
            if (wanted := node.get("secretKeyRef")) and not wanted.get("optional"):
                assert wanted["key"] in made[wanted["name"]]
            if node.get("mode") == "token":
                assert "auth_token" in made[node["secretName"]]  # the key that KubeRay looks for
            if credentials := node.get("credentials"):
                assert credentials["key"] in made[credentials["name"]]


def test_no_secret_is_made_for_nothing() -> None:
    text = "\n".join(file.read_text() for file in K8S.rglob("*.yaml"))
    assert [name for name in made_secrets() if not re.search(rf"(name|secretName): {name}\b", text)] == []


def test_the_two_ray_clusters_have_different_tokens() -> None:
    clusters = {one["kind"]: cluster for _, one, cluster in ray_clusters(rendered("gpu"))}
    assert clusters["RayCluster"]["authOptions"]["secretName"] != clusters["RayService"]["authOptions"]["secretName"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_accounts_claims_and_settings_exist(overlay: str) -> None:
    objects = with_platform(overlay)
    have = {
        kind: {one["metadata"]["name"] for one in of_kind(objects, kind)} for kind in ("ServiceAccount", "ConfigMap")
    }
    have["PersistentVolumeClaim"] = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
    for pod in pods(objects):
        assert pod.spec["serviceAccountName"] in have["ServiceAccount"], pod.where
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        if pod.owner["kind"] == "StatefulSet":
            volumes |= {claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", [])}
        for container in pod.spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, pod.where
        for node in dicts(pod.spec):
            if claim := node.get("persistentVolumeClaim"):
                assert claim["claimName"] in have["PersistentVolumeClaim"], pod.where
            for settings in (node.get("configMap"), node.get("configMapRef")):
                if settings and not settings.get("optional"):
                    assert settings["name"] in have["ConfigMap"] | ADDED, pod.where


@pytest.mark.parametrize("overlay", PLATFORMS)
def test_services_and_monitors_find_their_pods_and_ports(overlay: str) -> None:
    objects = rendered(overlay)
    everything = list(pods(objects))
    for one in of_kind(objects, "Service"):
        found = [pod for pod in everything if selects({"matchLabels": one["spec"]["selector"]}, pod.labels)]
        assert len(found) == 1, one["metadata"]["name"]
        ports = {port["name"]: port["containerPort"] for port in found[0].spec["containers"][0]["ports"]}
        for port in one["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for one in of_kind(objects, "PodMonitor"):
        found = [pod for pod in everything if selects(one["spec"]["selector"], pod.labels)]
        assert found, one["metadata"]["name"]
        there = {port["name"] for pod in found for port in pod.spec["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in one["spec"]["podMetricsEndpoints"]} <= there
    jobs = [pod for name in OVERLAYS for pod in pods(rendered(name))]
    for one in of_kind(objects, "NetworkPolicy", "PodDisruptionBudget"):
        selector = one["spec"].get("podSelector", one["spec"].get("selector"))
        assert any(selects(selector, pod.labels) for pod in [*everything, *jobs]), one["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_ports_that_are_there(overlay: str) -> None:
    for pod in pods(rendered(overlay)):
        for container in pod.spec["containers"]:
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if http := container.get(probe, {}).get("httpGet"):
                    assert http["port"] in ports | PROBED, f"{pod.where}: {probe}"


def test_hosts_are_services() -> None:
    objects = rendered("gpu")
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in of_kind(objects, "Service")}
    text = yaml.safe_dump(objects)
    found = set(re.findall(r"(?:http|redis|postgresql(?:[+]psycopg2)?)://(?:\w+@)?([a-z]+):(\d+)", text))
    assert found == {("mlflow", "5000"), ("redis", "6379"), ("postgres", "5432")}
    assert {(name, str(port)) for name, port in ports.items()} == found


def test_mlflow_answers_to_its_name_in_the_cluster() -> None:
    (server,) = [pod for pod in pods(rendered("gpu")) if pod.where == "Deployment mlflow"]
    (given,) = [arg for arg in server.spec["containers"][0]["args"] if arg.startswith("--allowed-hosts=")]
    hosts = given.removeprefix("--allowed-hosts=").split(",")
    assert {"mlflow", "mlflow:5000", "localhost:5000"} <= set(hosts)  # the last one: kubectl port-forward


def test_redis_and_database_passwords_are_the_same_on_both_sides() -> None:
    wanted = {}
    for where, _, cluster in ray_clusters(rendered("gpu")):
        wanted[where] = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    (redis,) = [pod for pod in pods(rendered("gpu")) if pod.where == "StatefulSet redis"]
    wanted["redis"] = redis.spec["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]
    assert len({json.dumps(one, sort_keys=True) for one in wanted.values()}) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_of_the_dockerfile(overlay: str) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE))
    version = re.search(r'__version__ = "(.+)"', (ROOT / "ftmeta" / "__init__.py").read_text())
    assert version is not None
    for container in containers(rendered(overlay)):
        image = container["image"]
        if "ftmeta" in image:
            tag = image.rpartition(":")[2]
            assert tag in {f"{version[1]}-{target}" for target in targets}
        else:
            assert re.fullmatch(r"(redis|postgres):\d+\.\d+(\.\d+)?-bookworm", image)


def test_the_tools_of_the_database_are_of_its_version() -> None:
    everything = [pod for name in OVERLAYS for pod in pods(rendered(name))]
    images = {one["image"] for pod in everything for one in pod.spec["containers"] if "postgres:" in one["image"]}
    assert len(images) == 1


def test_gpu_workers_have_the_image_with_cuda_and_no_one_else() -> None:
    for overlay in OVERLAYS:
        for pod in pods(rendered(overlay)):
            for container in pod.spec["containers"]:
                has_gpu = any("gpu" in name for name in container["resources"]["limits"])
                assert container["image"].endswith("-cuda") == has_gpu, f"{overlay}, {pod.where}"


def test_ray_versions_are_the_one_that_is_tested() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    for overlay in OVERLAYS:
        for where, _, cluster in ray_clusters(rendered(overlay)):
            assert cluster["rayVersion"] == pins["ray"], f"{overlay}, {where}"


def end(objects: list[Object], where: str) -> End:
    (pod,) = [one for one in pods(objects) if one.where == where]
    ports = pod.spec["containers"][0].get("ports", [])
    return End(pod.labels, named_ports=tuple((port["name"], port["containerPort"]) for port in ports))


def ends() -> tuple[list[Object], dict[str, End]]:
    objects = rendered("gpu")
    jobs = rendered("gpu/collect") + rendered("tasks/fetch-model")
    found = {pod.where: end(objects + jobs, pod.where) for pod in pods(objects + jobs)}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    return objects, {
        "head": found["RayCluster ftmeta, head"],
        "worker": found["RayCluster ftmeta, gpu-4x24gb"],
        "job head": found["RayJob collect, head"],
        "submitter": found["RayJob collect, submitter"],
        "fetch": found["Job fetch-model"],
        "service head": found["RayService selector, head"],
        "service worker": found["RayService selector, serve"],
        "mlflow": found["Deployment mlflow"],
        "postgres": found["StatefulSet postgres"],
        "redis": found["StatefulSet redis"],
        "backup": found["CronJob backup"],
        "operator": End(operator, "kuberay-system"),
        "not the operator": End({"app": "x"}, "kuberay-system"),
        "prometheus": End({"app.kubernetes.io/name": "prometheus"}, "monitoring"),
        "client": End({"app": "x"}, "shop", (("ftmeta-client", "yes"),)),
        "stranger": End({"app": "x"}, "shop"),
        "dns": End({"k8s-app": "kube-dns"}, "kube-system"),
        "world": WORLD,
    }


WANTED = [
    *[("head", "worker", 10002), ("worker", "head", 6379), ("worker", "worker", 45678), ("job head", "head", 6379)],
    *[("head", "mlflow", 5000), ("job head", "mlflow", 5000), ("mlflow", "postgres", 5432)],
    *[("backup", "postgres", 5432), ("head", "redis", 6379), ("service head", "redis", 6379)],
    *[("submitter", "job head", 8265), ("operator", "head", 8265), ("operator", "service head", 8265)],
    *[
        ("operator", "service head", 8000),
        ("service head", "service worker", 10002),
        ("client", "service worker", 8000),
    ],
    *[("prometheus", "worker", 8080), ("prometheus", "head", 44217), ("prometheus", "service worker", 8000)],
    *[("head", "world", 443), ("head", "world", 6443), ("fetch", "world", 443), ("worker", "dns", 53)],
]
NOT_WANTED = [
    *[("worker", "world", 443), ("service worker", "world", 443), ("mlflow", "world", 443), ("head", "world", 80)],
    *[("service worker", "head", 6379), ("head", "service head", 6379), ("service head", "mlflow", 5000)],
    *[("head", "postgres", 5432), ("worker", "postgres", 5432), ("mlflow", "redis", 6379), ("backup", "mlflow", 5000)],
    *[("submitter", "mlflow", 5000), ("submitter", "job head", 6379), ("submitter", "world", 443)],
    *[("operator", "head", 6379), ("not the operator", "head", 8265), ("client", "service worker", 8265)],
    *[("stranger", "service worker", 8000), ("client", "head", 8265), ("stranger", "mlflow", 5000)],
    *[
        ("world", "service worker", 8000),
        ("world", "head", 8265),
        ("prometheus", "head", 8265),
        ("fetch", "head", 8265),
    ],
]


@pytest.mark.parametrize(("start", "stop", "port"), WANTED)
def test_the_way_is_open(start: str, stop: str, port: int) -> None:
    objects, where = ends()
    assert allowed(objects, where[start], where[stop], port)


@pytest.mark.parametrize(("start", "stop", "port"), NOT_WANTED)
def test_the_way_is_closed(start: str, stop: str, port: int) -> None:
    objects, where = ends()
    assert not allowed(objects, where[start], where[stop], port)


def test_the_ways_are_open_because_of_the_policies() -> None:
    objects, where = ends()
    without = [one for one in objects if one["metadata"]["name"] != "ray-compute" or one["kind"] != "NetworkPolicy"]
    assert not allowed(without, where["head"], where["worker"], 10002)
