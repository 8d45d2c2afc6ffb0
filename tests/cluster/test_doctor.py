"""`ftmeta doctor --cluster` on this machine's cluster, with its MLflow. More machines: test_head_restart.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftmeta.orchestrate.local import OF_ANOTHER_CLUSTER, LocalCluster

pytestmark = pytest.mark.cluster


def doctor(environment: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "ftmeta", "doctor", "--cluster", "--json", *options]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=150)


def checks_in(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_of_the_cluster_of_make_up(cluster: LocalCluster, client: dict[str, str]) -> None:
    """Found by the state folder alone; its token is taken from there."""
    bare = {name: value for name, value in client.items() if name not in cluster.environment}
    done = doctor({**bare, "FTMETA_STATE": cluster.state})
    checks = checks_in(done)
    assert {name: check["found"] for name, check in checks.items() if not check["ok"]} == {}, done.stderr
    assert done.returncode == 0
    assert checks["MLflow"]["found"] == f"{cluster.mlflow.address} answers"
    assert checks["storage"]["found"] == f"{cluster.state} is shared"
    (node,) = json.loads(done.stdout)["nodes"]
    assert node["is_head"]
    assert node["token_mode"]
    assert node["versions"]["ray"]
    assert not list(Path(cluster.state).glob(".doctor-*"))


def test_what_is_wrong_ends_with_1_and_is_named(cluster: LocalCluster, client: dict[str, str]) -> None:
    done = doctor(client, "--shared", "/proc/nothing-can-be-made-here")
    assert done.returncode == 1
    wrong = [name for name, check in checks_in(done).items() if not check["ok"]]
    assert wrong == ["storage"]
    assert "cannot write to /proc/nothing-can-be-made-here" in checks_in(done)["storage"]["found"]


def test_a_cluster_that_refuses_and_one_that_is_not_there(cluster: LocalCluster, client: dict[str, str]) -> None:
    stranger = {
        name: value for name, value in client.items() if name not in {"RAY_AUTH_TOKEN_PATH", *OF_ANOTHER_CLUSTER}
    }
    refused = doctor({**stranger, "RAY_AUTH_TOKEN": "0" * 64}, "--address", cluster.gcs_address)
    assert refused.returncode == 1
    assert f"the cluster at {cluster.gcs_address} cannot be joined" in refused.stderr
    assert "Traceback" not in refused.stderr
    mistake = doctor(client, "--shared", "relative")
    assert mistake.returncode == 2
    assert "--shared relative is relative" in mistake.stderr
