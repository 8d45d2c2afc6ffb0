"""What made a row: library versions and device. Found once per process."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version
from pathlib import Path

import torch

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")


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
