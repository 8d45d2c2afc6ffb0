"""What made a row: code version, library versions, device. Found once per process."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import ftmeta

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")


@functools.cache
def code_version() -> str:
    """The package's version, with the git commit when it runs from a checkout: `0.1.0+g1a2b3c4` (`.dirty`: edited)."""
    root = Path(ftmeta.__file__).parent.parent
    if not (root / ".git").exists():
        return ftmeta.__version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--abbrev=8", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ftmeta.__version__
    return f"{ftmeta.__version__}+g{done.stdout.strip()}"


@functools.cache
def library_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


@functools.cache
def device_name(device: torch.device) -> str:
    """The GPU's name or the CPU's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
