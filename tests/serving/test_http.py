"""The HTTP interface in-process: the real application, a real selector, no Ray."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import pytest
from serving_client import Client, problem, records

from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.models import (
    MAX_BODY_BYTES,
    MAX_ROWS,
    RecommendationAnswer,
    SelectorAnswer,
    SuggestionAnswer,
)
from ftmeta.serving.web import create_app

TOKEN = "correct-horse-battery-staple"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
JSON = {"Content-Type": "application/json"}


def body(**fields: Any) -> dict[str, Any]:
    return {"dataset": {"records": records(40)}, **fields}


class TestRecommendations:
    def test_a_dataset_gets_ranked_pipelines(self, client: Client) -> None:
        response = client.post("/v1/recommendations", json=body(top_k=3, budget_s=3600.0))
        assert response.status_code == 200, response.text
        answer = RecommendationAnswer.model_validate(response.json())
        assert answer.request_id == response.headers["x-request-id"]
        assert 1 <= len(answer.recommendations) <= 3
        scores = [one.score for one in answer.recommendations]
        assert all(0 <= one.score_low <= one.score <= one.score_high <= 1 for one in answer.recommendations)
        assert all(one.cost_s <= 3600 for one in answer.recommendations)
        assert len({one.pipeline.id for one in answer.recommendations}) == len(scores)
        assert answer.task is not None
        assert sum(answer.task.splits.values()) == 40

    def test_metafeatures_give_the_same_pipelines_as_the_rows_that_they_describe(self, client: Client) -> None:
        by_rows = client.post("/v1/recommendations", json=body()).json()
        metafeatures = by_rows["metafeatures"]
        by_features = client.post("/v1/recommendations", json={"dataset": {"metafeatures": metafeatures}}).json()
        assert by_features["recommendations"] == by_rows["recommendations"]
        assert by_features["task"] is None

    def test_the_same_request_gets_the_same_answer(self, client: Client) -> None:
        first, second = (client.post("/v1/recommendations", json=body()).json() for _ in range(2))
        assert first.pop("request_id") != second.pop("request_id")
        assert first == second

    def test_a_selector_describes_itself(self, client: Client) -> None:
        described = SelectorAnswer.model_validate(client.get("/v1/selector").json())
        assert described.default_base_model in [model.name for model in described.base_models]
        assert described.default_hardware in [one.name for one in described.hardware]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"dataset": {}}, "dataset"),
            ({"dataset": {"records": []}}, "dataset.records"),
            ({"dataset": {"records": "elements"}}, "dataset.records"),
            ({"dataset": {"records": [1]}}, "dataset.records.0"),
            ({"dataset": {"records": [{"question": {"a": 1}}]}}, "dataset.records.0"),
            ({"dataset": {"records": [{"messages": "hello"}]}}, "dataset.records.0"),
            ({"dataset": {"records": [{"question": "x" * 100_001, "answer": "y"}]}}, "dataset.records.0"),
            ({"dataset": {"records": [{str(i): "" for i in range(65)}]}}, "dataset.records.0"),
            ({"dataset": {"path": "/etc/passwd"}}, "dataset.path"),
            ({"dataset": {"url": "http://169.254.169.254/"}}, "dataset.url"),
            ({"dataset": "/etc/passwd"}, "dataset"),
            ({"dataset": {"records": [{"question": "a", "answer": "b"}], "metafeatures": {"a": 1}}}, "dataset"),
            ({"dataset": {"metafeatures": {"log10_train_examples": "3"}}}, "dataset.metafeatures.log10_train_examples"),
            ({"dataset": {"metafeatures": {"no such feature": 3.0}}}, "dataset.metafeatures"),
            ({"budget_s": "30m"}, "budget_s"),
            ({"budget_s": -1}, "budget_s"),
            ({"budget_s": True}, "budget_s"),
            ({"budget_usd": 0}, "budget_usd"),
            ({"top_k": 0}, "top_k"),
            ({"top_k": 51}, "top_k"),
            ({"top_k": 2.5}, "top_k"),
            ({"base_model": "gpt-5"}, "base_model"),
            ({"base_model": "../../etc/passwd"}, "base_model"),
            ({"base_model": "microsoft/Phi-3-mini-4k-instruct"}, "base_model"),
            ({"base_model": ["tiny"]}, "base_model"),
            ({"hardware": "../prices"}, "hardware"),
            ({"hardware": "abacus"}, "hardware"),
            ({"selector": "/tmp/mine"}, "selector"),
        ],
    )
    def test_a_wrong_field_is_named(self, client: Client, change: dict[str, Any], field: str) -> None:
        problem(client.post("/v1/recommendations", json=body(**change)), 422, field)

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"question": "a", "answer": "b"}] * 3, "at least 20"),
            ([{"q": "a", "a": "b"}] * 30, "rename the columns"),
            ([{"question": "a", "answer": ""}] * 30, "'answer' is empty"),
            ([{"question": "a", "answer": 5}] * 30, "row 1"),
        ],
    )
    def test_an_unusable_dataset_is_explained(self, client: Client, rows: list[dict[str, Any]], said: str) -> None:
        response = client.post("/v1/recommendations", json={"dataset": {"records": rows}})
        assert said in problem(response, 422, "dataset.records").detail

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"question,answer\na,b",
            b'{"dataset": NaN}',
            b'{"budget_s": Infinity}',
            b'{"budget_s": -Infinity}',
            b"[" * 100_000,
            b'{"dataset":' * 5000,
            b'{"a": "\xff\xfe"}',
            '{"a": "é"}'.encode("utf-16"),
            b'{"a": "\\ud800"}',
            b"1" * 10_000,
            b"\x1f\x8b\x08\x00",
            b"\x80\x04\x95",
        ],
    )
    def test_what_is_no_json_is_400(self, client: Client, raw: bytes) -> None:
        problem(client.post("/v1/recommendations", content=raw, headers=JSON), 400, "body")

    @pytest.mark.parametrize("raw", [b"null", b"[]", b'"x"', b"1e999", b'{"dataset": {"metafeatures": {"a": 1e999}}}'])
    def test_json_of_another_shape_is_422(self, client: Client, raw: bytes) -> None:
        problem(client.post("/v1/recommendations", content=raw, headers=JSON), 422)

    @pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""])
    def test_another_type_of_body_is_415(self, client: Client, kind: str) -> None:
        response = client.post("/v1/recommendations", content=b"{}", headers={"Content-Type": kind})
        problem(response, 415, "header.Content-Type")

    def test_a_compressed_body_is_415(self, client: Client) -> None:
        response = client.post("/v1/recommendations", content=b"x", headers={**JSON, "Content-Encoding": "gzip"})
        problem(response, 415, "header.Content-Encoding")

    def test_too_many_rows_are_413(self, client: Client) -> None:
        rows = b",".join([b'{"question":"a","answer":"b"}'] * (MAX_ROWS + 1))
        response = client.post("/v1/recommendations", content=b'{"dataset":{"records":[' + rows + b"]}}", headers=JSON)
        problem(response, 413, "dataset.records")

    def test_a_body_that_announces_too_much_is_413_before_it_is_read(self, client: Client) -> None:
        headers = {**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)}
        problem(client.post("/v1/recommendations", content=b"{", headers=headers), 413, "body")

    def test_a_body_without_a_length_is_read_no_further_than_the_limit(self, client: Client) -> None:
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            while True:
                sent += 1
                yield b" " * 1_000_000

        problem(client.post("/v1/recommendations", content=endless(), headers=JSON), 413, "body")
        assert sent <= MAX_BODY_BYTES // 1_000_000 + 2

    def test_a_reason_never_quotes_the_data(self, client: Client) -> None:
        rows = [{"question": ["my secret"], "answer": "b"}] * 30
        assert "my secret" not in client.post("/v1/recommendations", json={"dataset": {"records": rows}}).text

    @pytest.mark.parametrize("path", ["/v1/nothing", "/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/etc/passwd"])
    def test_unknown_addresses_are_404(self, client: Client, path: str) -> None:
        problem(client.get(path), 404)

    def test_another_method_is_405(self, client: Client) -> None:
        response = client.get("/v1/recommendations")
        problem(response, 405)
        assert response.headers["allow"] == "POST"

    def test_more_than_can_be_held_is_503_with_retry_after(self, client: Client) -> None:
        described = client.app.state.service.canary.metafeatures
        responses = client.many(80, "/v1/recommendations", {"dataset": {"metafeatures": described}, "top_k": 7})
        assert {response.status_code for response in responses} == {200, 503}
        for response in responses:
            if response.status_code == 503:
                problem(response, 503)
                assert response.headers["retry-after"] == "1"
        assert client.post("/v1/recommendations", json=body()).status_code == 200

    def test_of_large_bodies_fewer_can_be_held(self, client: Client) -> None:
        rows = [{"question": f"{n} " + "x" * 60_000, "answer": "a"} for n in range(20)]
        responses = client.many(24, "/v1/recommendations", {"dataset": {"records": rows}})
        assert {response.status_code for response in responses} == {200, 503}


@pytest.fixture(scope="module")
def guarded(selector: Selector, base_models: list[BaseModelInfo]) -> Client:
    """The application with two valid tokens, asked from another machine."""
    return Client(create_app(selector, base_models=base_models, tokens=["0" * 64, HASH]), client="203.0.113.9")


class TestTokens:
    @pytest.mark.parametrize("path", ["/v1/selector", "/metrics"])
    def test_a_token_opens_what_is_protected(self, guarded: Client, path: str) -> None:
        response = guarded.get(path)
        problem(response, 401, "header.Authorization")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert guarded.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200

    @pytest.mark.parametrize(
        "value",
        [TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {HASH}", f"Bearer {TOKEN}x", f"Bearer {'0' * 64}"],
    )
    def test_anything_else_does_not(self, guarded: Client, value: str) -> None:
        problem(guarded.get("/v1/selector", headers={"Authorization": value}), 401)

    def test_a_recommendation_is_refused_before_its_body_is_looked_at(self, guarded: Client) -> None:
        problem(guarded.post("/v1/recommendations", content=b"{", headers=JSON), 401)

    @pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/page/app.js"])
    def test_the_page_and_the_probes_are_open(self, guarded: Client, path: str) -> None:
        assert guarded.get(path).status_code == 200

    @pytest.mark.parametrize(
        ("address", "host"), [("203.0.113.9", "127.0.0.1"), ("127.0.0.1", "attacker.example"), ("127.0.0.1", "")]
    )
    def test_without_tokens_only_this_machine_is_served(self, app: Any, address: str, host: str) -> None:
        client = Client(app, client=address)
        problem(client.get("/v1/selector", headers={"Host": host}), 403)


class TestOperation:
    def test_probes(self, client: Client) -> None:
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/readyz").json()["status"] == "ready"

    def test_metrics_count_requests_by_route(self, client: Client) -> None:
        client.post("/v1/recommendations", json=body())
        client.get("/v1/nothing/at/all")
        text = client.get("/metrics").text
        assert 'ftmeta_requests_total{method="POST",replica="local",route="/v1/recommendations",status="200"}' in text
        assert 'route="other",status="404"' in text
        assert "nothing" not in text
        assert "ftmeta_selector_info" in text
        assert "ftmeta_recommendations_in_progress" in text

    def test_request_ids_come_back(self, client: Client) -> None:
        response = client.post("/v1/recommendations", json=body(), headers={"X-Request-ID": "my-id.7"})
        assert response.headers.get_list("x-request-id") == ["my-id.7"]
        assert response.json()["request_id"] == "my-id.7"

    @pytest.mark.parametrize("given", ["a b", "x" * 129, "<script>", "a;b"])
    def test_malformed_request_ids_are_400(self, client: Client, given: str) -> None:
        problem(client.get("/healthz", headers={"X-Request-ID": given}), 400, "header.X-Request-ID")

    def test_logs_hold_neither_data_nor_token(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        client.post("/v1/recommendations?q=hidden", json=body(), headers={"Authorization": f"Bearer {TOKEN}"})
        ours = [record.message for record in caplog.records if record.name != "httpx"]
        lines = [json.loads(record.message) for record in caplog.records if record.name == "ftmeta.serving"]
        assert lines[-1]["route"] == "/v1/recommendations"
        assert lines[-1]["status"] == 200
        assert lines[-1]["ms"] > 0
        for text in (TOKEN, "hidden", records(1)[0]["question"]):
            assert text not in "".join(ours)

    @pytest.mark.parametrize("path", ["/", "/docs", "/v1/selector", "/v1/nothing"])
    def test_every_answer_has_security_headers_and_no_cors(self, client: Client, path: str) -> None:
        headers = client.get(path, headers={"Origin": "https://elsewhere.example"}).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert not [name for name in headers if name.startswith("access-control")]

    @pytest.mark.parametrize("path", ["/", "/docs", "/page/app.js", "/page/style.css"])
    def test_the_page_names_no_other_host(self, client: Client, path: str) -> None:
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert " style=" not in text  # the policy would drop it

    def test_the_openapi_examples_are_real(self, client: Client) -> None:
        document = client.get("/openapi.json").json()
        post = document["paths"]["/v1/recommendations"]["post"]
        questions = {"/v1/recommendations", "/v1/suggestions", "/v1/exports"}
        assert {*questions, "/v1/selector", "/healthz", "/readyz", "/metrics"} == set(document["paths"])
        for route in ("/v1/recommendations", "/v1/suggestions"):  # exports: test_exports.py, with another base model
            asked = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["examples"]
            for example in asked.values():
                assert client.post(route, json=example["value"]).status_code == 200
        suggested = document["paths"]["/v1/suggestions"]["post"]["responses"]["200"]["content"]["application/json"]
        SuggestionAnswer.model_validate(suggested["example"])
        RecommendationAnswer.model_validate(post["responses"]["200"]["content"]["application/json"]["example"])
        assert post["responses"]["default"]["content"].keys() == {"application/problem+json"}
        assert "RecommendationRequest" in document["components"]["schemas"]
