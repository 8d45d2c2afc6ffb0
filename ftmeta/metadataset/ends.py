"""How runs ended: one row a run, the common ground of the card, the importance of hyperparameters and the plots.

The rule: a run that ended well counts with the scores of its last fidelity; one that diverged scores 0, because whoever
picks it keeps the base model; one that was stopped, crashed or ran out of memory says nothing of its pipeline's score.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ftmeta.schema import Pipeline

if TYPE_CHECKING:
    import pandas as pd

    from ftmeta.metadataset.store import MetaDataset


def ends(meta: MetaDataset) -> pd.DataFrame:
    """One row a run, in the order of `meta.runs`: `run_id, task, base_model, seed, status, device, pipeline` (its id),
    `score`, `test_score` (NaN where unknown), `cost_s`."""
    import pandas as pd

    columns = ["run_id", "task", "base_model", "seed", "status", "device", "cost_s"]
    ended = meta.runs[columns].reset_index(drop=True).assign(pipeline=pipeline_ids(meta).to_numpy())
    reached = meta.curves[meta.curves["fidelity"] > 0].sort_values("fidelity").drop_duplicates("run_id", keep="last")
    last = reached.set_index("run_id")[["score", "test_score"]].apply(pd.to_numeric)
    for name in ("score", "test_score"):
        # A table without any test scores has none for its diverged runs either.
        diverged = 0.0 if last[name].notna().any() else float("nan")
        scores = ended["run_id"].map(last[name]).where(ended["status"] == "ok")
        ended[name] = scores.where(ended["status"] != "diverged", diverged).astype(float)
    return ended


def pipeline_ids(meta: MetaDataset) -> pd.Series:
    """The id of each run's pipeline. Only one run of each pipeline is checked against the space, which keeps a
    meta-dataset of 100,000 runs quick."""
    first, code_N = _distinct(meta)
    ids = [pipeline.id for pipeline in replace(meta, runs=first).pipelines().values()]
    return code_N.map(dict(enumerate(ids)))


def distinct_pipelines(meta: MetaDataset) -> dict[str, Pipeline]:
    """Pipeline id -> pipeline, sorted by id."""
    first, _ = _distinct(meta)
    found = {pipeline.id: pipeline for pipeline in replace(meta, runs=first).pipelines().values()}
    return dict(sorted(found.items()))


def _distinct(meta: MetaDataset) -> tuple[pd.DataFrame, pd.Series]:
    """One run of each pipeline, and for each run the row of its pipeline there."""
    columns = [f"p_{name}" for name in meta.space.hyperparameters]
    code_N = meta.runs.groupby(columns, dropna=False, sort=False).ngroup()
    first = meta.runs.assign(_code=code_N).drop_duplicates("_code").sort_values("_code").drop(columns="_code")
    return first, code_N
