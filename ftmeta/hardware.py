"""Hardware profiles: what a device does for finetuning, so that work can be turned into seconds.

In: a profile's name. Out: usable FLOP/s, memory bandwidth and overhead. Most of the shipped profiles
(data/hardware.yaml) are estimates from data sheets and say so; a recommendation that rests on one comes with a warning.
Profiles of one's own, as `ftmeta calibrate` measures them, stand before shipped ones (hardware_files.py says where).
"""

from __future__ import annotations

import functools
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftmeta.errors import ConfigError
from ftmeta.hardware_files import ProfileEntry, own, shipped

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


def list_hardware() -> list[str]:
    """The names that `load_hardware` knows."""
    return sorted(_profiles())


def load_hardware(name: str) -> HardwareProfile:
    """The profile called `name`, one's own before a shipped one. Raises ConfigError that lists the known ones."""
    return _load(name, _profiles())


def list_shipped() -> list[str]:
    """The names that `load_shipped` knows."""
    return sorted(shipped())


def load_shipped(name: str) -> HardwareProfile:
    """The profile called `name` as it comes with ftmeta, whatever one's own are."""
    return _load(name, shipped())


def peak_flops_per_s(name: str) -> float | None:
    """The data sheet's peak of a profile; None where it is not said."""
    profile = _profiles().get(name)
    return None if profile is None else profile.peak_flops_per_s


def detect() -> str:
    """The profile of this machine's first accelerator, or of its CPU where there is none: one that was measured on such
    a device if there is one, else the shipped one (`cpu-core` for all CPUs). Imports no torch.

    Raises ConfigError for an accelerator without a profile: guessing its speed would be a made-up number.
    """
    accelerator = _accelerator()
    measured = _measured_on(accelerator or cpu_name())
    if measured is not None:
        return measured
    return CPU if accelerator is None else for_device(accelerator)


def for_device(device: str) -> str:
    """The profile's name for a device as its driver calls it (`NVIDIA H100 80GB HBM3`) or torch does (`cpu`).

    This is for the rows of a meta-dataset, whose runs are comparable within a profile: who has calibrated since must
    not take them apart. So a measured profile counts only for a device that no profile is meant for by its `detect`.
    """
    if device.startswith("cpu"):
        return CPU
    name = _meant_for(device, _profiles()) or _measured_on(device)
    if name is None:
        raise ConfigError(
            f"no hardware profile for '{device}'; measure one there with `ftmeta calibrate`, or name one of "
            f"{', '.join(list_hardware())} that comes nearest"
        )
    return name


def shipped_for(device: str) -> str | None:
    """The shipped profile that is meant for an accelerator; None if there is none."""
    return _meant_for(device, shipped())


def profile_of(device: str) -> HardwareProfile | None:
    """The profile of the device that a run's row names; None for an accelerator without one and for `unknown`.

    A name that is no accelerator's is a CPU's: /proc/cpuinfo has all kinds.
    """
    meant = _meant_for(device, _profiles())
    if meant is None and (device == "unknown" or re.search(_ACCELERATORS, device) is not None):
        meant = _measured_on(device)
        return None if meant is None else load_hardware(meant)
    return load_hardware(meant or CPU)


def machine_name() -> str:
    """This machine's name, as it stands in profiles."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower().split(".")[0])
    return host[:32].strip("-") or "here"


def cpu_name() -> str:
    """The CPU's name with family and model: virtual machines are told `Intel(R) Xeon(R) Processor`, whatever is in
    them."""
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


def _profiles() -> dict[str, ProfileEntry]:
    """One's own first."""
    mine = own()
    return mine | {name: profile for name, profile in shipped().items() if name not in mine}


def _load(name: str, profiles: Mapping[str, ProfileEntry]) -> HardwareProfile:
    if name not in profiles:
        raise ConfigError(f"unknown hardware '{name}'; choose one of {', '.join(sorted(profiles))}")
    profile = profiles[name]
    return HardwareProfile(
        name=name,
        description=profile.description,
        flops_per_s=profile.usable_flops_per_s(),
        bytes_per_s=profile.bytes_per_s,
        overhead_s=profile.overhead_s,
        weight_bytes=profile.weight_bytes,
        memory_gb=profile.memory_gb,
        price_key=profile.price,
        source=profile.source,
        as_of="unknown" if profile.as_of is None else str(profile.as_of),
    )


def _meant_for(device: str, profiles: Mapping[str, ProfileEntry]) -> str | None:
    meant = (name for name, one in profiles.items() if one.detect is not None and re.search(one.detect, device))
    return next(meant, None)


def _measured_on(device: str) -> str | None:
    """The newest profile that was measured on such a device, on this machine if one was: homes are shared between
    machines, and a container has another name each time."""
    made = [(name, one.calibration) for name, one in own().items() if one.calibration is not None]
    same = [(name, how) for name, how in made if how.device == device]
    here = [(name, how) for name, how in same if how.machine == machine_name()]
    return next((name for name, _ in here or same), None)


def _accelerator() -> str | None:
    """The first one's name, as its driver has it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None  # a driver that does not answer is no device to count on
    names = asked.stdout.strip().splitlines()
    return names[0] if asked.returncode == 0 and names else None
