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
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ConfigError(f"{path}: {wrong}; known keys: {known}") from None
