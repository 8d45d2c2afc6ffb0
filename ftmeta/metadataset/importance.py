"""Which hyperparameters the score depends on: a random forest's loss of accuracy when one of them is exchanged.

In: a meta-dataset. Out: an `Importance` a task and base model, and their mean. On held-out runs, the values of one
hyperparameter are exchanged between pipelines (what that makes inactive is dropped, what it makes active gets the value
of a pipeline in which it is active); the squared error that this adds, over twice the variance of the score, estimates
the hyperparameter's total Sobol index: the share of the variance that is gone when it is fixed, interactions included
(Homma & Saltelli 1996; Jansen 1999; permutation importance is Breiman's, 2001). Shares of interacting hyperparameters
add up to more than 1.

The forest is judged by its R2 on held-out runs: what it has not understood it gives to no hyperparameter, and where R2
is near 0 its shares mean nothing. The trap: hyperparameters that were not varied independently of each other (pipelines
around a good one in a sweep) stand for each other, and a share may go to the wrong one or to none.

Array legend: N pipelines, F encoded features, D hyperparameters, R exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.metadataset.ends import distinct_pipelines, ends
from ftmeta.schema import Pipeline
from ftmeta.space import Space

if TYPE_CHECKING:
    from ftmeta.metadataset.store import MetaDataset

MIN_PIPELINES = 20  # of fewer a forest of this many dimensions learns nothing
_FOLDS = 5
_EXCHANGES = 4
_TREES = 200


@dataclass(frozen=True)
class Importance:
    """Of the hyperparameters of a space for the score on one task, or in the mean over tasks (`task` None)."""

    task: str | None
    base_model: str | None
    pipelines: int
    r2: float  # of the forest on held-out pipelines; below 0 it is worse than the mean score
    share: dict[str, float]  # hyperparameter -> share of the score's variance; about 0 where it does not matter


def importance_of(meta: MetaDataset, *, best: float = 1.0, seed: int = 0) -> list[Importance]:
    """One a task and base model with at least MIN_PIPELINES pipelines whose scores differ; means over seeds.

    `best` 0.5 looks at the better half of each task's pipelines only: what matters once the worst mistakes are not
    made. It is another question, and a harder one for the forest.
    """
    ended, of_id = ends(meta), distinct_pipelines(meta)
    found = []
    for (task, base_model), runs in ended.groupby(["task", "base_model"]):
        cells = runs.groupby("pipeline")["score"].mean().dropna()
        kept = cells.nlargest(int(np.ceil(best * len(cells)))).sort_index()
        if len(kept) < MIN_PIPELINES or kept.nunique() < 2:
            continue
        pipelines = [of_id[str(name)] for name in kept.index]
        r2, share = forest_importance(pipelines, kept.to_numpy(dtype=float), meta.space, seed=seed)
        found.append(Importance(str(task), str(base_model), len(kept), r2, share))
    return found


def mean_importance(found: Sequence[Importance]) -> Importance | None:
    """The mean over tasks, each with the same weight; None of none."""
    if not found:
        return None
    share = {name: float(np.mean([one.share[name] for one in found])) for name in found[0].share}
    r2 = float(np.mean([one.r2 for one in found]))
    return Importance(None, None, min(one.pipelines for one in found), r2, share)


def forest_importance(
    pipelines: Sequence[Pipeline], score_N: np.ndarray, space: Space, *, seed: int = 0
) -> tuple[float, dict[str, float]]:
    """The held-out R2 of the forest, and for each hyperparameter of `space` its share. N distinct pipelines, whose
    scores differ."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(seed)
    X_NF, _ = space.encode(pipelines)
    exchanged_DRNF = _exchanged(pipelines, space, rng)
    D, R, N, F = exchanged_DRNF.shape
    error_N, error_DRN = np.empty(N), np.empty((D, R, N))
    for train, held_out in KFold(min(_FOLDS, N), shuffle=True, random_state=seed).split(X_NF):
        forest = RandomForestRegressor(_TREES, random_state=seed, n_jobs=1)
        forest.fit(X_NF[train], score_N[train])
        error_N[held_out] = (forest.predict(X_NF[held_out]) - score_N[held_out]) ** 2
        predicted = forest.predict(exchanged_DRNF[:, :, held_out].reshape(-1, F))
        error_DRN[:, :, held_out] = (predicted.reshape(D, R, -1) - score_N[held_out]) ** 2
    variance = float(score_N.var())
    share_D = (error_DRN.mean(axis=(1, 2)) - error_N.mean()) / (2 * variance)
    return 1 - float(error_N.mean()) / variance, dict(zip(space.hyperparameters, share_D.tolist(), strict=True))


def _exchanged(pipelines: Sequence[Pipeline], space: Space, rng: np.random.Generator) -> np.ndarray:
    """[D, R, N, F]: all pipelines with hyperparameter d taken from another pipeline in which it is active."""
    given = {
        name: [pipeline.values[name] for pipeline in pipelines if name in pipeline.values] or [domain.default]
        for name, domain in space.domains.items()
    }
    encoded = []
    for name in space.hyperparameters:
        active = [n for n, pipeline in enumerate(pipelines) if name in pipeline.values]
        for _ in range(_EXCHANGES):
            changed = list(pipelines)
            for n, donor in zip(active, rng.permutation(active), strict=True):
                # A default instead would stand out: inactive values are encoded as it, and trees split them off by it.
                drawn = {other: values[rng.integers(len(values))] for other, values in given.items()}
                values = {**drawn, **pipelines[n].values, name: pipelines[donor].values[name]}
                kept = {key: value for key, value in values.items() if space.is_active(key, values)}
                changed[n] = Pipeline(space.name, kept)
            encoded.append(space.encode(changed)[0])
    return np.array(encoded).reshape(len(space.hyperparameters), _EXCHANGES, len(pipelines), -1)
