"""POST /v1/suggestions in-process: what it answers, and that each mistake is named where it stands."""

from __future__ import annotations

from typing import Any

import pytest
from serving_client import Client, problem, records

from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.models import MAX_OBSERVATIONS, SuggestionAnswer
from ftmeta.serving.web import create_app

ROUTE = "/v1/suggestions"


@pytest.fixture(scope="module")
def start(client: Client) -> dict[str, Any]:
    """The answer to a first question, whose meta-features and pipeline later ones send."""
    response = client.post(ROUTE, json={"dataset": {"records": records(40)}, "budget_s": 100.0})
    assert response.status_code == 200, response.text
    return response.json()


def body(start: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"dataset": {"metafeatures": start["metafeatures"]}, "budget_s": 100.0, **fields}


def point(start: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"pipeline": start["pipeline"], "fidelity": 1, "score": 0.3, "cost_s": 1.0, **fields}


def test_a_step_with_what_to_expect(client: Client, start: dict[str, Any]) -> None:
    answer = SuggestionAnswer.model_validate(start)
    assert answer.pipeline is not None
    assert (answer.continue_from, answer.fidelity, answer.stop) == (0, 1, None)
    again = client.post(ROUTE, json=body(start)).json()
    assert again["pipeline"] == start["pipeline"]
    seen = client.post(ROUTE, json=body(start, observations=[point(start, score=0.9)])).json()
    assert seen["pipeline"] == start["pipeline"]
    assert (seen["continue_from"], seen["fidelity"]) == (1, 2)
    assert seen["incumbent"] == {"pipeline": start["pipeline"], "fidelity": 1, "score": 0.9}
    assert seen["spent_s"] == 1.0


def test_any_replica_can_answer(
    client: Client, start: dict[str, Any], selector: Selector, base_models: list[BaseModelInfo]
) -> None:
    """Another application with the same selector, which has seen no earlier request, says the same."""
    other = Client(create_app(selector, base_models=base_models))
    asked = body(start, observations=[point(start)])
    one, two = client.post(ROUTE, json=asked).json(), other.post(ROUTE, json=asked).json()
    assert one.pop("request_id") != two.pop("request_id")
    assert one == two


def test_the_order_of_observations_does_not_count(client: Client, start: dict[str, Any]) -> None:
    points = [point(start, fidelity=t, score=0.1 * t, cost_s=float(t)) for t in (1, 2, 3)]
    there = client.post(ROUTE, json=body(start, observations=points)).json()
    back = client.post(ROUTE, json=body(start, observations=points[::-1])).json()
    assert there["pipeline"] == back["pipeline"]
    assert there["expected_improvement"] == back["expected_improvement"]


def test_a_spent_budget_is_an_answer(client: Client, start: dict[str, Any]) -> None:
    spent = client.post(ROUTE, json=body(start, observations=[point(start, cost_s=200.0)])).json()
    assert SuggestionAnswer.model_validate(spent).pipeline is None
    assert spent["stop"] == "the budget is spent"
    assert spent["incumbent"]["score"] == 0.3


