"""Hardware profiles: what a device does for finetuning, so that work can be turned into seconds.

In: a profile's name (data/hardware.yaml). Out: usable FLOP/s, memory bandwidth and overhead. Most profiles are
estimates from data sheets and say so; a recommendation that rests on one is given with wider intervals.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftmeta.errors import ConfigError
from ftmeta.files import DATA

CPU = "cpu-core"
_ACCELERATORS = r"NVIDIA|Tesla|Quadro|GeForce|TITAN|Radeon|Instinct|Gaudi|\bTPU\b"


@dataclass(frozen=True)
class HardwareProfile:
    name: str
    description: str
    flops_per_s: float  # usable for finetuning: peak x utilisation
    bytes_per_s: float  # memory bandwidth
    overhead_s: float  # seconds of a layer pass whatever its size: launches, the interpreter
    weight_bytes: int  # bytes a weight takes in the type trained in
    memory_gb: float
    price_key: str  # the name in data/prices.yaml
    source: Literal["estimate", "measured"]
    as_of: str  # date of the numbers


class _Profile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    description: str
    peak_flops_per_s: float = Field(gt=0)
    utilisation: float = Field(gt=0, le=1)
    bytes_per_s: float = Field(gt=0)
    overhead_s: float = Field(ge=0)
    weight_bytes: int = Field(gt=0)
    memory_gb: float = Field(gt=0)
    price: str
    source: Literal["estimate", "measured"]
    detect: str | None = None


def list_hardware() -> list[str]:
    """The names that `load_hardware` knows."""
    return sorted(_profiles()[0])


def load_hardware(name: str) -> HardwareProfile:
    """The profile called `name`. Raises ConfigError that lists the known ones."""
    profiles, as_of = _profiles()
    if name not in profiles:
        raise ConfigError(f"unknown hardware '{name}'; choose one of {', '.join(list_hardware())}")
    profile = profiles[name]
    return HardwareProfile(
        name=name,
        description=profile.description,
        flops_per_s=profile.peak_flops_per_s * profile.utilisation,
        bytes_per_s=profile.bytes_per_s,
        overhead_s=profile.overhead_s,
        weight_bytes=profile.weight_bytes,
        memory_gb=profile.memory_gb,
        price_key=profile.price,
        source=profile.source,
        as_of=as_of,
    )


def detect() -> str:
    """The profile of this machine's first accelerator, or `cpu-core` where there is none. Imports no torch.

    Raises ConfigError for an accelerator without a profile: guessing its speed would be a made-up number.
    """
    if shutil.which("nvidia-smi") is None:
        return CPU
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return CPU  # a driver that does not answer is no device to count on
    names = asked.stdout.strip().splitlines()
    return for_device(names[0]) if asked.returncode == 0 and names else CPU


def for_device(device: str) -> str:
    """The profile's name for a device as its driver calls it (`NVIDIA H100 80GB HBM3`) or torch does (`cpu`)."""
    if device.startswith("cpu"):
        return CPU
    for name, profile in _profiles()[0].items():
        if profile.detect is not None and re.search(profile.detect, device):
            return name
    raise ConfigError(
        f"no hardware profile for '{device}'; name one of {', '.join(list_hardware())} that comes nearest"
    )


def profile_of(device: str) -> HardwareProfile | None:
    """The profile of the device that a run's row names; None for an accelerator without one and for `unknown`.

    A name that is no accelerator's is a CPU's: /proc/cpuinfo has all kinds.
    """
    try:
        return load_hardware(for_device(device))
    except ConfigError:
        is_cpu = device != "unknown" and re.search(_ACCELERATORS, device) is None
        return load_hardware(CPU) if is_cpu else None


@functools.cache
def _profiles(path: Path = DATA / "hardware.yaml") -> tuple[dict[str, _Profile], str]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        profiles = {name: _Profile.model_validate(entry) for name, entry in document["profiles"].items()}
    except ValidationError as error:
        raise ConfigError(f"{path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
    return profiles, str(document["as_of"])
