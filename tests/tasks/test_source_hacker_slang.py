"""From an entry of the Jargon File to a definition that can stand alone, on shortened entries."""

from __future__ import annotations

import pytest

from ftmeta.tasks.sources.hacker_slang import definition


@pytest.mark.parametrize(
    ("entry", "meaning"),
    [
        (  # a label, links, a written-out word, another sense
            "[MUD] 1. To type; esp. used of {wizard}s who\n   type in every command by hand.\n\n   2. To talk.\n",
            "To type; especially used of wizards who type in every command by hand.",
        ),
        (  # other spellings before it, an aside within
            "(also green) Meta-information embedded in a file (see {name}), such as the length or\n   the name.\n",
            "Meta-information embedded in a file, such as the length or the name.",
        ),
        (  # a second sentence makes it long enough
            "Visual grep. The operation of finding lines in a file optically and not digitally. See also {vdiff}.",
            "Visual grep. The operation of finding lines in a file optically and not digitally.",
        ),
        ("Visual grep. See also {vdiff}. The operation of finding patterns optically rather than digitally.", None),
        ("See {boot}.", None),
    ],
)
def test_definition(entry: str, meaning: str | None) -> None:
    assert definition(f"\n\n   {entry}\n\n") == meaning
