"""The cluster itself: who gets in, what is told to whom, and starting twice."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ftmeta.orchestrate import local
from ftmeta.orchestrate.local import LocalCluster

pytestmark = pytest.mark.cluster


def submit_by_http(cluster: LocalCluster, token: str | None) -> int:
    """The HTTP status that the job server gives to a submission."""
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"{cluster.ray.address}/api/jobs/", body, headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_job_server_wants_the_token(cluster: LocalCluster) -> None:
    assert submit_by_http(cluster, None) == 401
    assert submit_by_http(cluster, "0" * 64) == 403
    assert submit_by_http(cluster, cluster.token_file.read_text()) == 200


def test_ray_job_submit_without_the_token_is_refused(client: dict[str, str]) -> None:
    anonymous = {name: value for name, value in client.items() if not name.startswith("RAY_AUTH_")}
    command = ["ray", "job", "submit", "--no-wait", "--", "true"]
    environment = {**anonymous, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr


def test_the_token_is_its_owners_only(cluster: LocalCluster) -> None:
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600
    assert len(cluster.token_file.read_text()) == 64
    assert cluster.token_file.read_text() not in (Path(cluster.state) / "cluster.json").read_text()


def test_up_again_is_the_same_cluster(cluster: LocalCluster) -> None:
    assert local.up(Path(cluster.state)) == cluster


def test_env_is_what_a_shell_needs(cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "ftmeta.orchestrate.local", "env", "--state", cluster.state]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shell = f'{printed}\nprintf %s "$RAY_API_SERVER_ADDRESS $RAY_AUTH_TOKEN_PATH ${{RAY_ADDRESS-unset}}"'
    environment = {**os.environ, "RAY_ADDRESS": "another:6379"}
    said = subprocess.run(["sh", "-c", shell], env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"{cluster.ray.address} {cluster.token_file} unset"
