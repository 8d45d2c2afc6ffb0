"""MLflow's own page opens our view, in a real browser, and the report reads there too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftmeta.tracking import tracker
from ftmeta.tracking.pages import link_to, tags_of_experiment, view
from ftmeta.tracking.report import report
from ftmeta.tracking.rows import read_experiments
from ftmeta.tracking.scheme import EXPERIMENTS
from tests.browser.conftest import _FLAGS
from tests.test_tracking import database
from tests.tracking.conftest import results
from tests.tracking.servers import mlflow_server

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


def test_the_view_is_as_large_as_a_tag_may_be_and_an_experiment_of_others_has_none() -> None:
    from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

    for name in EXPERIMENTS:
        tags = tags_of_experiment(name)
        assert json.loads(tags["mlflow.sharedViewState.ftmeta"]) == view()
        assert all(len(value) <= MAX_EXPERIMENT_TAG_VAL_LENGTH for value in tags.values())
    assert len({chart["uuid"] for chart in view()["compareRunCharts"]}) == 5
    assert "mlflow.sharedViewState.ftmeta" not in tags_of_experiment("of others")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, headless=True, args=_FLAGS)
        yield running
        running.close()


@pytest.mark.browser
def test_the_page_and_the_report_in_a_browser(browser: Any, tmp_path: Path) -> None:
    sweep = tracker(database(tmp_path), "collect").sweep("smoke", "key")
    for result in results()[1:]:
        sweep.log(result)
    assert sweep.close("ok", {}) == 0
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(90_000)
    with mlflow_server(tmp_path) as server:
        (found,) = read_experiments(server.uri, ["collect"])
        page.goto(f"{server.uri}/{link_to(found.experiment_id)}", wait_until="commit")
        page.get_by_text("Add chart").first.wait_for()
        page.get_by_text("cost.device_seconds vs. score").wait_for()
        assert page.get_by_text("Sweeps (").count() == 1
        assert "tags.kind" in page.url
        assert page.get_by_text("Error loading shared view state").count() == 0
        report(server.uri, "collect", tmp_path / "report.html")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("figure svg").count() == 4
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "a phone has to scroll sideways"
    assert said == []
    page.context.close()
