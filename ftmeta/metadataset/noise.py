"""What the same pipeline gives when it is run again: noise between seeds, from the replicates of a meta-dataset.

In: a meta-dataset. Out: a `Noise` a task and base model that has replicates, pooled over the replicated pipelines.
Scores are compared between runs that ended well; pipelines that diverge with one seed and not with another are counted
beside it, because no standard deviation describes them. Costs are compared on one device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.metadataset.ends import ends

if TYPE_CHECKING:
    import pandas as pd

    from ftmeta.metadataset.store import MetaDataset


@dataclass(frozen=True)
class Noise:
    """On one task, or pooled over tasks. Standard deviations between seeds of one pipeline."""

    task: str
    base_model: str
    pipelines: int  # of which several runs ended well
    degrees: int  # of freedom: those runs less those pipelines
    score: float  # validation
    test_score: float | None
    correlation: float | None  # between the two: luck of the seed that shows in both
    cost: float | None  # of the logarithm of device-seconds, which is the relative deviation where it is small
    cost_degrees: int
    undecided: int  # pipelines that diverged with some seeds and ended well with others

    @property
    def covariance_22(self) -> np.ndarray | None:
        """[2, 2] of validation and test score; None where no test scores are known."""
        if self.test_score is None:
            return None
        both = (self.correlation or 0.0) * self.score * self.test_score
        return np.array([[self.score**2, both], [both, self.test_score**2]])


def noise_of(meta: MetaDataset) -> list[Noise]:
    """Sorted by task and base model; those without replicates that ended well are left out."""
    ended = ends(meta)
    found = []
    for (task, base_model), runs in ended.groupby(["task", "base_model"]):
        well = runs[(runs["status"] == "ok") & runs["score"].notna()]
        deviation = deviations(well, ["pipeline"], ["score", "test_score"])
        if deviation.empty:
            continue
        pipelines = well.loc[deviation.index, "pipeline"].nunique()
        degrees = len(deviation) - pipelines
        test, correlation = None, None
        if deviation["test_score"].notna().all():
            test = math.sqrt(float((deviation["test_score"] ** 2).sum()) / degrees)
            both = float((deviation["score"] * deviation["test_score"]).sum())
            squares = float((deviation["score"] ** 2).sum() * (deviation["test_score"] ** 2).sum())
            correlation = both / math.sqrt(squares) if squares > 0 else None
        cost, cost_degrees = _cost(runs)
        statuses = runs[runs["status"].isin(("ok", "diverged"))].groupby("pipeline")["status"].nunique()
        found.append(
            Noise(
                task=str(task),
                base_model=str(base_model),
                pipelines=pipelines,
                degrees=degrees,
                score=math.sqrt(float((deviation["score"] ** 2).sum()) / degrees),
                test_score=test,
                correlation=correlation,
                cost=cost,
                cost_degrees=cost_degrees,
                undecided=int((statuses > 1).sum()),
            )
        )
    return found


def deviations(runs: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """What each run's `values` differ from the mean of its group, for groups of several runs; the index of `runs`."""
    repeated = runs[runs.groupby(list(by))[by[0]].transform("size") > 1]
    columns = repeated[list(values)].astype(float)
    return columns - columns.groupby([repeated[name] for name in by]).transform("mean")


def _cost(runs: pd.DataFrame) -> tuple[float | None, int]:
    """Of runs that ended well, on one device: seeds on machines of different speed say nothing about noise."""
    paid = runs[(runs["status"] == "ok") & (runs["cost_s"] > 0) & runs["device"].notna()]
    paid = paid.assign(log_cost=np.log(paid["cost_s"].astype(float)))
    deviation = deviations(paid, ["pipeline", "device"], ["log_cost"])
    if deviation.empty:
        return None, 0
    groups = len(paid.loc[deviation.index, ["pipeline", "device"]].drop_duplicates())
    degrees = len(deviation) - groups
    return math.sqrt(float((deviation["log_cost"] ** 2).sum()) / degrees), degrees


def pooled(noise: Sequence[Noise], what: str) -> float | None:
    """`score`, `test_score` or `cost` over all tasks: the quadratic mean weighted by degrees of freedom."""
    squares, degrees = 0.0, 0
    for one in noise:
        deviation, weight = getattr(one, what), one.cost_degrees if what == "cost" else one.degrees
        if deviation is not None:
            squares, degrees = squares + weight * deviation**2, degrees + weight
    return math.sqrt(squares / degrees) if degrees else None
