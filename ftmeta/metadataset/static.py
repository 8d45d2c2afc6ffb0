"""What it costs to run one pipeline on every task: normalised regret at the end of training, from a whole sweep.

In: a meta-dataset in which each pipeline has run on each task (`final_scores`), or what can be compared of one that has
gaps (`comparable_scores`). Out: its `Scores`, and from them the pipeline that is best on each task, the best static
pipeline, and what a choice loses.

A pipeline is chosen on validation scores, and what the choice is worth is measured on test scores:

    regret = (test score of the task's chosen pipeline - test score of this one) / (best - worst test score of the task)

with best and worst over all pipelines of the table. It can be negative, where the choice on validation was a bad one.

Array legend: T tasks, P pipelines, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset.ends import distinct_pipelines, ends
from ftmeta.schema import Pipeline

if TYPE_CHECKING:
    from ftmeta.metadataset.store import MetaDataset


@dataclass(frozen=True)
class Scores:
    """Scores at the end of training, in [0, 1], higher is better; 0 where the run diverged. Means over seeds."""

    tasks: tuple[str, ...]
    pipelines: tuple[Pipeline, ...]
    validation_TP: np.ndarray
    test_TP: np.ndarray

    @property
    def test_range(self) -> np.ndarray:
        """[T] best minus worst test score of each task: what regrets are divided by."""
        return np.ptp(self.test_TP, axis=1)


def final_scores(meta: MetaDataset) -> Scores:
    """Tasks in the order of their names, pipelines in that of their ids. Raises MetaDatasetError unless every pipeline
    has run on every task, with one base model, to its end or until it diverged."""
    models = sorted(meta.runs["base_model"].unique())
    if len(models) > 1:
        raise MetaDatasetError(
            f"meta-dataset '{meta.name}' has runs of {', '.join(models)}; give one of one base model"
        )
    unfinished = meta.runs[~meta.runs["status"].isin(("ok", "diverged"))]
    if len(unfinished):
        first = unfinished.iloc[0]
        raise MetaDatasetError(
            f"{len(unfinished)} runs of meta-dataset '{meta.name}' did not end well (run {first['run_id']} on "
            f"{first['task']}: {first['status']}); submit the sweep again with --retry-failed"
        )
    pipeline_of = meta.pipelines()
    last = meta.curves.sort_values("fidelity").groupby("run_id").tail(1).set_index("run_id")[["score", "test_score"]]
    end_of = {str(run_id): row for run_id, row in zip(last.index, last.fillna(0.0).to_numpy(), strict=True)}
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    for run in meta.runs[["run_id", "task", "status"]].to_dict("records"):
        end_2 = np.zeros(2) if run["status"] == "diverged" else end_of[run["run_id"]]
        cells.setdefault((run["task"], pipeline_of[run["run_id"]].id), []).append(end_2)
    pipelines = sorted({pipeline.id: pipeline for pipeline in pipeline_of.values()}.items())
    tasks = sorted({task for task, _ in cells})
    missing = [(task, name) for task in tasks for name, _ in pipelines if (task, name) not in cells]
    if missing:
        raise MetaDatasetError(
            f"meta-dataset '{meta.name}' is not whole: {len(missing)} pairs of task and pipeline have no run (first: "
            f"{missing[0][0]}, {missing[0][1]}); submit the sweep again, which goes on where it stopped"
        )
    mean_TP2 = np.array([[np.mean(cells[task, name], axis=0) for name, _ in pipelines] for task in tasks])
    return Scores(tuple(tasks), tuple(pipeline for _, pipeline in pipelines), mean_TP2[..., 0], mean_TP2[..., 1])


def comparable_scores(meta: MetaDataset, base_model: str) -> Scores:
    """What can be compared with one base model of a meta-dataset that has gaps: maybe nothing (no task, no pipeline).

    A cell without a run that ended well or diverged is unknown, and is never filled in: a pipeline counts only if it is
    known on every task, or choices among different pipelines would be compared. Tasks on which fewer than half as many
    pipelines are known as on another one are left out first, so that a task just begun does not empty the table.
    """
    known = ends(meta)
    known = known[(known["base_model"] == base_model) & known["score"].notna() & known["test_score"].notna()]
    cells = known.groupby(["task", "pipeline"])[["score", "test_score"]].mean()
    validation, test = cells["score"].unstack(), cells["test_score"].unstack()
    counts = validation.notna().sum(axis=1)
    kept = counts.index[2 * counts >= counts.max()] if len(counts) else counts.index
    whole = validation.loc[kept].notna().all(axis=0)
    names = [str(name) for name in whole.index[whole]]
    of_id = distinct_pipelines(meta)
    return Scores(
        tuple(str(task) for task in kept),
        tuple(of_id[name] for name in names),
        validation.loc[kept, names].to_numpy(dtype=float),
        test.loc[kept, names].to_numpy(dtype=float),
    )


def chosen(scores: Scores) -> np.ndarray:
    """[T] the pipeline (its index) with the best validation score on each task."""
    return scores.validation_TP.argmax(axis=1)


def best_static(scores: Scores, among: Sequence[int] | None = None) -> int:
    """The one pipeline with the smallest mean normalised validation regret over the tasks `among` (None: over all)."""
    validation_TP = scores.validation_TP if among is None else scores.validation_TP[list(among)]
    lost_TP = validation_TP.max(axis=1, keepdims=True) - validation_TP
    return int(normalised(lost_TP, np.ptp(validation_TP, axis=1)[:, None]).mean(axis=0).argmin())


def best_static_of_others(scores: Scores) -> np.ndarray:
    """[T] for each task the static pipeline that the other tasks alone would choose. Needs two tasks."""
    tasks = range(len(scores.tasks))
    return np.array([best_static(scores, [other for other in tasks if other != task]) for task in tasks])


def regret(scores: Scores, pipeline_T: np.ndarray | int) -> np.ndarray:
    """[T] what running `pipeline_T` (one a task, or one for all) loses against each task's choice on validation."""
    rows = np.arange(len(scores.tasks))
    lost_T = scores.test_TP[rows, chosen(scores)] - scores.test_TP[rows, pipeline_T]
    return normalised(lost_T, scores.test_range)