def test_as_many_observations_as_are_allowed_are_answered(client: Client, start: dict[str, Any]) -> None:
    space = client.app.state.service.answering.selector.space
    pipelines = [one.to_json() for one in space.sample(MAX_OBSERVATIONS // 10, seed=3)]
    points = [
        {"pipeline": one, "fidelity": t, "score": 0.05 * t, "cost_s": 0.01 * t}
        for one in pipelines
        for t in range(1, 11)
    ]
    assert client.post(ROUTE, json=body(start, observations=points)).status_code == 200
    response = client.post(ROUTE, json=body(start, observations=[*points, point(start)]))
    problem(response, 422, "observations")


def strange(start: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"values": {**start["pipeline"]["values"], **values}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"score": 1.5}, "observations.0.score"),
        ({"score": "0.5"}, "observations.0.score"),
        ({"cost_s": -1}, "observations.0.cost_s"),
        ({"fidelity": 0}, "observations.0.fidelity"),
        ({"fidelity": 11}, "observations.0.fidelity"),
        ({"fidelity": 1.5}, "observations.0.fidelity"),
        ({"pipeline": "best"}, "observations.0.pipeline"),
        ({"pipeline": {"values": {}}}, "observations.0.pipeline.values"),
        ({"pipeline": {"path": "/etc/passwd"}}, "observations.0.pipeline.path"),
        ({"pipeline": {"values": {"lora_rank": [8]}}}, "observations.0.pipeline.values.lora_rank"),
        ({"seed": 1}, "observations.0.seed"),
    ],
)
def test_a_wrong_observation_is_named(
    client: Client, start: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    response = client.post(ROUTE, json=body(start, observations=[point(start, **change)]))
    found = problem(response, 422)
    assert any(one.field.startswith(field) for one in found.errors), found


def test_values_outside_the_space_are_explained(client: Client, start: dict[str, Any]) -> None:
    for values in ({"peft_method": "lorra"}, {"lora_rank": 7}, {"no_such": 1}):
        response = client.post(ROUTE, json=body(start, observations=[point(start, pipeline=strange(start, **values))]))
        assert next(iter(values)) in problem(response, 422, "observations.0.pipeline.values").detail
    other = {**start["pipeline"], "space": "lora-v2"}
    response = client.post(ROUTE, json=body(start, observations=[point(start, pipeline=other)]))
    problem(response, 422, "observations.0.pipeline.space")


def test_what_contradicts_itself_is_refused(client: Client, start: dict[str, Any]) -> None:
    def refused(field: str, observations: list[dict[str, Any]], **more: Any) -> str:
        return problem(client.post(ROUTE, json=body(start, observations=observations, **more)), 422, field).detail

    assert "a second time" in refused("observations.1", [point(start), point(start, score=0.4)])
    assert "broke off" in refused("observations.0", [point(start, fidelity=3), point(start, score=None)])
    costs = [point(start, cost_s=5.0), point(start, fidelity=2, cost_s=4.0)]
    assert "cumulative" in refused("observations.1.cost_s", costs)
    step = {"pipeline": start["pipeline"], "fidelity": 2}
    assert "no further" in refused("under_way.0", [point(start, fidelity=2)], under_way=[step])
    assert "already" in refused("under_way.1", [], under_way=[step, {**step, "fidelity": 3}])
    assert "has not" in refused("only", [], only={"no_such": [1]})
    assert "no candidate" in refused("only", [], only={"peft_method": ["lorra"]})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget_s": None}, "budget_s"),
        ({"budget_s": 0}, "budget_s"),
        ({"observations": {}}, "observations"),
        ({"under_way": [{"fidelity": 1}]}, "under_way.0.pipeline"),
        ({"top_k": 3}, "top_k"),
        ({"only": {"peft_method": "lora"}}, "only.peft_method"),
        ({"hardware": "abacus"}, "hardware"),
        ({"base_model": "../../etc"}, "base_model"),
    ],
)
def test_a_wrong_field_is_named(client: Client, start: dict[str, Any], change: dict[str, Any], field: str) -> None:
    problem(client.post(ROUTE, json=body(start, **change)), 422, field)


def test_metafeatures_that_costs_need_are_asked_for(client: Client, start: dict[str, Any]) -> None:
    fewer = {name: value for name, value in start["metafeatures"].items() if name != "answer_tokens_mean"}
    problem(client.post(ROUTE, json=body(start, dataset={"metafeatures": fewer})), 422, "dataset.metafeatures")


def test_something_unlike_the_source_tasks_is_counted(client: Client, start: dict[str, Any]) -> None:
    far = {**start["metafeatures"], "answer_tokens_mean": 240.0, "prompt_tokens_mean": 240.0}
    answer = client.post(ROUTE, json=body(start, dataset={"metafeatures": far})).json()
    assert any(text.startswith("the task is far from") for text in answer["warnings"])
    text = client.get("/metrics").text
    assert 'ftmeta_out_of_distribution_total{kind="far task",replica="local"}' in text
    assert "ftmeta_queue_seconds_count" in text
