"""What Ray's autoscaler reads out of our clusters, by Ray's own code: node types, their sizes, how many may come."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.manifests.overlays import OVERLAYS, ray_clusters, rendered


def node_types(overlay: str, where: str) -> dict[str, Any]:
    """As the autoscaler gets it: the RayCluster that the operator makes of a job or service."""
    (cluster,) = [spec for at, _, spec in ray_clusters(rendered(overlay)) if at == where]
    made = {"metadata": {"name": "ftmeta", "namespace": "ftmeta"}, "spec": cluster}
    return dict(_derive_autoscaling_config_from_ray_cr(made)["available_node_types"])


@pytest.mark.parametrize(
    ("overlay", "where", "group", "most", "resources"),
    [
        ("cpu-dev", "RayCluster ftmeta", "cpu", 1, {"CPU": 2}),
        ("gpu", "RayCluster ftmeta", "cpu", 4, {"CPU": 4}),
        ("gpu", "RayCluster ftmeta", "gpu-4x24gb", 4, {"CPU": 20, "GPU": 4}),
        ("gpu/collect", "RayJob collect", "gpu-4x24gb", 16, {"CPU": 20, "GPU": 4}),
        ("gpu/finetune", "RayJob finetune", "gpu-4x24gb", 2, {"CPU": 20, "GPU": 4}),
        ("gpu", "RayService selector", "serve", 8, {"CPU": 2}),
    ],
)
def test_workers_that_may_come(overlay: str, where: str, group: str, most: int, resources: dict[str, int]) -> None:
    found = node_types(overlay, where)[group]
    assert found["max_workers"] == most
    assert {name: amount for name, amount in found["resources"].items() if name != "memory"} == resources


def test_gpu_nodes_stay_longer_than_others() -> None:
    found = node_types("gpu", "RayCluster ftmeta")
    assert found["gpu-4x24gb"]["idle_timeout_s"] == 600


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_head_takes_tasks(overlay: str) -> None:
    for where, _, _ in ray_clusters(rendered(overlay)):
        (head,) = [kind for name, kind in node_types(overlay, where).items() if name.startswith("head")]
        assert head["resources"]["CPU"] == 0
        assert "GPU" not in head["resources"]
