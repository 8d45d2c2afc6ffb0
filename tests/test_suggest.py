"""Stateless suggestions: the same as the optimizer that keeps its own book, whoever holds the observations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ftmeta.errors import ConfigError, DataError
from ftmeta.metadataset import read
from ftmeta.optimizers import Outcome
from ftmeta.schema import Pipeline
from ftmeta.selector import WIDER, Selector
from ftmeta.suggest import Seen, UnderWay, optimizer_of, suggestion_document
from ftmeta.surrogates import metatrain
from tests.surrogates.synthetic import BASE_MODEL, task_metafeatures, truth, write_sweep

BUDGET_S = 300.0
TASK = {**task_metafeatures(4)["task0"], "zero_shot_nll": 3.3}


@pytest.fixture(scope="module")
def selector(tmp_path_factory: pytest.TempPathFactory) -> Selector:
    folder = tmp_path_factory.mktemp("suggest") / "meta"
    write_sweep(folder, 4, 30)
    return Selector(metatrain(read(folder)))


def score_of(pipeline: Pipeline, fidelity: int) -> float:
    return float(np.clip(truth(dict(pipeline.values), TASK, 10)[0][fidelity - 1], 0, 1))


def suggest(selector: Selector, seen: list[Seen], **more: Any) -> dict[str, Any]:
    options = {"budget_s": BUDGET_S, "hardware": "cpu-core", **more}
    return suggestion_document(selector, TASK, BASE_MODEL, seen=seen, **options)


def pipeline_of(selector: Selector, document: dict[str, Any]) -> Pipeline:
    return selector.space.validate(document["pipeline"]["values"])


def test_an_optimizer_that_remembers_and_one_that_is_told_all_again_take_the_same_steps(selector: Selector) -> None:
    optimizer = optimizer_of(selector, TASK, BASE_MODEL, BUDGET_S, "cpu-core")
    seen: list[Seen] = []
    paid: dict[str, float] = {}
    for _ in range(12):
        step = optimizer.ask()
        assert step is not None
        pipeline = optimizer.problem.candidates[step.candidate]
        told = suggest(selector, seen)
        assert told["pipeline"]["id"] == pipeline.id
        assert (told["continue_from"], told["fidelity"]) == (step.start, step.fidelity)
        cost_s = 1.4 * told["predicted_cost_s"]  # the machine is slower than was predicted
        optimizer.tell(Outcome(step, (score_of(pipeline, step.fidelity),), cost_s))
        paid[pipeline.id] = paid.get(pipeline.id, 0.0) + cost_s
        seen.append(Seen(pipeline, step.fidelity, score_of(pipeline, step.fidelity), paid[pipeline.id]))
    assert suggest(selector, seen)["spent_s"] == pytest.approx(sum(paid.values()))


def test_the_answer_says_what_to_expect(selector: Selector) -> None:
    first = suggest(selector, [])
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["stop"] is None
    assert first["incumbent"] is None
    assert (first["continue_from"], first["fidelity"]) == (0, 1)
    assert 0 <= first["score_low"] <= first["score"] <= first["score_high"] <= 1
    assert 0 < first["expected_improvement"] <= 1
    assert 0 < first["predicted_cost_s"] < BUDGET_S
    assert first["fits_budget"] is True
    pipeline = pipeline_of(selector, first)
    assert first["learning_rate"] == pytest.approx(float(pipeline["lr_multiplier"]) * BASE_MODEL.reference_lr)
    assert first["selector"] == selector.describe()
    seen = [Seen(pipeline, 1, score_of(pipeline, 1), 2.0)]
    second = suggest(selector, seen)
    assert second["incumbent"] == {"pipeline": pipeline.to_json(), "fidelity": 1, "score": seen[0].score}
    assert second["expected_improvement"] < first["expected_improvement"]


def test_what_is_seen_narrows_the_interval(selector: Selector) -> None:
    first = suggest(selector, [])
    pipeline = pipeline_of(selector, first)
    seen = [Seen(pipeline, t, score_of(pipeline, t), None) for t in range(1, 9)]
    others = [one for one in selector.candidates if one.id != pipeline.id]
    ended = [Seen(one, 1, None, 0.0) for one in others]  # so that the first one is what is left
    last = suggest(selector, [*seen, *ended[:900]])
    assert last["pipeline"]["id"] == pipeline.id
    assert (last["continue_from"], last["fidelity"]) == (8, 9)
    assert last["score_high"] - last["score_low"] < 0.5 * (first["score_high"] - first["score_low"])
    assert last["score_low"] <= score_of(pipeline, 10) <= last["score_high"]


def test_fidelities_may_be_left_out(selector: Selector) -> None:
    pipeline = pipeline_of(selector, suggest(selector, []))
    good = 0.9  # so good that it is gone on with
    found = suggest(selector, [Seen(pipeline, 3, good, 4.0)])
    assert found["incumbent"]["fidelity"] == 3
    assert found["pipeline"]["id"] == pipeline.id
    assert (found["continue_from"], found["fidelity"]) == (3, 4)


def test_a_run_that_broke_off_is_left_for_good(selector: Selector) -> None:
    pipeline = pipeline_of(selector, suggest(selector, []))
    found = suggest(selector, [Seen(pipeline, 1, None, 2.0)])
    assert found["pipeline"]["id"] != pipeline.id
    assert found["incumbent"] is None
    assert found["spent_s"] == 2.0


def test_pipelines_outside_the_pool_become_candidates(selector: Selector) -> None:
    strange = next(
        one for one in selector.space.sample(900, seed=7) if one.id not in {p.id for p in selector.candidates}
    )
    found = suggest(selector, [Seen(strange, 2, 0.5, 3.0)], candidates=[])
    assert found["pipeline"]["id"] == strange.id
    assert (found["continue_from"], found["fidelity"]) == (2, 3)


def test_what_is_under_way_is_not_suggested_again_and_counts_for_the_budget(selector: Selector) -> None:
    first = suggest(selector, [])
    pipeline = pipeline_of(selector, first)
    second = suggest(selector, [], under_way=[UnderWay(pipeline, 1)])
    assert second["pipeline"]["id"] != pipeline.id
    assert second["spent_s"] == 0
    tight = 1.01 * first["predicted_cost_s"]
    alone = suggest(selector, [], budget_s=tight)
    beside = suggest(selector, [], budget_s=tight, under_way=[UnderWay(pipeline_of(selector, alone), 1)])
    assert beside["fits_budget"] is False


def test_costs_are_corrected_by_what_was_seen(selector: Selector) -> None:
    """On a machine ten times as slow as its profile says, predictions follow."""
    pipeline = pipeline_of(selector, suggest(selector, []))
    predicted_s = optimizer_of(selector, TASK, BASE_MODEL, BUDGET_S, "cpu-core", candidates=[pipeline]).cost_s(0, 0, 10)
    share = predicted_s / 10
    seen = [[Seen(pipeline, t, 0.5, times * t * share) for t in range(1, 7)] for times in (1, 10)]
    as_said, slower = (suggest(selector, one, candidates=[], budget_s=100 * BUDGET_S) for one in seen)
    assert as_said["predicted_cost_s"] == pytest.approx(share, rel=0.2)
    assert 4 * as_said["predicted_cost_s"] < slower["predicted_cost_s"] <= 10 * as_said["predicted_cost_s"]


def test_a_spent_budget_and_an_empty_pool_are_said(selector: Selector) -> None:
    pipeline = pipeline_of(selector, suggest(selector, []))
    spent = suggest(selector, [Seen(pipeline, 1, 0.3, BUDGET_S)])
    assert spent["pipeline"] is None
    assert spent["stop"] == "the budget is spent"
    assert spent["incumbent"]["score"] == 0.3
    assert suggest(selector, [], budget_s=1e-6)["fits_budget"] is False
    ended = [Seen(one, 1, None, 0.0) for one in selector.candidates]
    assert "every candidate" in suggest(selector, ended)["stop"]


def test_cautions_widen_the_interval_as_in_recommendations(selector: Selector) -> None:
    far = {**TASK, "answer_tokens_mean": 19.0, "noise": 40.0}
    near, strange = (
        suggestion_document(selector, one, BASE_MODEL, budget_s=BUDGET_S, hardware="cpu-core") for one in (TASK, far)
    )
    assert near["warnings"] == []
    assert any("far from the 4 source tasks" in text for text in strange["warnings"])
    assert WIDER > 1
    assert strange["score_high"] - strange["score_low"] > near["score_high"] - near["score_low"]


def test_what_cannot_be_answered_is_said(selector: Selector) -> None:
    with pytest.raises(DataError, match="log10_train_examples"):
        suggestion_document(selector, {}, BASE_MODEL, budget_s=1.0, hardware="cpu-core")
    with pytest.raises(ConfigError, match="unknown hardware"):
        optimizer_of(selector, TASK, BASE_MODEL, 1.0, "abacus")
