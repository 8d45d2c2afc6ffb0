"""How many runs a lane trains at once on the device that it has got (`runs_per_slot`, planning/cohort.py).

In: the base model as it lies there, the tasks' tokens, the pipelines that wait. Out: places, and tokens in a pass.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ftmeta.errors import UserError
from ftmeta.planning.cohort import MOST_PLACES, Batches, CohortPlan, plan_cohort
from ftmeta.schema import Pipeline

if TYPE_CHECKING:
    from ftmeta.finetune import TokenizedTask
    from ftmeta.models import LoadedModel

RunsPerSlot = int | Literal["auto"]

log = logging.getLogger("ftmeta.collect")


def lane_plan(
    base: LoadedModel,
    tasks: Mapping[str, TokenizedTask],
    pipelines: Sequence[Pipeline],
    wanted: RunsPerSlot,
    *,
    cpus: float,
    gpus: float,
) -> CohortPlan:
    """`pipelines`: those that stand side by side. `cpus`, `gpus`: what the slot has of its node. What memory does not
    hold is not tried, and said in the log; one run is tried in any case, and ends as `oom` where it must."""
    from ftmeta.models.architectures import from_config

    if not pipelines:
        return CohortPlan(1, _limit(base), 0.0)
    at_most = MOST_PLACES if wanted == "auto" else wanted
    try:
        plan = plan_cohort(
            from_config(base.model.config.to_dict(), base.info.name),
            pipelines,
            batches_of(tasks.values(), pipelines, _limit(base)),
            free_bytes=_free_bytes(base, cpus, gpus),
            device_type=base.device.type,
            dtype=str(base.model.dtype).removeprefix("torch."),
            at_most=at_most,
        )
    except UserError as error:
        log.warning("one run at a time: %s", error)
        return CohortPlan(1, _limit(base), 0.0)
    if wanted != "auto" and plan.places < min(wanted, len(pipelines)):
        log.warning("memory holds %d runs at once, not the %d of runs_per_slot", plan.places, wanted)
    return plan


def batches_of(tasks: object, pipelines: Sequence[Pipeline], limit: int) -> Batches:
    """What the batches of these pipelines on these tasks are like; a piece has at most `limit` padded tokens."""
    from ftmeta.finetune.settings import settings_of

    rows = [row for task in tasks for row in task.splits["train"]]  # type: ignore[attr-defined]
    settings = [settings_of(pipeline) for pipeline in pipelines]
    mean = sum(map(len, rows)) / len(rows)
    longest = max(map(len, rows))
    full = any(one.loss_on == "full" for one in settings)
    labels = sum(len(row) - row.first_label(full=full) for row in rows) / (mean * len(rows))
    sizes = [one.batch_size for one in settings]
    largest = max(longest, min(limit, longest * max(sizes)))
    return Batches(mean * sum(sizes) / len(sizes), largest, min(1.0, labels))


def _limit(base: LoadedModel) -> int:
    from ftmeta.finetune.training import MICRO_BATCH_TOKENS

    return MICRO_BATCH_TOKENS[base.device.type]


def _free_bytes(base: LoadedModel, cpus: float, gpus: float) -> float:
    if base.device.type == "cuda":
        import torch

        return float(torch.cuda.mem_get_info(base.device)[0]) * min(1.0, gpus or 1.0)
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_num_cpus, get_used_memory

    # Ray's numbers, which a container's limits are in
    return float(get_system_memory() - get_used_memory()) * min(1.0, cpus / get_num_cpus())
