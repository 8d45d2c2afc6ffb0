"""The tasks that ship with ftmeta: `data/tasks/NAME/` with examples.parquet, card.json and README.md.

They are ordinary datasets with a `split`, `fact` and `seen_fact` column, written by build.py from sources/.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from ftmeta.files import DATA
from ftmeta.schema import TaskCard

_FOLDER = DATA / "tasks"


def bundled_tasks() -> list[str]:
    """The names of the bundled tasks, sorted."""
    return sorted(card.parent.name for card in _FOLDER.glob("*/card.json"))


def bundled_examples(name: str) -> Path:
    return _FOLDER / name / "examples.parquet"


@functools.cache
def card_json(name: str) -> dict[str, Any]:
    """The card of a bundled task, as it lies on disk."""
    return json.loads((_FOLDER / name / "card.json").read_text(encoding="utf-8"))


def bundled_card(name: str) -> TaskCard:
    card = card_json(name)
    return TaskCard(
        domain=card["domain"],
        source=card["source"],
        licence=card["licence"],
        attribution=card["attribution"],
        description=card["description"],
        rebuild=card["rebuild"],
        details=card["details"],
    )


def task_info(name: str) -> dict[str, Any]:
    """One line of `ftmeta tasks list`: name, domain, examples, splits, licence, fingerprint."""
    card = card_json(name)
    return {key: card[key] for key in ("name", "domain", "examples", "splits", "licence", "fingerprint")}
