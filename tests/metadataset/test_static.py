"""Regret of a static choice, on tables small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset import MetaDataset, read, write
from ftmeta.metadataset.static import (
    Scores,
    best_static,
    best_static_of_others,
    between_seeds,
    chosen,
    comparable_scores,
    final_scores,
    luck_of_choice,
    rank_correlation,
    regret,
)
from ftmeta.schema import Pipeline, RunResult
from ftmeta.space import load_space
from tests.surrogates.synthetic import BASE_MODEL, HARDWARE, sweep, task_metafeatures

# Tasks a, b, c; pipelines 0, 1, 2. On `c` the best on validation is not the best in test, and 0 diverged on `a`.
BY_HAND = Scores(
    ("a", "b", "c"),
    tuple(Pipeline("x", {"n": n}) for n in range(3)),
    validation_TP=np.array([[0.0, 0.4, 0.5], [0.6, 0.5, 0.2], [0.3, 0.2, 0.1]]),
    test_TP=np.array([[0.0, 0.3, 0.4], [0.6, 0.4, 0.2], [0.2, 0.3, 0.1]]),
)


def test_each_task_chooses_on_validation() -> None:
    assert chosen(BY_HAND).tolist() == [2, 0, 0]


def test_the_static_pipeline_has_the_smallest_mean_normalised_validation_regret() -> None:
    # pipeline 0: 1, 0, 0; pipeline 1: 0.2, 0.25, 0.5; pipeline 2: 0, 1, 1
    assert best_static(BY_HAND) == 1
    assert best_static(BY_HAND, among=[1, 2]) == 0
    assert best_static(BY_HAND, among=[0]) == 2


def test_a_static_pipeline_chosen_without_the_task() -> None:
    # without a: 0; without b: of (1, 0), (0.2, 0.5), (0, 1) the second; without c: of (1, 0), (0.2, 0.25), (0, 1) also
    assert best_static_of_others(BY_HAND).tolist() == [0, 1, 1]


def test_regret_is_measured_in_test_and_may_be_negative() -> None:
    np.testing.assert_allclose(regret(BY_HAND, 1), [0.25, 0.5, -0.5])
    np.testing.assert_allclose(regret(BY_HAND, chosen(BY_HAND)), 0)
    np.testing.assert_allclose(regret(BY_HAND, np.array([0, 1, 2])), [1, 0.5, 0.5])


def test_nothing_is_lost_where_all_pipelines_are_alike() -> None:
    flat = replace(BY_HAND, validation_TP=np.full((3, 3), 0.2), test_TP=np.full((3, 3), 0.2))
    assert regret(flat, 1).tolist() == [0, 0, 0]
    assert best_static(flat) == 0


def test_rank_correlation() -> None:
    correlation_TT = rank_correlation(BY_HAND)
    np.testing.assert_allclose(correlation_TT, [[1, -1, -0.5], [-1, 1, 0.5], [-0.5, 0.5, 1]])
    flat = replace(BY_HAND, test_TP=np.array([[0.0, 0.3, 0.4], [0.2, 0.2, 0.2], [0.2, 0.3, 0.1]]))
    assert np.isnan(rank_correlation(flat)[0, 1])


def test_the_deviation_between_seeds_is_pooled() -> None:
    assert between_seeds([[0.1, 0.3], [0.5], [0.2, 0.2]]) == pytest.approx((0.02 / 2) ** 0.5)
    assert between_seeds([[1.0, 2.0, 3.0]]) == pytest.approx(1.0)


def _meta(folder: Path, results: list[RunResult]) -> MetaDataset:
    space = load_space()
    tasks = task_metafeatures(2)
    write(
        folder,
        results,
        space=space,
        metafeatures={(task, BASE_MODEL.name): mf for task, mf in tasks.items()},
        base_models={BASE_MODEL.name: BASE_MODEL, "other": None},
        hardware={"cpu": HARDWARE},
        budget=space.budget(),
    )
    return read(folder)


def test_scores_of_a_meta_dataset(tmp_path: Path) -> None:
    results = sweep(2, 4)
    results[0] = RunResult(replace(results[0].run, status="diverged"), results[0].curve)
    scores = final_scores(_meta(tmp_path, results))
    assert scores.tasks == ("task0", "task1")
    assert [pipeline.id for pipeline in scores.pipelines] == sorted({one.run.pipeline.id for one in results})
    for result in results:
        at = scores.tasks.index(result.run.task), scores.pipelines.index(result.run.pipeline)
        wanted = 0.0 if result.run.status == "diverged" else result.curve[-1].score
        assert scores.validation_TP[at] == wanted
        assert scores.test_TP[at] == (0.0 if result.run.status == "diverged" else result.curve[-1].test_score)


def test_seeds_are_averaged(tmp_path: Path) -> None:
    results = sweep(2, 2)
    first = results[0]
    again = RunResult(replace(first.run, run_id="f" * 16, seed=1, status="diverged"), first.curve)
    scores = final_scores(_meta(tmp_path, [*results, again]))
    at = scores.tasks.index(first.run.task), scores.pipelines.index(first.run.pipeline)
    once = final_scores(_meta(tmp_path / "once", results))
    assert scores.test_TP[at] == pytest.approx(once.test_TP[at] / 2)


def test_a_sweep_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    results = sweep(2, 3)
    with pytest.raises(MetaDatasetError, match="1 pairs of task and pipeline have no run"):
        final_scores(_meta(tmp_path / "a", results[1:]))
    failed = RunResult(replace(results[0].run, status="oom"), ())
    with pytest.raises(MetaDatasetError, match=r"1 runs .* oom\); submit the sweep again with --retry-failed"):
        final_scores(_meta(tmp_path / "b", [failed, *results[1:]]))


def test_base_models_are_not_mixed(tmp_path: Path) -> None:
    results = sweep(1, 2)
    other = RunResult(replace(results[0].run, run_id="e" * 16, base_model="other"), results[0].curve)
    space, tasks = load_space(), task_metafeatures(1)
    models = {BASE_MODEL.name: BASE_MODEL, "other": None}
    write(
        tmp_path,
        [*results, other],
        space=space,
        metafeatures={(task, model): mf for task, mf in tasks.items() for model in models},
        base_models=models,
        hardware={"cpu": HARDWARE},
        budget=space.budget(),
    )
    with pytest.raises(MetaDatasetError, match="runs of micro, other"):
        final_scores(read(tmp_path))


def test_what_can_be_compared_of_a_sweep_with_gaps(tmp_path: Path) -> None:
    results = sweep(2, 6)
    whole = comparable_scores(_meta(tmp_path / "whole", results), BASE_MODEL.name)
    assert whole.tasks == ("task0", "task1")
    np.testing.assert_array_equal(whole.test_TP, final_scores(_meta(tmp_path / "again", results)).test_TP)
    failed = RunResult(replace(results[0].run, status="oom"), ())
    scores = comparable_scores(_meta(tmp_path / "gaps", [failed, *results[1:7], *results[8:]]), BASE_MODEL.name)
    missing = [results[0].run.pipeline, results[7].run.pipeline]  # one failed on task0, one never ran on task1
    assert scores.pipelines == tuple(pipeline for pipeline in whole.pipelines if pipeline not in missing)
    kept = [p for p, pipeline in enumerate(whole.pipelines) if pipeline not in missing]
    np.testing.assert_array_equal(scores.validation_TP, whole.validation_TP[:, kept])


def test_a_task_just_begun_does_not_empty_the_comparison(tmp_path: Path) -> None:
    results = sweep(2, 6)
    scores = comparable_scores(_meta(tmp_path, results[:8]), BASE_MODEL.name)  # two runs on task1
    assert scores.tasks == ("task0",)
    assert len(scores.pipelines) == 6
    nothing = [RunResult(replace(one.run, status="error"), ()) for one in results]
    scores = comparable_scores(_meta(tmp_path / "nothing", nothing), BASE_MODEL.name)
    assert (scores.tasks, scores.pipelines) == ((), ())


def test_a_run_without_test_score_is_not_worth_zero(tmp_path: Path) -> None:
    results = sweep(2, 4)
    last = replace(results[0].curve[-1], test_score=None)
    results[0] = RunResult(replace(results[0].run, status="ok"), (*results[0].curve[:-1], last))
    scores = comparable_scores(_meta(tmp_path, results), BASE_MODEL.name)
    assert results[0].run.pipeline not in scores.pipelines
    assert len(scores.pipelines) == 3


def test_luck_grows_with_noise_and_with_the_number_of_equally_good_pipelines() -> None:
    noise_T22 = np.full((1, 2, 2), 0.01**2)  # validation and test share all of it

    def luck(scores_P: list[float], scale: float = 1.0) -> float:
        scores = Scores(
            ("a",),
            tuple(Pipeline("x", {"n": n}) for n in range(len(scores_P))),
            np.array([scores_P]),
            np.array([scores_P]),
        )
        return float(luck_of_choice(scores, scale * noise_T22)[0])

    assert luck([0.0, 1.0], 0.0) == 0
    assert luck([0.0, 1.0]) == pytest.approx(0, abs=1e-3)  # one is so much better that it is chosen in any case
    # the expected largest of n standard normal numbers: 0.564 of 2, 1.539 of 10
    assert luck([0.0, 1.0, 1.0]) == pytest.approx(0.00564, abs=5e-4)
    assert luck([0.0, *[1.0] * 10]) == pytest.approx(0.01539, abs=5e-4)
    assert luck([0.0, *[1.0] * 10], 4.0) == pytest.approx(0.03078, abs=1e-3)


def test_luck_that_is_not_shared_with_the_test_split_is_none() -> None:
    apart = np.array([[[0.01**2, 0.0], [0.0, 0.01**2]]])
    flat = Scores(("a",), BY_HAND.pipelines, np.array([[0.5, 0.5, 0.0]]), np.array([[0.5, 0.5, 0.0]]))
    assert luck_of_choice(flat, apart)[0] == pytest.approx(0, abs=1e-3)
