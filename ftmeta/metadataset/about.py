"""What no table says of a meta-dataset: its title, story, licence and limits, in `about.yaml` beside the tables.

In: a folder. Out: an `About`, which the card (card.py) tells with what the data say themselves.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ftmeta.errors import MetaDatasetError

ABOUT_FILE = "about.yaml"


class About(BaseModel):
    """Written by whoever shares a meta-dataset. All of it may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = None
    story: str | None = None  # why and how it was made
    licence: str | None = None  # the hub's name of it, as cc-by-4.0
    licence_text: str | None = None  # the licence in words, and whom to name
    recollect: str | None = None  # shell commands that collect it again
    limits: tuple[str, ...] = ()


def load_about(folder: Path | str) -> About:
    """The `about.yaml` of a folder, an empty one if there is none. Raises MetaDatasetError where it is malformed."""
    path = Path(folder) / ABOUT_FILE
    if not path.is_file():
        return About()
    try:
        return About.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MetaDatasetError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        known = ", ".join(About.model_fields)
        raise MetaDatasetError(f"{path}: {place}: {problem['msg']}; it may have {known}") from None
