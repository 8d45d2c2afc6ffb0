"""On what the runs were made, and how fast each device was while it made them.

The measure is the validation pass at fidelity 0: the base model on the task's fixed validation examples, so the same
work in every run of a task. Its cost tells devices apart, and its spread on one device tells how much other load on the
machine moved CPU-seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ftmeta.metadataset.store import MetaDataset


_MIN_PASSES = 3  # of a task on a device; the spread around a median of fewer is none


@dataclass(frozen=True)
class Machine:
    device: str
    profile: str | None  # the name of its hardware profile
    runs: int
    cost_s: float  # device-seconds of all its runs whose cost is known
    relative_cost: float | None  # of the fidelity-0 pass; 1 on the device with the most runs; None: not measured there
    spread: (
        tuple[float, float] | None
    )  # 10th and 90th percentile of the pass's cost over its task's median on the device


def machines(meta: MetaDataset) -> list[Machine]:
    """The devices, those with the most runs first. Runs that do not name theirs are left out."""
    import pandas as pd

    runs = meta.runs[meta.runs["device"].notna()]
    counts = runs["device"].value_counts()
    devices = sorted((str(device) for device in counts.index), key=lambda device: (-int(counts[device]), device))
    first = meta.curves[meta.curves["fidelity"] == 0].set_index("run_id")["cost_eval_s"]
    seconds = pd.to_numeric(runs["run_id"].map(first)).astype(float)
    passes = runs[["task", "base_model", "device"]].assign(s=seconds)[seconds > 0]
    median = passes.groupby(["device", "task", "base_model"])["s"].median()
    pass_s = {tuple(map(str, key)): float(seconds) for key, seconds in zip(median.index, median, strict=True)}
    of_task = passes.groupby(["device", "task", "base_model"])["s"]
    relative = (passes["s"] / of_task.transform("median"))[of_task.transform("size") >= _MIN_PASSES]
    profiles = meta.hardware
    found = []
    for device in devices:
        of_device = runs["device"] == device
        around = relative[passes["device"].reindex(relative.index) == device]
        found.append(
            Machine(
                device=device,
                profile=profiles[device].name if device in profiles else None,
                runs=int(counts[device]),
                cost_s=float(pd.to_numeric(runs["cost_s"][of_device]).sum()),
                relative_cost=_relative(pass_s, device, devices[0]),
                spread=(float(around.quantile(0.1)), float(around.quantile(0.9))) if len(around) > 1 else None,
            )
        )
    return found


def _relative(pass_s: dict[tuple[str, ...], float], device: str, reference: str) -> float | None:
    """The geometric mean, over the tasks that both have, of the ratio of their median passes."""
    ratios = [
        seconds / pass_s[reference, *where]
        for (of, *where), seconds in pass_s.items()
        if of == device and (reference, *where) in pass_s
    ]
    return math.exp(float(np.mean(np.log(ratios)))) if ratios else None
