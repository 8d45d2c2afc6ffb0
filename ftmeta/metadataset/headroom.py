"""The head-room of a choice that looks at the dataset: what one pipeline for all tasks loses, against the noise.

In: a meta-dataset. Out: a `HeadRoom` a base model, with the regret (static.py) of the best static pipeline, of a static
pipeline chosen on the other tasks (as it would be for a new one) and of the known defaults, and what noise alone makes
of a regret.

Array legend: T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.errors import SpaceError
from ftmeta.metadataset.ends import ends
from ftmeta.metadataset.noise import Noise, noise_of
from ftmeta.metadataset.static import (
    Scores,
    best_static,
    best_static_of_others,
    chosen,
    comparable_scores,
    luck_of_choice,
    normalised,
    rank_correlation,
    regret,
)
from ftmeta.schema import Pipeline
from ftmeta.space import Space, named_pipelines

if TYPE_CHECKING:
    from ftmeta.metadataset.store import MetaDataset


@dataclass(frozen=True)
class HeadRoom:
    """With one base model. Regrets are normalised (0: nothing lost, 1: the whole range of the task), T tasks each."""

    base_model: str
    scores: Scores  # what was compared
    left_out: int  # pipelines of the meta-dataset that are not known on every task
    chosen_T: np.ndarray  # index of the pipeline with the task's best validation score
    static: int  # index of the best static pipeline
    others_T: np.ndarray  # index of the static pipeline that the other tasks choose
    regret: Mapping[str, np.ndarray]  # `static`, `static_of_others`, and the known defaults that ran -> [T]
    noise_T: np.ndarray  # two equally good runs differ by more once in twenty times; NaN: no replicates on the task
    luck_T: np.ndarray  # expected regret by luck of the chosen run alone (static.luck_of_choice); NaN as above
    rank_correlation_TT: np.ndarray

    def above_noise(self, kind: str) -> list[str]:
        """The tasks on which `kind` loses more than two equally good runs differ by."""
        above_T = self.regret[kind] > self.noise_T  # never true of NaN
        return [task for task, above in zip(self.scores.tasks, above_T, strict=True) if above]


def head_room(meta: MetaDataset) -> list[HeadRoom]:
    """One a base model with which two or more pipelines can be compared on two or more tasks; else none."""
    noise, found = noise_of(meta), []
    for base_model, runs in ends(meta).groupby("base_model"):
        scores = comparable_scores(meta, str(base_model))
        if len(scores.tasks) > 1 and len(scores.pipelines) > 1:
            found.append(_of(str(base_model), scores, runs["pipeline"].nunique(), noise, meta.space))
    return found


def known_pipelines(space: Space) -> dict[str, Pipeline]:
    """The named defaults; none where a space of one's own has the name of theirs and does not allow them."""
    try:
        return named_pipelines(space)
    except SpaceError:
        return {}


def _of(base_model: str, scores: Scores, everything: int, noise: Sequence[Noise], space: Space) -> HeadRoom:
    static, others_T = best_static(scores), best_static_of_others(scores)
    regrets = {"static": regret(scores, static), "static_of_others": regret(scores, others_T)}
    for name, pipeline in known_pipelines(space).items():
        if pipeline in scores.pipelines:
            regrets[name] = regret(scores, scores.pipelines.index(pipeline))
    of_task = {one.task: one for one in noise if one.base_model == base_model}
    covariances = [of_task[task].covariance_22 if task in of_task else None for task in scores.tasks]
    known_T = np.array([covariance is not None for covariance in covariances])
    noise_T22 = np.array([np.zeros((2, 2)) if covariance is None else covariance for covariance in covariances])
    deviation_T = normalised(np.sqrt(noise_T22[:, 1, 1]), scores.test_range)
    return HeadRoom(
        base_model=base_model,
        scores=scores,
        left_out=everything - len(scores.pipelines),
        chosen_T=chosen(scores),
        static=static,
        others_T=others_T,
        regret=regrets,
        noise_T=np.where(known_T, 2 * math.sqrt(2) * deviation_T, np.nan),
        luck_T=np.where(known_T, luck_of_choice(scores, noise_T22), np.nan),
        rank_correlation_TT=rank_correlation(scores),
    )
