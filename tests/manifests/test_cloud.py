"""cluster/aws.yaml and gcp.yaml against Ray's own schema and checks, and what they may not do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.manifests.dockerfile import stages
from tests.manifests.overlays import ROOT

CLOUDS = ["aws", "gcp"]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))


def config(cloud: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster" / f"{cloud}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema.Draft7Validator(SCHEMA).validate(config(cloud))
    prepared = prepare_config(config(cloud))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


@pytest.mark.parametrize(
    ("cloud", "change"),
    [
        ("aws", {"max_worker": 3}),
        ("aws", {"max_workers": -1}),
        ("gcp", {"available_node_types": {"head": {"node_config": {}}}}),
        ("gcp", {"setup_commands": "pip install x"}),
    ],
)
def test_the_schema_finds_a_broken_file(cloud: str, change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(config(cloud) | change)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_tokens_everywhere_and_no_open_door(cloud: str) -> None:
    found = config(cloud)
    assert "--env=RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert found["file_mounts"] == {"/home/ftmeta/.ray/auth_token": "~/.ray/auth_token"}
    text = (ROOT / "cluster" / f"{cloud}.yaml").read_text(encoding="utf-8")
    assert "0.0.0.0" not in text  # neither a dashboard nor a firewall that is open to all
    assert not re.search(r"(AKIA|aws_secret|BEGIN [A-Z ]*PRIVATE KEY)", text)
    starts = " ".join(found["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    if cloud == "aws":
        (rule,) = found["provider"]["security_group"]["IpPermissions"]
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
        assert all(entry["CidrIp"].endswith("/32") for entry in rule["IpRanges"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_spot_machines_that_come_and_go(cloud: str) -> None:
    types = config(cloud)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for name in ("cpu", "gpu-4x24gb"):
        node = types[name]
        assert node["min_workers"] == 0 < node["max_workers"] <= config(cloud)["max_workers"]
        spot = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot or any(one.get("preemptible") for one in node["node_config"].get("scheduling", []))
    assert types["gpu-4x24gb"]["resources"]["GPU"] == 4
    head = types["head"]["node_config"]
    assert "InstanceMarketOptions" not in head
    assert "scheduling" not in head


@pytest.mark.parametrize("cloud", CLOUDS)
def test_images_are_of_our_dockerfile_and_results_on_shared_storage(cloud: str) -> None:
    found = config(cloud)
    targets = stages((ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8"))
    for role, target in (("head_image", "launcher"), ("worker_image", "cuda")):
        assert found["docker"][role].endswith(f"-{target}")
        assert target in targets
    options = found["docker"]["run_options"]
    assert "--volume=/shared:/shared" in options
    assert "--env=FTMETA_STATE=/shared/ftmeta" in options
    mounts = [command for command in found["initialization_commands"] if "mount -t" in command]
    assert len(mounts) == 1
    assert mounts[0].endswith(" /shared")


def test_what_a_site_has_to_fill_in_is_named_in_the_page() -> None:
    page = (ROOT / "docs" / "cloud.md").read_text(encoding="utf-8")
    placeholders = {
        "aws": ["203.0.113.7/32", "fs-0123456789abcdef0", "registry.example/ftmeta", "eu-west-1"],
        "gcp": ["my-project", "10.0.0.2:/shared", "registry.example/ftmeta", "europe-west4-a"],
    }
    for cloud, words in placeholders.items():
        text = (ROOT / "cluster" / f"{cloud}.yaml").read_text(encoding="utf-8")
        for word in words:
            assert word in text, f"{cloud}: {word}"
            assert word in page, f"docs/cloud.md does not say {word}"
