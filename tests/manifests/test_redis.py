"""Redis as the manifest starts it, where redis-server is installed: its password, its probes, what it keeps."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.overlays import pods, rendered

PASSWORD = "a-password-of-the-test"
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture
def container() -> dict[str, Any]:
    (pod,) = [one for one in pods(rendered("gpu")) if one.where == "StatefulSet redis"]
    return dict(pod.spec["containers"][0])


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def server(container: dict[str, Any], port: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The manifest's command, in a folder and at a port of the test."""
    shell, dash_c, script = container["command"]
    assert "dir /data" in script
    ours = script.replace("dir /data", f"bind 127.0.0.1\nport {port}\ndir {tmp_path}")
    environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
    process = subprocess.Popen([shell, dash_c, ours], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(port: int, *words: str, password: str | None = PASSWORD) -> str:
    environment = {**os.environ, **({} if password is None else {"REDISCLI_AUTH": password})}
    command = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def wait_until_ready(container: dict[str, Any], port: int) -> None:
    """By the manifest's own probe."""
    shell, dash_c, script = container["readinessProbe"]["exec"]["command"]
    probe = [shell, dash_c, script.replace("redis-cli", f"redis-cli -p {port}")]
    deadline = time.monotonic() + 30
    while subprocess.run(probe, env={**os.environ, "REDISCLI_AUTH": PASSWORD}, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, "the probe does not find it ready"
        time.sleep(0.1)


def test_it_asks_for_the_password_and_keeps_what_it_is_given(
    container: dict[str, Any], port: int, server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_until_ready(container, port)
    assert "NOAUTH" in ask(port, "set", "a", "1", password=None)
    assert "WRONGPASS" in ask(port, "set", "a", "1", password="another")
    assert ask(port, "set", "a", "1").strip() == "OK"
    assert ask(port, "config", "get", "maxmemory-policy").split()[-1] == "noeviction"  # state of Ray's is never dropped
    assert any(tmp_path.rglob("*.aof"))
    seen = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert PASSWORD not in seen
    server.terminate()  # as Kubernetes asks the container's first process, which is to be the server
    assert server.wait(timeout=30) == 0
