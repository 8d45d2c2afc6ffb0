"""Switching selectors, the canary, and what the request path imports."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_client import Client, records

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.remembered import MAX_ANSWERS, Answer, Remembered
from ftmeta.serving.service import Service
from ftmeta.serving.web import create_app


def test_a_switch_shows_in_every_answer(
    selector: Selector, other_selector: Selector, base_models: list[BaseModelInfo]
) -> None:
    app = create_app(selector, base_models=base_models)
    client, body = Client(app), {"dataset": {"records": records(30)}}
    assert client.post("/v1/recommendations", json=body).json()["selector"]["version"] == selector.version
    app.state.service.switch(other_selector)
    assert client.post("/v1/recommendations", json=body).json()["selector"] == other_selector.describe()
    assert client.get("/readyz").json()["version"] == other_selector.version
    assert client.get("/openapi.json").json()["paths"]["/v1/selector"]["get"]["responses"]["200"]["content"][
        "application/json"
    ]["example"]["version"] == (other_selector.version)
    metrics = client.get("/metrics").text
    assert f'version="{other_selector.version}"' in metrics
    assert f'version="{selector.version}"' not in metrics


def test_a_switch_under_load_loses_nothing(
    selector: Selector, other_selector: Selector, base_models: list[BaseModelInfo]
) -> None:
    """While questions are answered all the time, each answer is wholly the one selector's or wholly the other's."""
    app = create_app(selector, base_models=base_models)
    service = app.state.service
    asked = {"dataset": {"records": records(30)}, "top_k": 2}

    def told(response: httpx.Response) -> dict[str, Any]:
        assert response.status_code == 200, response.text
        return {name: value for name, value in response.json().items() if name != "request_id"}

    async def under_load() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

            async def ask_again_and_again() -> list[httpx.Response]:
                return [await client.post("/v1/recommendations", json=asked) for _ in range(4)]

            switched = asyncio.to_thread(service.switch, other_selector)
            *answers, _ = await asyncio.gather(*(ask_again_and_again() for _ in range(6)), switched)
            return [told(one) for some in answers for one in some]

    client = Client(app)
    before = told(client.post("/v1/recommendations", json=asked))
    seen = asyncio.run(under_load())
    after = told(client.post("/v1/recommendations", json=asked))
    assert before["selector"] != after["selector"]
    assert all(one in (before, after) for one in seen)


def test_a_refused_switch_is_counted_and_the_old_selector_goes_on(
    selector: Selector, base_models: list[BaseModelInfo]
) -> None:
    app = create_app(selector, base_models=base_models)
    app.state.service.refuse("/srv/selectors/new is broken")
    client = Client(app)
    described = client.get("/v1/selector").json()
    assert described["version"] == selector.version
    assert described["switch_refused"] is True
    assert "/srv" not in json.dumps(described)
    assert 'ftmeta_selector_refused_total{replica="local"} 1.0' in client.get("/metrics").text


def test_the_canary_passes_and_notices_a_changed_answer(selector: Selector, base_models: list[BaseModelInfo]) -> None:
    service = Service(selector, Metrics("test"), base_models)
    service.check()
    service.canary.answer["recommendations"][0]["score"] += 0.01
    with pytest.raises(FtmetaError, match="canary"):
        service.check()


def test_without_a_base_model_there_is_no_service(selector: Selector) -> None:
    with pytest.raises(ConfigError, match="ftmeta models fetch"):
        Service(selector, Metrics("test"), [])


def test_a_model_with_a_broken_tokenizer_is_left_out(
    selector: Selector, base_models: list[BaseModelInfo], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    broken = replace(base_models[0], name="broken", path=str(tmp_path))
    described = Service(selector, Metrics("test"), [broken, *base_models]).describe()
    assert [model["name"] for model in described["base_models"]] == [info.name for info in base_models]
    assert "fetch the model again" in caplog.text


def test_answering_imports_nothing_heavy(
    selector_folder: Path, base_models: list[BaseModelInfo], tmp_path: Path
) -> None:
    """A replica stays small: no torch, no pandas, and no Ray in the application itself."""
    program = """
import sys
from serving_client import Client, records
from ftmeta.models import describe
from ftmeta.selector import load_selector
from ftmeta.serving.web import create_app
client = Client(create_app(load_selector(sys.argv[1]), base_models=[describe(sys.argv[2], "tiny")]))
assert client.post("/v1/recommendations", json={"dataset": {"records": records(30)}}).status_code == 200
heavy = {"torch", "transformers", "ray", "mlflow", "pandas", "pyarrow", "datasets", "sklearn", "peft", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(selector_folder), base_models[0].path],
        env={"PYTHONPATH": paths, "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_question_without_rows_is_answered_from_memory_and_never_across_selectors(
    selector: Selector, other_selector: Selector, base_models: list[BaseModelInfo]
) -> None:
    app = create_app(selector, base_models=base_models)
    client, service = Client(app), app.state.service
    asked = {"dataset": {"metafeatures": service.canary.metafeatures}}
    first, second = (client.post("/v1/recommendations", json=asked).json() for _ in range(2))
    assert first.pop("request_id") != second.pop("request_id")
    assert first == second
    assert 'ftmeta_predicted_score_count{replica="local"} 2.0' in client.get("/metrics").text
    suggested = client.post("/v1/suggestions", json={**asked, "budget_s": 100.0}).json()
    assert "fidelity" in suggested
    service.switch(other_selector)
    assert client.post("/v1/recommendations", json=asked).json()["selector"] == other_selector.describe()


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    remembered = Remembered()
    answer = Answer(b"{}", None, ())
    for number in range(MAX_ANSWERS + 5):
        remembered.put("/v1/recommendations", b"%d" % number, answer)
        assert number < 1 or remembered.get("/v1/recommendations", b"1") == answer  # asked for all the time
    assert remembered.get("/v1/recommendations", b"0") is None
    assert remembered.get("/v1/recommendations", b"%d" % (MAX_ANSWERS + 4)) == answer
    assert remembered.get("/v1/suggestions", b"1") is None
    remembered.put("/v1/recommendations", b"large", Answer(b"x" * 200_000, None, ()))
    assert remembered.get("/v1/recommendations", b"large") is None
