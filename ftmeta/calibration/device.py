"""What is calibrated: a device, the shipped profile beside which it stands, and the names that its own may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftmeta.errors import ConfigError
from ftmeta.hardware import CPU, HardwareProfile, cpu_name, list_shipped, load_shipped, machine_name, shipped_for

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    name: str  # as its driver, or the CPU, calls itself
    like: HardwareProfile  # the shipped profile that gives what cannot be measured
    is_known: bool  # whether `like` is meant for such a device, so that its price, memory and peak are this one's
    memory_gb: float
    price_key: str

    @property
    def is_cpu(self) -> bool:
        return self.like.name == CPU

    @property
    def description(self) -> str:
        how = "one core, float32" if self.is_cpu else "bfloat16"
        return f"{self.name}, {how}, measured on {machine_name()}"

    def default_profile(self) -> str:
        return f"{self.price_key}-{machine_name()}"

    def check_name(self, profile: str) -> None:
        """Raises ConfigError for a name that says something else than the device is."""
        if profile.startswith("cpu") != self.is_cpu:  # which is how plans tell them apart
            rule = "begins with 'cpu'" if self.is_cpu else "does not begin with 'cpu'"
            raise ConfigError(
                f"'{profile}' would be a profile of {self.name}, whose name {rule}; choose another, as "
                f"{self.default_profile()}"
            )
        if profile in list_shipped() and not (self.is_known and profile == self.like.name):
            raise ConfigError(
                f"'{profile}' is the shipped profile of another device than {self.name}; choose another name, as "
                f"{self.default_profile()}"
            )


def describe(device: torch.device) -> Device:
    """A device without a profile of its own kind is put beside the GPU with the most similar memory."""
    if device.type == "cpu":
        like = load_shipped(CPU)
        return Device(cpu_name(), like, True, like.memory_gb, like.price_key)
    import torch

    name = torch.cuda.get_device_name(device)
    return describe_gpu(name, torch.cuda.get_device_properties(device).total_memory / 2**30)


def describe_gpu(name: str, memory_gb: float) -> Device:
    known = shipped_for(name)
    if known is not None:
        like = load_shipped(known)
        return Device(name, like, True, like.memory_gb, like.price_key)
    gpus = [load_shipped(one) for one in list_shipped() if not one.startswith("cpu")]
    like = min(gpus, key=lambda one: abs(one.memory_gb - memory_gb))
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-")[:28].strip("-")
    price_key = words if words and not words.startswith("cpu") else "gpu"
    return Device(name, like, False, round(memory_gb, 1), price_key)
