"""Prompt templates as files: YAML with `system` and `user`, where $passage and $pairs stand for what is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from ftmeta.errors import ConfigError
from ftmeta.files import DATA, fingerprint

_PLACEHOLDERS = {"passage", "pairs"}
JSON_PROMPT, LINES_PROMPT = "question-answer", "question-answer-lines"

Messages = list[dict[str, str]]  # role and content, as chat endpoints and chat templates take them


@dataclass(frozen=True)
class Prompt:
    system: str
    user: str

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.system, self.user])

    def messages(self, passage: str, pairs: int) -> Messages:
        values = {"passage": passage, "pairs": str(pairs)}
        return [
            {"role": "system", "content": Template(self.system).substitute(values)},
            {"role": "user", "content": Template(self.user).substitute(values)},
        ]


def load_prompt(name: str) -> Prompt:
    """A bundled template by its name, or a YAML file. Raises ConfigError that says what is wrong with it."""
    path = DATA / "prompts" / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        bundled = ", ".join(sorted(file.stem for file in (DATA / "prompts").glob("*.yaml")))
        raise ConfigError(
            f"prompt '{name}' cannot be read ({error.strerror}); give a file, or one of {bundled}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt {path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if (
        not isinstance(document, dict)
        or set(document) != {"system", "user"}
        or not all(isinstance(text, str) for text in document.values())
    ):
        raise ConfigError(f"prompt {path} should hold two texts, 'system' and 'user', and nothing else")
    for part, text in document.items():
        template = Template(text)
        if not template.is_valid() or not set(template.get_identifiers()) <= _PLACEHOLDERS:
            raise ConfigError(
                f"prompt {path}: '{part}' has a placeholder other than $passage and $pairs; write $$ for a dollar sign"
            )
    if "passage" not in Template(document["user"]).get_identifiers():
        raise ConfigError(f"prompt {path}: 'user' does not hold $passage, so the model would not see the text")
    return Prompt(document["system"].strip(), document["user"].strip())
