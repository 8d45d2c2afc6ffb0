"""A browser, and the application on a port of this machine. Without chromium or playwright the tests are skipped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))  # where the tiny selector is made

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the real application with the tiny selector, under uvicorn in a thread."""
    from in_a_thread import served
    from tiny_selector import make_base_model, make_selector

    from ftmeta.models import resolve
    from ftmeta.selector import load_selector
    from ftmeta.serving.web import create_app

    info = make_base_model(tmp_path_factory.mktemp("models") / "tiny")
    selector = load_selector(make_selector(tmp_path_factory.mktemp("selectors") / "tiny", info))
    with served(create_app(selector, base_models=[info, resolve("phi3-micro")])) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Not for the whole session: while playwright is at work, no other test can use asyncio."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, headless=True, args=_FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, ready for use. Whatever the browser complains of fails the test, but for refused requests."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(90_000)  # milliseconds: other tests may have the cores
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    fresh = context.new_page()
    said: list[str] = []
    hosts: set[str] = set()
    fresh.on("pageerror", lambda error: said.append(str(error)))
    fresh.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    fresh.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    fresh.goto(url)
    fresh.wait_for_selector("#base-model option", state="attached")
    yield fresh
    assert not [text for text in said if "status of 422" not in text and "status of 401" not in text]
    assert hosts == {url.split("/")[2]}
    context.close()
