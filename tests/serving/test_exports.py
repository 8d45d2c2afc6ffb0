"""Pipelines for other trainers over HTTP, with the bundled base model: the chat template decides how answers end."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from serving_client import Client, problem

from ftmeta.export import FORMATS
from ftmeta.models import resolve
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.models import ExportAnswer
from ftmeta.serving.web import create_app
from ftmeta.space import load_pipeline, load_space

ROUTE = "/v1/exports"
PIPELINE = load_pipeline("strong-default", load_space())
SPLITS = {"train": 300, "validation": 40, "test": 40}


@pytest.fixture(scope="module")
def exporting(selector: Selector, base_models: list[BaseModelInfo]) -> Client:
    return Client(create_app(selector, base_models=[resolve("phi3-micro"), *base_models]))


def body(**fields: Any) -> dict[str, Any]:
    return {"pipeline": PIPELINE.to_json(), "format": "trl", "base_model": "phi3-micro", "splits": SPLITS, **fields}


@pytest.mark.parametrize("format", list(FORMATS))
def test_each_format_gives_files_without_rows(exporting: Client, format: str) -> None:
    response = exporting.post(ROUTE, json=body(format=format, name="capital cities"))
    assert response.status_code == 200, response.text
    answer = ExportAnswer.model_validate(response.json())
    assert "README.md" in answer.files
    assert "300 train, 40 validation" in answer.files["README.md"]
    assert all(len(line) < 500 for line in answer.data.values())
    assert any("<the answer>" in line for line in answer.data.values())
    assert answer.command
    path = resolve("phi3-micro").path
    assert path not in response.text
    if format in ("llama-factory", "axolotl"):
        config = yaml.safe_load(answer.files["config.yaml"])
        assert "/path/to/phi3-micro" in config.values()
        assert any("ftmeta models list" in note for note in answer.notes)
    if format == "trl":
        compile(answer.files["train.py"], "train.py", "exec")


def test_what_a_tool_does_not_have_is_listed(exporting: Client) -> None:
    values = {**PIPELINE.values, "peft_method": "ia3"}
    for name in ("lora_rank", "alpha_per_rank", "lora_dropout", "lora_plus_ratio"):
        values.pop(name, None)
    pipeline = load_space().validate(values)
    answer = exporting.post(ROUTE, json=body(format="axolotl", pipeline=pipeline.to_json())).json()
    assert "peft_method" in [one["setting"] for one in answer["not_carried"]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": "deepspeed"}, "format"),
        ({"format": "../trl"}, "format"),
        ({"base_model": "test/tiny"}, "base_model"),  # it has no chat template
        ({"base_model": "/etc"}, "base_model"),
        ({"pipeline": {"values": {"lora_rank": 7}}}, "pipeline.values"),
        ({"splits": {"train": 0, "validation": 1, "test": 1}}, "splits.train"),
        ({"splits": {"train": 10**9, "validation": 1, "test": 1}}, "splits.train"),
        ({"name": ""}, "name"),
        ({"folder": "/tmp"}, "folder"),
    ],
)
def test_a_wrong_field_is_named(exporting: Client, change: dict[str, Any], field: str) -> None:
    response = exporting.post(ROUTE, json=body(**change))
    problem(response, 422, field)
    assert "/tmp/" not in response.text


def test_a_name_is_only_ever_text(exporting: Client) -> None:
    name = "a\n--- !!python/object:os.system\x00 `rm` $(id) ../../x"
    for format in FORMATS:
        answer = exporting.post(ROUTE, json=body(format=format, name=name)).json()
        parts = [path.split("/") for path in (*answer["files"], *answer["data"])]
        assert not [path for path in parts if "" in path or ".." in path]
        if "config.yaml" in answer["files"]:
            assert isinstance(yaml.safe_load(answer["files"]["config.yaml"]), dict)
        assert "$(id)" not in answer["command"]
        json.dumps(answer, allow_nan=False)
