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
    """The GPU's name, or the CPU's with family and model: virtual machines are told `Intel(R) Xeon(R) Processor`,
    whatever is in them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and "model" in facts:
        return f"{name}, family {facts['cpu family']} model {facts['model']}"
    return name


@functools.cache
def cpu_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor; nothing where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
