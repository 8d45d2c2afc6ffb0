"""The Grafana dashboard asks for metrics that there are: ours by the registry, Ray's by Ray's own dashboards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ray

from ftmeta.serving.metrics import Metrics
from tests.manifests.overlays import of_kind, rendered

RAYS = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
NAME = re.compile(r"\b((?:ftmeta|ray|autoscaler)_[a-z_]+)\b")
LABELS = {"ray_io_cluster"}


def dashboard() -> dict[str, Any]:
    (found,) = [one for one in of_kind(rendered("gpu"), "ConfigMap") if one["metadata"]["name"] == "grafana-ftmeta"]
    return dict(json.loads(found["data"]["ftmeta.json"]))


def asked() -> set[str]:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return {name for expression in expressions for name in NAME.findall(expression)} - LABELS


def test_our_metrics_are_those_of_the_service() -> None:
    metrics = Metrics("x")
    metrics.observe("/v1/recommendations", "POST", 200, 0.1)
    metrics.show_selector("name", "version")
    there = set(re.findall(r"^(ftmeta_\w+)", metrics.text().decode(), re.MULTILINE))
    mine = {name for name in asked() if name.startswith("ftmeta_")}
    assert len(mine) > 5
    assert mine <= there


def test_rays_metrics_are_in_its_own_dashboards() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in RAYS.glob("*.py"))
    there = set(NAME.findall(text))
    theirs = {name for name in asked() if not name.startswith("ftmeta_")}
    assert len(theirs) > 8
    assert theirs <= there


def test_panels_do_not_overlap_and_each_has_a_name_of_its_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_keeps_to_the_chosen_namespace() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            for selector in re.findall(r"\{([^}]*)\}", target["expr"]):
                assert 'namespace="$namespace"' in selector
