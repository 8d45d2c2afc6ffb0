"""What an optimizer may know of other tasks: their runs, and what was learned from them.

Everything learned is learned once, when it is first looked at, and shared by the optimizers that look at it; so one
`Experience` serves many seeds of many methods on one new task. It never holds a run of that task.

Array legend: G source tasks (with a base model), N candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.errors import UserError
from ftmeta.hardware import HardwareProfile
from ftmeta.metadataset import MetaDataset
from ftmeta.schema import Budget, Pipeline
from ftmeta.space import Space
from ftmeta.surrogates.history import Group, groups_of, main_hardware

if TYPE_CHECKING:
    from ftmeta.surrogates.copula import CopulaPrior
    from ftmeta.surrogates.metatrain import Learned
    from ftmeta.surrogates.quicktune import QuickTuneSurrogates


@dataclass(frozen=True)
class Experience:
    space: Space
    budget: Budget
    groups: tuple[Group, ...]
    hardware: HardwareProfile | None  # that most runs were made on
    seed: int

    @functools.cached_property
    def learned(self) -> Learned:
        """Our surrogates (ftmeta/surrogates/metatrain.py)."""
        from ftmeta.surrogates.metatrain import learn

        return learn(self.space, self.budget, self.groups, self.hardware, seed=self.seed)

    @functools.cached_property
    def quicktune(self) -> QuickTuneSurrogates:
        from ftmeta.surrogates.quicktune import fit_quicktune

        return fit_quicktune(self.space, self.budget, self.groups, seed=self.seed)

    @functools.cached_property
    def copula(self) -> CopulaPrior:
        from ftmeta.surrogates.copula import fit_copula

        return fit_copula(self.space, self.groups, seed=self.seed)

    def final_scores(self, candidates: Sequence[Pipeline]) -> np.ndarray:
        """score_GN: what candidates scored in the end on the source tasks; NaN where that is not known.

        Raises UserError if no candidate ever ran on a source task.
        """
        index = {pipeline.id: n for n, pipeline in enumerate(candidates)}
        score_GN = np.full((len(self.groups), len(candidates)), np.nan)
        for g, group in enumerate(self.groups):
            for pipeline, score in zip(group.pipelines, group.score_NT[:, -1], strict=True):
                n = index.get(pipeline.id)
                if n is not None and np.isfinite(score) and not np.isfinite(score_GN[g, n]):
                    score_GN[g, n] = score
        if not np.isfinite(score_GN).any():
            raise UserError("none of the candidates ran on a source task, so no portfolio can be made of them")
        return score_GN


def experience_of(meta: MetaDataset, exclude_tasks: tuple[str, ...] = (), *, seed: int = 0) -> Experience:
    """Of all tasks of `meta` but `exclude_tasks`. Raises MetaDatasetError when nothing usable is left."""
    groups = groups_of(meta, exclude_tasks)
    return Experience(meta.space, meta.budget, tuple(groups), main_hardware(meta), seed)
