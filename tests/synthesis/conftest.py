from __future__ import annotations

from pathlib import Path

import pytest

TOWNS = ("Arle", "Bredon", "Corvik", "Dunmoor", "Elsing", "Farholm", "Grenna", "Holtby", "Ivory Bay", "Jorvik")
PEOPLE = ("Ada Miller", "Bo Larsen", "Cora Quist", "Dan Osei", "Eva Brandt", "Finn Walsh")


def lamps(document: int, count: int = 6) -> str:
    """A document of `count` paragraphs, each with one fact and some words around it."""
    return "\n\n".join(
        f"The lamp of {TOWNS[document % len(TOWNS)]} Pier {10 * document + i} was lit in {1800 + 7 * document + i} by "
        f"{PEOPLE[(document + i) % len(PEOPLE)]}. Ships from the north saw it through rain and fog, and its keeper "
        f"wrote in his book how much oil it had burned in the night and which of its panes of glass had to be cleaned."
        for i in range(count)
    )


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Eight documents of six passages."""
    folder = tmp_path / "lamps"
    folder.mkdir()
    for i in range(8):
        (folder / f"lamps-{i}.txt").write_text(lamps(i), encoding="utf-8")
    return folder
