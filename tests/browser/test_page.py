"""The page in a real browser: understand, ask, look, copy; by keyboard, at phone width, and when things go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving_client import records

from ftmeta.space import load_pipeline, load_space
from jobs.finetune import Finetune

pytestmark = pytest.mark.browser


def drop(page: Any, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": content})


def ask(page: Any) -> None:
    page.click("#go")
    page.wait_for_selector(".card")


def test_the_example_gets_pipelines_with_curves(page: Any) -> None:
    page.click("text=Try with an example")
    page.wait_for_selector("#understood:has-text('210')")
    assert "Nothing is sent" not in page.inner_text("#sending")
    ask(page)
    assert page.locator(".card").count() == 5
    spoken = page.get_attribute("#chart svg", "aria-label")
    assert spoken.startswith("Predicted score of pipeline 1")
    assert page.locator("#chart path.curve").count() == 5
    page.click(".card:nth-child(3) >> text=Show its curve")
    assert page.get_attribute(".card:nth-child(3) [aria-pressed]", "aria-pressed") == "true"
    assert "pipeline 3" in page.get_attribute("#chart svg", "aria-label")


def test_what_is_copied_is_a_pipeline_that_ftmeta_reads(page: Any, tmp_path: Path) -> None:
    page.click("text=Try with an example")
    ask(page)
    page.click(".card:first-child .copies button:has-text('YAML')")
    page.wait_for_selector(".card:first-child >> text=Copied")
    text = page.evaluate("navigator.clipboard.readText()")
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    pipeline = load_pipeline(file, load_space())
    assert dict(pipeline.values) == yaml.safe_load(text)["hyperparameters"]
    page.click(".card:first-child .copies button:has-text('Command')")
    page.wait_for_selector("#said:has-text('Command')", state="attached")  # the page's policy forbids to evaluate text
    command = page.evaluate("navigator.clipboard.readText()")
    assert text in command
    assert "ftmeta finetune musical-keys.jsonl --base-model test/tiny --pipeline pipeline.yaml" in command
    page.click(".card:first-child .copies button:has-text('Ray job')")
    page.wait_for_selector("#said:has-text('Ray job')", state="attached")
    job = page.evaluate("navigator.clipboard.readText()")
    config = Finetune.model_validate(yaml.safe_load(job.split("finetune.yaml <<'YAML'\n")[1].split("YAML\n")[0]))
    assert (config.data, config.base_model, config.pipeline) == ("musical-keys.jsonl", "test/tiny", "pipeline.yaml")
    assert "python -m jobs.finetune --config finetune.yaml" in job


def test_score_against_cost_is_drawn_and_told(page: Any) -> None:
    page.click("text=Try with an example")
    ask(page)
    assert page.get_attribute("#trade svg", "aria-label").startswith("Predicted score against time: from ")
    assert page.locator("#trade circle.pick").count() == 5
    steps = page.locator("#trade circle.on-front").count()
    page.click("text=The line as a table")
    assert page.locator("#trade tbody tr").count() == steps
    page.click(".card:nth-child(2) >> text=Show its curve")
    assert "pipeline 2 scores" in page.get_attribute("#trade svg", "aria-label")


def test_files_for_another_trainer_are_shown_and_copied(page: Any) -> None:
    page.select_option("#base-model", "phi3-micro")
    page.click("text=Try with an example")
    ask(page)
    page.click(".card:first-child >> text=LLaMA-Factory")
    page.wait_for_selector(".card:first-child .export h4", timeout=60_000)  # the first export imports torch
    page.wait_for_selector("#said:has-text('config.yaml')", state="attached")
    config = yaml.safe_load(page.evaluate("navigator.clipboard.readText()"))
    assert config["stage"] == "sft"
    panel = page.inner_text(".card:first-child .export")
    assert "llamafactory-cli train config.yaml" in panel
    assert "data/train.jsonl" in panel
    page.click(".card:first-child .copies >> text=trl")
    page.wait_for_selector("#said:has-text('train.py')", state="attached")
    assert "SFTTrainer" in page.evaluate("navigator.clipboard.readText()")


def test_an_export_that_cannot_be_made_is_explained(page: Any) -> None:
    page.click("text=Try with an example")
    ask(page)
    page.click(".card:first-child >> text=axolotl")
    page.wait_for_selector(".card:first-child .export .problem", timeout=60_000)
    assert "cannot be exported" in page.inner_text(".card:first-child .export .problem")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", "\n".join(json.dumps(row) for row in records(30))),
        ("rows.json", json.dumps(records(30))),
        ("rows.csv", "question,answer\n" + "\n".join(f'"What, is {i}?","It is ""{i}""."' for i in range(30))),
        ("rows.csv", "\ufeffprompt;completion;id\r\n" + "\r\n".join(f"p{i};c{i};{i}" for i in range(30))),
        ("chat.jsonl", "\n".join(
            json.dumps({"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]})
            for i in range(30)
        )),
    ],
)  # fmt: skip
def test_formats_are_understood(page: Any, name: str, content: str) -> None:
    drop(page, name, content.encode())
    page.wait_for_selector("#understood:not([hidden])")
    assert "30" in page.inner_text("#understood dd:first-of-type")
    ask(page)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"question": "a", "answer": "b"}\n{"question": ', "Line 2 is not JSON"),
        (b'{"q": "a", "a": "b"}', "Columns found: q, a"),
        (b"", "no rows"),
        (b'question,answer\n"a,b', "never ends"),
    ],
)
def test_an_unreadable_file_is_explained_beside_the_field(page: Any, content: bytes, said: str) -> None:
    drop(page, "broken", content)
    page.wait_for_selector("#dataset-problem:not([hidden])")
    assert said in page.inner_text("#dataset-problem")
    assert page.get_attribute("#pasted", "aria-invalid") == "true"


def test_what_the_service_refuses_is_shown_beside_its_field(page: Any) -> None:
    page.fill("#pasted", "\n".join(json.dumps(row) for row in records(5)))
    page.wait_for_selector("#understood .warnings")
    page.click("#go")
    page.wait_for_selector("#dataset-problem:not([hidden])")
    assert "at least 20" in page.inner_text("#dataset-problem")
    page.click("text=Try with an example")
    page.fill("#budget", "0,000001")
    page.click("#go")
    page.wait_for_selector("#budget_s-problem:not([hidden])")
    assert "No pipeline fits the budget" in page.inner_text("#budget_s-problem")
    page.fill("#budget", "soon")
    page.click("#go")
    assert "no number of minutes" in page.inner_text("#budget_s-problem")


def test_data_never_becomes_markup(page: Any) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    drop(page, f"{evil}.jsonl".replace("/", ""), "\n".join(
        json.dumps({"question": f"{evil}{i}", "answer": evil}) for i in range(30)
    ).encode())  # fmt: skip
    page.wait_for_selector("#understood:not([hidden])")
    ask(page)
    assert page.locator("#understood img, #results img, #understood script, #results script").count() == 0
    assert evil in page.inner_text("#understood")


def test_everything_works_by_keyboard(page: Any) -> None:
    page.focus("#example")
    page.keyboard.press("Enter")
    page.wait_for_selector("#understood:not([hidden])")
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "go":
            break
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    assert page.evaluate("document.activeElement.id") == "results"


def test_every_control_has_a_name_and_ids_are_unique(page: Any) -> None:
    page.click("text=Try with an example")
    ask(page)
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button, a, summary")]
           .filter((node) => !(node.labels?.length || node.textContent.trim() || node.getAttribute("aria-label")))
           .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    referred = page.evaluate(
        """[...document.querySelectorAll("[aria-describedby]")]
           .flatMap((node) => node.getAttribute("aria-describedby").split(" "))"""
    )
    assert set(referred) <= set(ids)


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.click("text=Try with an example")
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_documentation_lists_the_routes_and_examples(page: Any, url: str) -> None:
    page.goto(f"{url}/docs")
    page.wait_for_selector("#routes section")
    text = page.inner_text("main")
    for route in ("/v1/recommendations", "/v1/suggestions", "/v1/exports", "/v1/selector", "/healthz", "/metrics"):
        assert route in text
    assert page.locator("#routes pre").count() >= 3
