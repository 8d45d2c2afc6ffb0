"""What a node of a Ray cluster says of itself: an actor of health.py, one on each node.

This module travels to the nodes by value, so that it also speaks where ftmeta is missing or older: it imports nothing
of ftmeta but its version, and answers in plain dictionaries. It changes nothing; the files that show whether storage is
shared are removed by `forget`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LIBRARIES = ("ray", "torch", "transformers", "peft", "deepspeed")
TIMEOUT_S = 10.0  # of one question by HTTP
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Probe:
    """Lives on one node."""

    def facts(self, ray_gpus: float) -> dict[str, Any]:
        """The node by itself. `ray_gpus` is what Ray says it has: without any, and without a driver, torch is not
        loaded."""
        import psutil
        import ray
        from ray._common.utils import get_system_memory
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
        from ray._private.utils import get_used_memory

        disk = ray.get_runtime_context().get_temp_dir()
        total_bytes = get_system_memory()
        shared = Path("/dev/shm")
        return {
            "hostname": socket.gethostname(),
            "versions": _versions(),
            "token_mode": is_token_auth_enabled(),
            **_gpus(ray_gpus, psutil.Process()),
            "disk": disk,
            "disk_total_gb": shutil.disk_usage(disk).total / 1e9,
            "disk_free_gb": shutil.disk_usage(disk).free / 1e9,
            "memory_total_gb": total_bytes / 1e9,
            "memory_free_gb": (total_bytes - get_used_memory()) / 1e9,
            "shared_memory_gb": shutil.disk_usage(shared).total / 1e9 if shared.is_dir() else 0.0,
            "state": os.environ.get("FTMETA_STATE"),
        }

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    # --- storage that all nodes share ---------------------------------------------------------------------------------

    def write(self, folder: str, name: str) -> str | None:
        """Leaves a file; returns why that is not possible."""
        try:
            Path(folder).mkdir(exist_ok=True)  # what it is to lie in has to be there
            (Path(folder) / name).write_text(name, encoding="utf-8")
        except OSError as error:
            return f"{error.strerror or error}"
        return None

    def missing(self, folder: str, names: Sequence[str], wait_s: float) -> list[str]:
        """Those of the files that are not seen here, which on network file systems may take a while."""
        deadline = time.monotonic() + wait_s
        while True:
            # By name: what a folder holds is remembered by network file systems for longer.
            left = [name for name in names if not _says(Path(folder) / name, name)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.5)

    def forget(self, folder: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    # --- services -----------------------------------------------------------------------------------------------------

    def ask(self, url: str) -> dict[str, Any]:
        """What is answered to somebody without a token: `status`, or why there is none (`error`)."""
        return ask(url)

    def ask_job_server(self, url: str) -> dict[str, Any]:
        """What is answered to somebody with the cluster's token; `document` too."""
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

        return ask(url, get_auth_headers_if_auth_enabled({}))

    def mlflow(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """MLflow as a driver on this node would find it: by the node's environment, or else by `settings`."""
        named = "MLFLOW_TRACKING_URI" in os.environ
        return ask_mlflow({**(os.environ if named else settings)})


def mlflow_settings() -> dict[str, str]:
    """What this process's environment says of MLflow."""
    names = ("MLFLOW_TRACKING_URI", *_CREDENTIALS)
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def ask_mlflow(settings: Mapping[str, str]) -> dict[str, Any]:
    """`uri` (without a password; None: none is set), and what the server says to a driver with these settings."""
    uri = settings.get("MLFLOW_TRACKING_URI")
    if not uri:
        return {"uri": None, "status": None, "error": None}
    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme not in ("http", "https"):
        return {"uri": shown, "status": None, "error": None}
    user = settings.get("MLFLOW_TRACKING_USERNAME") or parts.username
    password = settings.get("MLFLOW_TRACKING_PASSWORD") or parts.password
    headers = {}
    if user and password:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif token := settings.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    answer = ask(f"{shown.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1", headers)
    return {"uri": shown, "status": answer["status"], "error": answer["error"]}


def ask(url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """GET, past all proxies: `status`, `document` (None: no JSON) and `error` (None: there was an answer)."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    document = None
    try:
        with direct.open(request, timeout=TIMEOUT_S) as response:
            with contextlib.suppress(ValueError):
                document = json.load(response)
            return {"status": int(response.status), "document": document, "error": None}
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "document": None, "error": None}
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return {"status": None, "document": None, "error": str(reason) or type(error).__name__}


def _says(file: Path, text: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    try:
        from ftmeta.version import code_version
    except ImportError:
        return {**found, "ftmeta": None}
    return {**found, "ftmeta": code_version()}


def _gpus(ray_gpus: float, process: Any) -> dict[str, int | None]:
    """How many GPUs the driver and torch see on this node; None: no driver, or torch cannot be asked.

    torch is asked in a process of its own, with what the node was started with: Ray hides all GPUs from this one.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None and not ray_gpus:
        return {"nvidia_gpus": None, "torch_gpus": None}
    listed = _said(["nvidia-smi", "-L"], os.environ) if smi else None
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    for parent in process.parents():
        with contextlib.suppress(Exception):  # a process that ends, or is another user's
            if parent.name() == "raylet" and (visible := parent.environ().get("CUDA_VISIBLE_DEVICES")) is not None:
                environment["CUDA_VISIBLE_DEVICES"] = visible
    counted = _said([sys.executable, "-c", "import torch; print('GPUs', torch.cuda.device_count())"], environment)
    return {
        "nvidia_gpus": None if listed is None else sum(line.startswith("GPU ") for line in listed.splitlines()),
        "torch_gpus": next((int(line.split()[1]) for line in (counted or "").splitlines() if "GPUs " in line), None),
    }


def _said(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
