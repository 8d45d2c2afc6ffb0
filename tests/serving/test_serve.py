"""The service on a real Ray Serve, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from ftmeta.errors import ConfigError
from ftmeta.serving.local import deploy, serve_locally
from ftmeta.serving.tokens import VARIABLE
from ftmeta.tracking.registry import register

HERE = Path(__file__).parent


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")  # of its own
@pytest.mark.cluster
@pytest.mark.usefixtures("base_models")
def test_a_life_on_ray_serve(hub: Path, selector_folder: Path, other_selector_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mark = uuid.uuid4().hex
    registry = f"sqlite:///{tmp_path}/mlflow.db"
    for alias, folder in (("champion", selector_folder), ("challenger", other_selector_folder), ("broken", None)):
        made = register(registry, folder, alias=alias)
    (broken,) = [path for path in tmp_path.rglob("surrogates.json") if made["selector_version"] in path.read_text()]
    broken.with_name("arrays.safetensors").write_bytes(b"torn")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FTMETA_"))},
        "PYTHONPATH": f"{HERE.parents[1]}:{HERE}",
        "HF_HUB_CACHE": str(hub),
        "FTMETA_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": registry,
        "FTMETA_TEST_MARK": mark,
    }
    program = [
        sys.executable,
        str(HERE / "serve_session.py"),
        str(selector_folder),
        str(other_selector_folder),
        str(port),
    ]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])

    assert seen["request_ids"] == ["over-serve"]
    assert seen["answer"]["request_id"] == "over-serve"
    assert seen["answer"]["selector"]["name"] == "tiny-0"
    assert seen["answer"]["recommendations"]
    assert seen["refusal"] == [400, "application/problem+json"]
    assert seen["large"] == 413
    assert seen["page"] == "<!doctype html>"
    assert seen["after_switch"] == {"name": "tiny-1", "switch_refused": False, "registered": None}
    assert seen["after_broken_switch"] == {"name": "tiny-1", "switch_refused": True, "registered": None}
    assert seen["still_answers"] == "tiny-1"
    champion = {"name": "ftmeta-selector", "version": "1", "alias": "champion"}
    assert seen["after_alias"] == {"name": "tiny-0", "switch_refused": False, "registered": champion}
    assert seen["after_broken_version"] == {"name": "tiny-0", "switch_refused": True, "registered": champion}
    challenger = {"name": "ftmeta-selector", "version": "2", "alias": "challenger"}
    assert seen["after_challenger"] == {"name": "tiny-1", "switch_refused": False, "registered": challenger}

    assert not marked(mark), "processes are left running"


def marked(mark: str) -> list[str]:
    processes = psutil.process_iter(["environ", "name"])
    return [one.info["name"] for one in processes if (one.info["environ"] or {}).get("FTMETA_TEST_MARK") == mark]


def test_an_open_address_without_tokens_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=VARIABLE):
        serve_locally("0.0.0.0")
    with pytest.raises(ConfigError, match=VARIABLE):
        deploy(host="192.0.2.7")
