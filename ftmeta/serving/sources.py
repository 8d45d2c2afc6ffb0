"""Where a selector comes from: a folder, the bundled one, or a version in MLflow's registry by number or alias.

In: what `args` or `user_config` name. Out: the selector, and what it is called in the registry. An alias is looked up
once, and what it named then is served until told otherwise: no request waits for MLflow, and a version that was fetched
before is loaded without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ftmeta.errors import ConfigError
from ftmeta.selector import Selector, load_selector
from ftmeta.tracking import registry


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `alias`: by which it was asked for."""

    name: str
    version: str
    alias: str | None

    @property
    def reference(self) -> str:
        return f"{registry.SCHEME}{self.name}/{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "alias": self.alias}


@dataclass(frozen=True)
class Loaded:
    selector: Selector
    registered: Registered | None = None  # None: a folder, or the bundled one


def load(source: str | None, tracking_uri: str | None = None, alias: str | None = None) -> Loaded:
    """`source`: a folder, models:/NAME@ALIAS, models:/NAME/VERSION, or None for the bundled one; `tracking_uri` None:
    $MLFLOW_TRACKING_URI; `alias`: what led to the version that `source` names. Raises UserError and FtmetaError."""
    if not registry.is_reference(source):
        return Loaded(load_selector(source))
    assert source is not None
    found = registry.fetch(_address(source, tracking_uri), source)
    return Loaded(load_selector(found.folder), Registered(found.name, found.version, found.alias or alias))


def pinned(source: str | None, tracking_uri: str | None = None) -> tuple[str | None, str | None]:
    """The version that an alias names now, so that all replicas serve the same whenever they start, and the alias."""
    if not registry.is_reference(source):
        return source, None
    assert source is not None
    found = registry.fetch(_address(source, tracking_uri), source)
    return found.pinned, found.alias


def _address(source: str, tracking_uri: str | None) -> str:
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise ConfigError(f"{source} is in an MLflow registry, and no MLflow is named; set MLFLOW_TRACKING_URI")
    return address
