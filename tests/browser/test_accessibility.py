"""axe-core on each state of the page: light and dark, wide and narrow. Whatever it finds fails.

It is brought into the page past the content policy, which forbids every script that is not the service's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_client import records

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "axe" / "axe.min.js"


@pytest.fixture(params=[("light", 1200), ("dark", 390)], ids=["light and wide", "dark and narrow"])
def inspected(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    scheme, width = request.param
    context = browser.new_context(
        bypass_csp=True, color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 900}
    )
    fresh = context.new_page()
    fresh.goto(url)
    fresh.wait_for_selector("#base-model option", state="attached")
    yield fresh
    context.close()


def found(page: Any) -> list[str]:
    """The violations, in a line each."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=str(AXE))
    result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['impact']}: {one['id']}: {one['help']}: {node['html'][:160]}"
        for one in result["violations"]
        for node in one["nodes"][:3]
    ]


def test_the_page_in_all_its_states(inspected: Any) -> None:
    page = inspected
    assert found(page) == [], "at the start"
    page.set_input_files("#file", {"name": "broken", "mimeType": "text/plain", "buffer": b'{"q": 1}'})
    page.wait_for_selector("#dataset-problem:not([hidden])")
    page.evaluate("document.getElementById('token-fields').hidden = false")
    assert found(page) == [], "with a mistake and the field for the token"
    page.fill("#pasted", "\n".join(json.dumps(row) for row in records(30)))
    page.wait_for_selector("#understood:not([hidden])")
    page.click("#go")
    page.wait_for_selector(".card")
    page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    assert found(page) == [], "with results, all opened"


def test_the_documentation(inspected: Any, url: str) -> None:
    inspected.goto(f"{url}/docs")
    inspected.wait_for_selector("#routes section")
    assert found(inspected) == []
