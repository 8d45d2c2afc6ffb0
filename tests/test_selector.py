from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftmeta.errors import ConfigError, UserError
from ftmeta.metadataset import read
from ftmeta.recommend import recommendation_document
from ftmeta.schema import BaseModelInfo, Example, Message, ModelShape, Task
from ftmeta.selector import MIN_DISTANCE, WIDER, Selector, load_selector
from ftmeta.space import named_pipelines
from ftmeta.surrogates import metatrain
from tests.surrogates.synthetic import BASE_MODEL, task_metafeatures, write_sweep

PHI3_MINI = BaseModelInfo(
    "phi3-mini", "unused", ModelShape(3_821_000_000, 3072, 8192, 32, 32064, 4096), 3.6e-4, "beef" * 4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("selector")
    write_sweep(path / "meta", 4, 30)
    metatrain(read(path / "meta")).save(path / "selector")
    return path / "selector"


@pytest.fixture(scope="module")
def selector(folder: Path) -> Selector:
    return load_selector(folder)


def near_task() -> dict[str, float]:
    """Between the source tasks: the first one, a little moved."""
    task = task_metafeatures(4)["task0"]
    return {**task, "zero_shot_nll": task["zero_shot_nll"] + 0.05}


def test_recommendations_are_ranked_whole_and_repeatable(selector: Selector) -> None:
    found, warnings = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core")
    assert len(found) == 5
    assert warnings == []
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert 0 <= one.score_low <= one.score <= one.score_high <= 1
        assert len(one.curve) == 10
        assert one.curve[-1] == one.score
        assert one.cost_s > 0
        assert one.cost_usd == pytest.approx(one.cost_s / 3600 * 0.09)
        assert one.learning_rate == pytest.approx(float(one.pipeline["lr_multiplier"]) * BASE_MODEL.reference_lr)
    assert selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core")[0] == found


def test_the_first_recommendation_beats_the_defaults_in_prediction(selector: Selector) -> None:
    found, _ = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", top_k=1)
    named = list(named_pipelines(selector.space).values())
    mean_NT, _ = selector.surrogates.predict_curve(named, near_task(), BASE_MODEL)
    assert found[0].score >= mean_NT[:, -1].max()
    assert {pipeline.id for pipeline in named} <= {pipeline.id for pipeline in selector.candidates}


def test_no_near_copies(selector: Selector) -> None:
    found, _ = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", top_k=10)
    domains = selector.space.domains
    for i, a in enumerate(found):
        for b in found[:i]:
            differing = sum(a.pipeline.get(name) != b.pipeline.get(name) for name in domains)
            assert differing / len(domains) >= MIN_DISTANCE


def test_budgets_are_kept(selector: Selector) -> None:
    free, _ = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", top_k=50)
    limit = float(np.median([one.cost_s for one in free]))
    within, _ = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", budget_s=limit, top_k=50)
    assert max(one.cost_s for one in within) <= limit
    money, _ = selector.recommend(
        near_task(), BASE_MODEL, hardware="cpu-core", budget_usd=limit * 0.09 / 3600, top_k=50
    )
    assert [one.pipeline for one in money] == [one.pipeline for one in within]


def test_a_budget_that_nothing_fits_names_the_cheapest(selector: Selector) -> None:
    with pytest.raises(UserError, match=r"no pipeline fits the budget of 0\.001 .* cheapest is predicted to take"):
        selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", budget_s=0.001)
    with pytest.raises(UserError, match="price of rtx-4090 is unknown"):
        selector.recommend(near_task(), BASE_MODEL, hardware="rtx-4090", budget_usd=1)
    with pytest.raises(ConfigError, match="unknown hardware"):
        selector.recommend(near_task(), BASE_MODEL, hardware="abacus")


def test_an_unseen_base_model_is_said_with_wider_intervals(selector: Selector) -> None:
    seen, _ = selector.recommend(near_task(), BASE_MODEL, hardware="cpu-core", top_k=1)
    stranger = replace(BASE_MODEL, name="stranger")
    unseen, warnings = selector.recommend(near_task(), stranger, hardware="cpu-core", top_k=1)
    assert any("no source run finetuned stranger" in warning for warning in warnings)
    assert unseen[0].score == seen[0].score
    assert unseen[0].score - unseen[0].score_low == pytest.approx(WIDER * (seen[0].score - seen[0].score_low))


def test_phi3_mini_on_a_data_centre_gpu(selector: Selector) -> None:
    found, warnings = selector.recommend(near_task(), PHI3_MINI, hardware="h100-80gb", top_k=3)
    assert any("estimate" in warning for warning in warnings)
    for one in found:
        assert one.learning_rate is not None
        assert one.learning_rate < 1e-2
        assert 1 < one.cost_s < 3600
        assert one.cost_usd == pytest.approx(one.cost_s / 3600 * 6.88)


def test_a_far_task_is_said_and_why(selector: Selector) -> None:
    far = {**near_task(), "answer_tokens_mean": 400.0}
    _, warnings = selector.recommend(far, BASE_MODEL, hardware="cpu-core")
    assert any("far from the 4 source tasks (first of all in answer_tokens_mean: 400" in text for text in warnings)


def test_the_document_has_the_promised_keys(selector: Selector) -> None:
    one = Example((Message("user", "q"),), "a")
    task = Task("mine", (one,), (one,), (one,), "f" * 16)
    document = recommendation_document(
        selector, near_task(), BASE_MODEL, task=task, budget_s=1e6, top_k=2, hardware="cpu-core"
    )
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) >= {"task", "base_model", "metafeatures", "recommendations", "selector", "warnings"}
    assert document["task"]["name"] == "mine"
    assert document["base_model"]["name"] == "micro"
    assert document["selector"] == {
        "name": "synthetic",
        "version": selector.version,
        "meta_dataset": selector.surrogates.meta_dataset["fingerprint"],
    }
    first = document["recommendations"][0]
    assert set(first) >= {"pipeline", "score", "score_low", "score_high", "cost_s", "cost_usd", "curve"}
    assert selector.space.validate(first["pipeline"]["values"]).id == first["pipeline"]["id"]
    assert recommendation_document(selector, near_task(), BASE_MODEL, hardware="cpu-core")["task"] is None


def test_a_folder_that_is_no_selector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a folder that `ftmeta metatrain` made"):
        load_selector(tmp_path)
