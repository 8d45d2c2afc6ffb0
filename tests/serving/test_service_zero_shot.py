"""A selector whose surrogates look at what the base model makes of a task, behind the service; with phi3-micro."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from serving_client import Client, records

from ftmeta import metadataset
from ftmeta.metafeatures import FEATURES, ZERO_SHOT_FEATURES
from ftmeta.models import resolve
from ftmeta.recommend import describe_task, recommendation_document
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.service import Service
from ftmeta.serving.web import create_app
from ftmeta.surrogates import metatrain
from ftmeta.tasks import load_records
from tests.surrogates.synthetic import write_sweep

ROWS = records(60)
BODY = {"dataset": {"records": ROWS}, "hardware": "cpu-core", "top_k": 2}


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Selector:
    folder = tmp_path_factory.mktemp("measuring")
    write_sweep(folder, 8, 24)
    selector = Selector(metatrain(metadataset.read(folder)))
    assert selector.uses_zero_shot
    return selector


@pytest.fixture(scope="module")
def phi3_micro() -> BaseModelInfo:
    return resolve("phi3-micro")


def test_the_service_answers_what_recommend_does(measuring: Selector, phi3_micro: BaseModelInfo) -> None:
    client = Client(create_app(measuring, base_models=[phi3_micro]))
    answers = [response.json() for response in client.many(3, "/v1/recommendations", BODY)]
    task = load_records(ROWS, "dataset")
    features, notes = describe_task(measuring, task, phi3_micro, device="cpu", threads=1)
    expected = recommendation_document(
        measuring, features, phi3_micro, task=task, top_k=2, hardware="cpu-core", notes=notes
    )
    assert set(features) == {*FEATURES, *ZERO_SHOT_FEATURES}
    for answer in answers:
        assert {key: value for key, value in answer.items() if key != "request_id"} == expected


def test_the_health_check_needs_no_model(measuring: Selector, phi3_micro: BaseModelInfo) -> None:
    service = Service(measuring, Metrics("test"), [phi3_micro])
    assert set(ZERO_SHOT_FEATURES) <= set(service.canary.metafeatures)
    service.check()


def test_a_large_model_is_not_run_and_the_answer_says_so(measuring: Selector, phi3_micro: BaseModelInfo) -> None:
    large = replace(phi3_micro, name="large", shape=replace(phi3_micro.shape, parameters=5_000_000))
    answer = Client(create_app(measuring, base_models=[large])).post("/v1/recommendations", json=BODY).json()
    assert set(answer["metafeatures"]) == set(FEATURES)
    assert answer["warnings"][0].startswith("base model 'large' is too large for this service to measure its zero-shot")
    assert any("unknown of this task: noise, zero_shot_nll; the mean" in text for text in answer["warnings"])


def test_a_model_that_cannot_be_loaded_costs_no_answer(
    measuring: Selector, phi3_micro: BaseModelInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "speechless"
    shutil.copytree(phi3_micro.path, folder)
    (folder / "chat_template.jinja").unlink()
    client = Client(create_app(measuring, base_models=[replace(phi3_micro, name="speechless", path=str(folder))]))
    answer = client.post("/v1/recommendations", json=BODY).json()
    assert answer["warnings"][0] == "the zero-shot loss of base model 'speechless' could not be measured here"
    assert str(folder) not in str(answer)
    assert "has no chat template" in caplog.text
