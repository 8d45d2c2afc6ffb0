"""Meta-training: a meta-dataset in, `Surrogates` out, measured on tasks that were left out.

meta = load("my-meta-dataset")
surrogates = metatrain(meta, seed=0)
surrogates.save("my-selector")
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import MetaDatasetError
from ftmeta.hardware import HardwareProfile
from ftmeta.metadataset import MetaDataset, join, load
from ftmeta.schema import Budget
from ftmeta.space import Space
from ftmeta.surrogates.cost import CostSurrogate, fit_cost
from ftmeta.surrogates.history import Group, groups_of, main_hardware
from ftmeta.surrogates.model import Source, Surrogates, require_place
from ftmeta.surrogates.performance import PerformanceSurrogate, fit_performance
from ftmeta.surrogates.quality import calibrated, leave_one_task_out, quality


@dataclass(frozen=True)
class Learned:
    """Both surrogates, the performance surrogate calibrated, and how good they are on tasks left out."""

    performance: PerformanceSurrogate
    cost: CostSurrogate
    quality: Mapping[str, float | None]


def learn(
    space: Space, budget: Budget, groups: Sequence[Group], hardware: HardwareProfile | None, *, seed: int
) -> Learned:
    """From runs of at least two tasks."""
    performance = fit_performance(space, budget, groups, seed=seed)
    cost = fit_cost(space, budget, groups, hardware, seed=seed)
    left_out = leave_one_task_out(space, budget, groups, hardware, (performance, cost), seed=seed)
    return Learned(calibrated(performance, left_out), cost, quality(left_out))


def metatrain(meta: MetaDataset, *, seed: int = 0, exclude_tasks: tuple[str, ...] = ()) -> Surrogates:
    """Learns from every task but `exclude_tasks`. The same meta-dataset and seed give the same surrogates.

    Raises MetaDatasetError for fewer than two usable tasks: what carries over between tasks cannot be seen in one.
    """
    groups = groups_of(meta, exclude_tasks)
    tasks = sorted({group.task for group in groups})
    if len(tasks) < 2:
        raise MetaDatasetError(
            f"meta-dataset '{meta.name}' has only the task '{tasks[0]}' to learn from, and at least two are needed to "
            "see what carries over from task to task; collect runs on another one"
        )
    hardware = main_hardware(meta)
    learned = learn(meta.space, meta.budget, groups, hardware, seed=seed)
    pipelines = {pipeline.id: pipeline for group in groups for pipeline in group.pipelines}
    return Surrogates(
        performance=learned.performance,
        cost=learned.cost,
        space=meta.space,
        budget=meta.budget,
        sources=tuple(Source(group.task, group.base_model, group.context.metafeatures) for group in groups),
        shapes=meta.shapes,
        pipelines=tuple(pipelines[key] for key in sorted(pipelines)),
        hardware=hardware,
        meta_dataset={"name": meta.name, "fingerprint": meta.fingerprint},
        runs=sum(len(group.pipelines) for group in groups),
        seed=seed,
        quality=learned.quality,
    )


def metatrain_to_folder(
    metadata: Path | str | Sequence[Path | str], out: Path | str, *, exclude_tasks: tuple[str, ...] = (), seed: int = 0
) -> dict[str, Any]:
    """Meta-trains on the meta-datasets `metadata` (folders or bundled names) and saves to `out`; returns the document
    of `ftmeta metatrain --json`."""
    started = time.perf_counter()
    require_place(Path(out))  # rather than after minutes of training
    folders = [metadata] if isinstance(metadata, Path | str) else metadata
    surrogates = metatrain(join([load(folder) for folder in folders]), seed=seed, exclude_tasks=exclude_tasks)
    surrogates.save(out)
    return {
        "runs": surrogates.runs,
        "tasks": len(surrogates.tasks),
        "seconds": round(time.perf_counter() - started, 2),
        "quality": dict(surrogates.quality),
        "meta_dataset": dict(surrogates.meta_dataset),
        "version": surrogates.version,
        "out": str(out),
    }
