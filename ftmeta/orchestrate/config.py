"""YAML files of sweeps and jobs -> validated models, with messages that name the key that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ftmeta.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_config(path: Path | str, model: type[Model]) -> Model:
    """Raises ConfigError for a file that cannot be read, is not YAML, or does not fit the model."""
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); jobs/configs/ has examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    known = ", ".join(model.model_fields)
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no mapping; known keys: {known}; jobs/configs/ has examples")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors()[:5]
        wrong = "; ".join(_said(".".join(map(str, one["loc"])), one["msg"]) for one in found)
        unknown = any(one["type"] == "extra_forbidden" and len(one["loc"]) == 1 for one in found)
        raise ConfigError(f"{path}: {wrong}" + (f"; known keys: {known}" if unknown else "")) from None


def _said(key: str, message: str) -> str:
    """What is wrong with a key, or (without one) with the whole file."""
    message = message.removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
