"""From a meta-dataset to all that the report says in numbers, as one JSON document.

The numbers are those of ftmeta.metadataset (machines, noise, headroom, importance); here they only get their names.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from ftmeta.metadataset import MetaDataset
from ftmeta.metadataset.headroom import HeadRoom, head_room
from ftmeta.metadataset.importance import Importance, importance_of, mean_importance
from ftmeta.metadataset.machines import machines
from ftmeta.metadataset.noise import noise_of

BEST = 0.5  # the share of a task's pipelines among which importance is asked for once more


def findings(meta: MetaDataset, *, seed: int = 0) -> dict[str, Any]:
    """Machines, noise, head-room a base model, and importance among all pipelines and among the better half."""
    return {
        "name": meta.name,
        "fingerprint": meta.fingerprint,
        "runs": len(meta.runs),
        "statuses": meta.manifest["statuses"],
        "machines": [_rounded(asdict(one)) for one in machines(meta)],
        "noise": [_rounded(asdict(one)) for one in noise_of(meta)],
        "head_room": [_head_room(room) for room in head_room(meta)],
        "importance": _importance(importance_of(meta, seed=seed)),
        "importance_better_half": _importance(importance_of(meta, best=BEST, seed=seed)),
        "importance_seed": seed,
    }


def _head_room(room: HeadRoom) -> dict[str, Any]:
    tasks = list(room.scores.tasks)
    ids = [pipeline.id for pipeline in room.scores.pipelines]

    def of_task(value_T: np.ndarray) -> dict[str, float | None]:
        return {task: _known(value) for task, value in zip(tasks, value_T.tolist(), strict=True)}

    return {
        "base_model": room.base_model,
        "pipelines": len(ids),
        "left_out": room.left_out,
        "chosen": {task: ids[at] for task, at in zip(tasks, room.chosen_T, strict=True)},
        "static": {"id": ids[room.static], "values": dict(room.scores.pipelines[room.static].values)},
        "static_of_others": {task: ids[at] for task, at in zip(tasks, room.others_T, strict=True)},
        "regret": {kind: of_task(regret_T) for kind, regret_T in room.regret.items()},
        "above_noise": {kind: room.above_noise(kind) for kind in room.regret},
        "noise": of_task(room.noise_T),
        "luck": of_task(room.luck_T),
        "rank_correlation": {task: of_task(row_T) for task, row_T in zip(tasks, room.rank_correlation_TT, strict=True)},
    }


def _importance(found: list[Importance]) -> dict[str, Any] | None:
    mean = mean_importance(found)
    if mean is None:
        return None
    return {"mean": _one(mean), "tasks": [_one(one) for one in found]}


def _one(found: Importance) -> dict[str, Any]:
    shares = {name: round(share, 4) for name, share in sorted(found.share.items(), key=lambda item: -item[1])}
    return {**asdict(found), "r2": round(found.r2, 4), "share": shares}


def _rounded(document: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in document.items()}


def _known(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
