"""What a person reads of a synthesis: texts of documents, models and endpoints as they are, whatever they hold."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ftmeta.cli.synthesizing import show
from ftmeta.synthesis.dataset import DROPPED, Made, Sifted
from ftmeta.synthesis.generate import Generated
from ftmeta.synthesis.passages import Passage
from ftmeta.synthesis.replies import Pair
from ftmeta.synthesis.report import Inventory, page, report
from ftmeta.synthesis.settings import Synthesis

SCRIPT = "<script>alert('[/bold]')</script>"


@pytest.fixture
def document() -> dict[str, Any]:
    made = [Made(Pair(f"What is {SCRIPT}?", SCRIPT), Passage(SCRIPT, 0, SCRIPT))]
    sifted = Sifted(made, dict.fromkeys(DROPPED, made), {}, None, f"too few for {SCRIPT}")
    found = Inventory(1, [(SCRIPT, SCRIPT)], [(SCRIPT, SCRIPT)], {SCRIPT: 1}, 1, 1)
    replies = [Generated("a", "failed", (), 0, 0, 0.1, SCRIPT)]
    settings = Synthesis(documents="x", model=SCRIPT, llm_url=f"http://host/{SCRIPT}")
    return report(SCRIPT, settings, found, replies, sifted, "en", (1, 1), SCRIPT, None)


def test_the_page_runs_nothing(document: dict[str, Any]) -> None:
    written = page(document)
    assert "<script" not in written
    assert written.count("&lt;script&gt;") > 20


def test_the_console_takes_nothing_for_its_markup(document: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=200)
    show(console, {**document, "out": "out[/bold]", "report": "out[/bold]/report.html", "task": None})
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert f"1 passages failed: {SCRIPT}" in said
    assert f"note: {SCRIPT}" in said
    assert "report: out[/bold]/report.html" in said
