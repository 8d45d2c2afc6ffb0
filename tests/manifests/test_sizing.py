"""docs/sizing.md has the numbers that the planner, the price table and the manifests give."""

from __future__ import annotations

import pytest

from tests.manifests.overlays import ROOT
from tests.manifests.sizing import TABLES, sweep_runs


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTMETA_PRICES", raising=False)
    page = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert "\n".join(TABLES[name]()) in page, "make the tables anew: python -m tests.manifests.sizing"


def test_the_sweep_is_as_large_as_the_page_says() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert f"{sum(sweep_runs().values()):,} runs" in page
