"""The RayService's Serve configuration on a real Serve of this machine: it deploys, asks for tokens, and scales."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest
import yaml

from tests.manifests.overlays import ROOT, of_kind, rendered

# In a process of its own, because Ray reads the token and Serve its port once. Serve's two replicas are on one machine
# here, so the bound for each machine is taken out; everything else is as the operator sends it.
PROGRAM = """
import hashlib, os, secrets, socket, sys, time, urllib.error, urllib.request
import yaml
token = secrets.token_hex(32)
os.environ["FTMETA_API_TOKENS_SHA256"] = hashlib.sha256(token.encode()).hexdigest()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
config = yaml.safe_load(sys.stdin)
config["http_options"] |= {"host": "127.0.0.1", "port": port}
del config["applications"][0]["deployments"][0]["max_replicas_per_node"]
config = ServeDeploySchema.model_validate(config)
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
try:
    serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
    _get_global_client().deploy_apps(config)
    deadline = time.monotonic() + 150
    while str(serve.status().applications["ftmeta"].status) != "ApplicationStatus.RUNNING":
        assert time.monotonic() < deadline, serve.status()
        time.sleep(0.5)
    (selector,) = serve.status().applications["ftmeta"].deployments.values()
    def ask(path, **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
    bearer = {"Authorization": f"Bearer {token}"}
    answers = [ask("/-/healthz"), ask("/v1/selector"), ask("/v1/selector", **bearer), ask("/metrics", **bearer)]
    print("found", dict(selector.replica_states), *answers)
finally:
    serve.shutdown()
    ray.shutdown()
"""


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_the_service_runs_as_configured() -> None:
    (service,) = of_kind(rendered("gpu"), "RayService")
    left_out = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONWARNINGS": "ignore"}
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=yaml.safe_dump(config),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("found")]
    assert found == ["found {'RUNNING': 2} 200 401 200 200"]