def luck_of_choice(scores: Scores, noise_T22: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """[T] how much of a regret is expected to be luck: the best of many runs is best partly for its seed, and the same
    seed's luck shows in its test score.

    A parametric bootstrap: the table is taken for the truth, noise between seeds is added to each cell (`noise_T22`:
    covariance of validation and test score on each task) and the choice made again; the mean of what the chosen run's
    test score gained from its noise, divided as regrets are. Where the table's own spread is largely noise this is too
    little, because a table with noise in it is taken for one without.
    """
    rng = np.random.default_rng(seed)
    draws = min(2000, 20 + 1_000_000 // len(scores.pipelines))  # the more pipelines, the less a mean of them needs
    luck_T = np.zeros(len(scores.tasks))
    for t, covariance_22 in enumerate(noise_T22):
        noise_DP2 = rng.multivariate_normal(np.zeros(2), covariance_22, (draws, len(scores.pipelines)), method="eigh")
        chosen_D = (scores.validation_TP[t] + noise_DP2[..., 0]).argmax(axis=1)
        luck_T[t] = noise_DP2[np.arange(draws), chosen_D, 1].mean()
    return normalised(luck_T, scores.test_range)


def normalised(lost: np.ndarray, span: np.ndarray) -> np.ndarray:
    """`lost / span`, and 0 where all pipelines of a task score the same, so that nothing can be lost."""
    return np.divide(lost, span, out=np.zeros(np.broadcast_shapes(lost.shape, span.shape)), where=span > 0)


def rank_correlation(scores: Scores) -> np.ndarray:
    """[T, T] Spearman's correlation of the pipelines' test scores between tasks; NaN where all score the same."""
    from scipy.stats import rankdata

    rank_TP = rankdata(scores.test_TP, axis=1)
    with np.errstate(invalid="ignore"):
        return np.corrcoef(rank_TP)


def between_seeds(repeats: Sequence[Sequence[float]]) -> float:
    """The standard deviation between seeds, pooled over groups of repeated runs. Groups of one run say nothing."""
    groups = [np.asarray(group) for group in repeats if len(group) > 1]
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))
