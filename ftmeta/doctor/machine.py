"""What this machine has and lacks for each part of ftmeta."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path

from ftmeta.doctor.check import Check
from ftmeta.files import DATA, cache_dir

MIN_FREE_GB = 2.0
MIN_SHARED_MEMORY_GB = 0.5


def run_checks() -> list[Check]:
    """Every check, what the core needs first."""
    return [
        _python(),
        *_packages(),
        _mlflow_is_the_package(),
        *_bundled(),
        _disk(),
        _writable_cache(),
        *_commands(),
        _device(),
        _shared_memory(),
        _cluster(),
    ]


def _python() -> Check:
    found = platform.python_version()
    return Check("python", "core", sys.version_info >= (3, 11), found, "3.11 or newer", "install Python 3.11")


def _package(name: str, part: str, wanted: str, fix: str) -> Check:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, part, False, "not installed", wanted, fix)
    return Check(name, part, True, found, wanted, fix)


def _packages() -> list[Check]:
    core = "pip install -c constraints.txt -e ."
    return [
        *(
            _package(name, "core", "installed", core)
            for name in (
                "torch",
                "transformers",
                "peft",
                "deepspeed",
                "datasets",
                "ray",
                "mlflow",
                "scikit-learn",
                "ConfigSpace",
            )
        ),
        _package("gguf", "smollm2-135m", "installed", "pip install gguf"),
        _package("gpytorch", "baselines", "installed", "pip install gpytorch"),
        _package("playwright", "browser tests", "installed", "pip install playwright"),
    ]


def _mlflow_is_the_package() -> Check:
    spec = importlib.util.find_spec("mlflow")
    origin = None if spec is None else spec.origin
    return Check(
        "import mlflow",
        "core",
        origin is not None,
        origin or "a folder named mlflow without the package",
        "the installed package, not the folder mlflow/ of the repository",
        "remove any __init__.py under mlflow/ and install the package",
    )


def _device() -> Check:
    if not Path("/proc/driver/nvidia/gpus").is_dir():
        return Check(
            "device",
            "gpu",
            False,
            f"CPU only, {os.cpu_count()} cores",
            "a CUDA device",
            "optional: ftmeta works on CPUs",
        )
    names = [
        line.split(":", 1)[1].strip()
        for info in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("Model:")
    ]
    return Check("device", "gpu", True, ", ".join(names) or "NVIDIA driver", "a CUDA device", "")


def _command(name: str, part: str, fix: str, *others: str) -> Check:
    found = next((path for path in map(shutil.which, (name, *others)) if path), None)
    return Check(name, part, found is not None, found or "not found", f"the command {name}", fix)


def _commands() -> list[Check]:
    return [
        _command("cc", "core", "apt-get install gcc libc6-dev", "gcc", "clang"),
        _command("apt-get", "rebuilding bundled tasks", "needs Debian or Ubuntu; the bundled tasks work without it"),
        _command("npm", "rebuilding bundled tasks", "apt-get install npm; the bundled tasks work without it"),
        _command("chromium", "browser tests", "apt-get install chromium", "chromium-browser", "google-chrome"),
    ]


def _disk() -> Check:
    place = Path.cwd()
    free_gb = shutil.disk_usage(place).free / 1e9
    fix = "free some space, or work in another folder"
    return Check("disk", "core", free_gb >= MIN_FREE_GB, f"{free_gb:.1f} GB free here", f"{MIN_FREE_GB:g} GB free", fix)


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    free_gb = shutil.disk_usage(place).free / 1e9 if place.is_dir() else 0.0
    wanted = f"{MIN_SHARED_MEMORY_GB:g} GB free"
    fix = "start the container with --shm-size=2g; Ray is slow without it"
    return Check("/dev/shm", "cluster", free_gb >= MIN_SHARED_MEMORY_GB, f"{free_gb:.1f} GB free", wanted, fix)


def _writable_cache() -> Check:
    place = cache_dir()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    ok = os.access(existing, os.W_OK)
    return Check("cache", "core", ok, str(place), "a folder that can be written", "set FTMETA_CACHE to one")


def _bundled() -> list[Check]:
    fix = "install ftmeta again; the file ships with it"
    return [
        Check(name, "core", path.exists(), "present" if path.exists() else "missing", "present", fix)
        for name, path in (
            ("base model phi3-micro", DATA / "models" / "phi3-micro" / "model.safetensors"),
            ("bundled selector", DATA / "meta" / "selector"),
        )
    ]


def _cluster() -> Check:
    from ftmeta.orchestrate.local import find

    cluster = find()
    ok = cluster is not None and cluster.alive
    found = (
        f"dashboard {cluster.ray.address}, MLflow {cluster.mlflow.address}" if ok and cluster else "not running here"
    )
    return Check("local cluster", "cluster", ok, found, "running", "make up")
