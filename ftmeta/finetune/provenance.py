"""What made a row: library versions and device. Found once per process."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version

import torch

from ftmeta.hardware import cpu_name

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")


@functools.cache
def library_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


@functools.cache
def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with family and model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()
