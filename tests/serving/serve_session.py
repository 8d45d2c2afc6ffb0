"""A whole life of the service on Ray Serve, run by test_serve.py: `python serve_session.py SELECTOR OTHER PORT`.

Prints one JSON document with what was seen, then ends itself as Ctrl-C does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from serving_client import records

from ftmeta.serving.local import serve_locally

ROOT = Path(__file__).parents[2]
SELECTOR, OTHER, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


def use(url: str) -> None:
    seen: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        ask = {"dataset": {"records": records(30)}, "top_k": 2}
        answer = client.post("/v1/recommendations", json=ask, headers={"X-Request-ID": "over-serve"})
        seen["answer"] = answer.json()
        seen["request_ids"] = answer.headers.get_list("x-request-id")
        refusal = client.post("/v1/recommendations", content=b"{", headers={"Content-Type": "application/json"})
        seen["refusal"] = [refusal.status_code, refusal.headers["content-type"]]
        large = client.post(
            "/v1/recommendations", content=b" " * 21_000_000, headers={"Content-Type": "application/json"}
        )
        seen["large"] = large.status_code
        seen["page"] = client.get("/").text[:15]
        switch_to(OTHER)
        seen["after_switch"] = wait_for(client, lambda found: found["name"] == "tiny-1")
        switch_to(f"{OTHER}-missing")
        seen["after_broken_switch"] = wait_for(client, lambda found: found["switch_refused"])
        seen["still_answers"] = client.post("/v1/recommendations", json=ask).json()["selector"]["name"]
        switch_to("models:/ftmeta-selector@champion")
        seen["after_alias"] = wait_for(client, lambda found: found["registered"] is not None)
        switch_to("models:/ftmeta-selector@broken")
        seen["after_broken_version"] = wait_for(client, lambda found: found["switch_refused"])
        switch_to("models:/ftmeta-selector@challenger")
        seen["after_challenger"] = wait_for(client, lambda found: found["name"] == "tiny-1")
    print(json.dumps(seen), flush=True)  # noqa: T201 (read by the test)
    os.kill(os.getpid(), signal.SIGTERM)


def switch_to(selector: str) -> None:
    """What `serve deploy cluster/serve.yaml` does after a change of user_config there, without the dashboard."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = PORT
    application = config["applications"][0]
    application["args"]["selector"] = SELECTOR
    application["deployments"][0]["user_config"] = {"selector": selector}
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def wait_for(client: httpx.Client, condition: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        found = client.get("/v1/selector").json()
        if condition(found) or time.monotonic() > deadline:
            return {name: found[name] for name in ("name", "switch_refused", "registered")}
        time.sleep(0.1)


if __name__ == "__main__":
    serve_locally(port=PORT, selector=SELECTOR, on_ready=use)
