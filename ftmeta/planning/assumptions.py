"""The numbers that the planner takes for granted: ftmeta/data/planning.yaml, where each has its source."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from ftmeta.files import DATA


@dataclass(frozen=True)
class Assumptions:
    headroom: Mapping[str, float]  # cuda, cpu: share of the memory that a plan leaves free
    framework_gb: Mapping[str, float]  # cuda, nccl, cpu
    launch_s: Mapping[str, float]  # by PEFT method: a block's forward pass on CUDA, whatever its size
    node_bytes_per_s: float  # between the devices of a node
    network_bytes_per_s: float  # between nodes
    as_of: str

    def framework_bytes(self, device_type: str, devices: int) -> float:
        """What the libraries take on a device before the first tensor."""
        together = self.framework_gb["nccl"] if device_type == "cuda" and devices > 1 else 0.0
        return (self.framework_gb[device_type] + together) * 1e9


@functools.cache
def assumptions() -> Assumptions:
    document = yaml.safe_load((DATA / "planning.yaml").read_text(encoding="utf-8"))
    return Assumptions(**{**document, "as_of": str(document["as_of"])})
