"""Every overlay renders, and our small renderer makes of it what `kubectl kustomize` makes."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from tests.manifests.kustomize import Object, build
from tests.manifests.overlays import K8S, OVERLAYS, PLATFORMS, of_kind, ray_clusters, rendered


def keyed(objects: list[Object]) -> dict[tuple[str, str], Object]:
    found = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects), "two objects of one kind and name"
    return found


def why_no_kubectl() -> str | None:
    """Debian's kubectl 1.20 has kustomize 2, which knows neither components nor replacements."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return "kubectl is not installed"
    said = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, timeout=60).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    return (
        None if version is not None and int(version[1]) >= 5 else "kubectl with kustomize 5 or newer is not installed"
    )


def test_there_are_the_three_platforms_and_their_jobs() -> None:
    assert PLATFORMS == ["cpu-dev", "gpu", "gpu-kueue"]
    assert {f"{platform}/{job}" for platform in PLATFORMS for job in ("collect", "finetune")} <= set(OVERLAYS)


@pytest.mark.skipif(why_no_kubectl() is not None, reason=f"kubectl: {why_no_kubectl()}")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_as_kubectl_renders_it(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert said.stderr == ""  # warnings of fields that are going away
    assert keyed(list(yaml.safe_load_all(said.stdout))) == keyed(rendered(overlay))


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.endswith(("collect", "finetune"))])
def test_a_job_brings_its_cluster_and_nothing_else(overlay: str) -> None:
    (job,) = rendered(overlay)
    assert job["kind"] == "RayJob"
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert "gcsFaultToleranceOptions" not in job["spec"]["rayClusterSpec"]


def test_the_site_is_said_in_one_place() -> None:
    for overlay in OVERLAYS:
        for one in rendered(overlay):
            if one["kind"] not in ("Namespace", "ClusterQueue", "ResourceFlavor"):
                assert one["metadata"]["namespace"] == "ftmeta", one["metadata"]["name"]
            if one["kind"] == "Namespace":
                assert one["metadata"]["name"] == "ftmeta"


def test_a_kueue_job_is_the_gpu_job_but_for_who_starts_it() -> None:
    for job in ("collect", "finetune"):
        (mine,), (theirs,) = rendered(f"gpu/{job}"), rendered(f"gpu-kueue/{job}")
        assert mine["spec"]["entrypoint"] == theirs["spec"]["entrypoint"]
        (_, _, before), (_, _, after) = next(ray_clusters([mine])), next(ray_clusters([theirs]))
        assert before["headGroupSpec"] == after["headGroupSpec"]


def test_under_kueue_no_cluster_stands_by() -> None:
    assert of_kind(rendered("gpu"), "RayCluster")
    assert not of_kind(rendered("gpu-kueue"), "RayCluster")


def test_outside_the_subset_is_an_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "kustomization.yaml").write_text("namePrefix: x-\n")
    with pytest.raises(AssertionError, match="namePrefix"):
        build(tmp_path)
    (tmp_path / "one.yaml").write_text("{apiVersion: v1, kind: Secret, metadata: {name: x}}\n")
    patch = "[{op: replace, path: /metadata/labels, value: {}}]"
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [one.yaml]\npatches: [{{target: {{kind: Secret}}, patch: '{patch}'}}]\n"
    )
    with pytest.raises(KeyError, match="nothing at /metadata/labels of Secret x"):
        build(tmp_path)
