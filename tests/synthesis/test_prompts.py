from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.errors import ConfigError
from ftmeta.files import DATA
from ftmeta.synthesis.prompts import load_prompt


@pytest.mark.parametrize("path", sorted((DATA / "prompts").glob("question-*.yaml")), ids=lambda path: path.stem)
def test_bundled_templates(path: Path) -> None:
    prompt = load_prompt(path.stem)
    system, user = prompt.messages("A $5 lamp {of} Arle.", 3)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "A $5 lamp {of} Arle." in user["content"]
    assert "3" in user["content"]
    assert "$passage" not in user["content"]


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("system: Ask for $$5.\nuser: $pairs of $passage\n")
    mine = load_prompt(str(path))
    assert [message["content"] for message in mine.messages("x", 2)] == ["Ask for $5.", "2 of x"]
    assert mine.fingerprint != load_prompt("question-answer").fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read .*; give a file, or one of question-answer, question-answer-lines"),
        ("system: [", "is not YAML"),
        ("just text", "should hold two texts"),
        ("system: a\nuser: 5", "should hold two texts"),
        ("system: a\nuser: no placeholder", r"does not hold \$passage"),
        ("system: a\nuser: $passage $other", r"'user' has a placeholder other than"),
        ("system: costs $5\nuser: $passage", r"'system' has a placeholder .* write \$\$ for a dollar sign"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_prompt(str(path))
