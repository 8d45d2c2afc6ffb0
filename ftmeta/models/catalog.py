"""Names -> base models. The table below is the whole list of models that ftmeta knows by a short name.

Everything else is a folder on disk or a hub id (`organisation/name`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import ModelError
from ftmeta.files import DATA, cache_dir
from ftmeta.models import hub, smollm2
from ftmeta.models.architectures import known_architectures
from ftmeta.models.describe import describe, outline, reference_lr
from ftmeta.models.published import published, published_models
from ftmeta.schema import BaseModelInfo

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class _Known:
    folder: Callable[[], Path]
    parameters: int | None  # told before the model is fetched; None: read from the folder
    hidden_size: int | None
    make: Callable[[Path], None] | None  # fills the folder; None: it ships with ftmeta


_KNOWN = {
    "phi3-micro": _Known(lambda: DATA / "models" / "phi3-micro", None, None, make=None),
    "smollm2-135m": _Known(lambda: cache_dir() / "models" / "smollm2-135m", 134_515_008, 576, make=smollm2.convert),
}


def resolve(name: str) -> BaseModelInfo:
    """Finds the base model `name`: a known name, a folder, or a hub id (downloaded once into the hub's cache).

    Raises ModelError, with close matches and what to do, for a name that is unknown, not fetched or unreachable.
    """
    if name in _KNOWN:
        return describe(_folder_of_known(name), name)
    path = Path(name).expanduser()
    if path.is_dir():
        return describe(path, name)
    if _HUB_ID.fullmatch(name):
        return describe(hub.snapshot(name), name)
    raise ModelError(f"unknown base model '{name}'; {_close_matches(name)}")


def resolve_or_published(name: str) -> BaseModelInfo:
    """`resolve`, but of a model that is not on this machine and whose sizes are known, those: nothing is downloaded."""
    if local_folder(name) is None and name in known_architectures():
        return published(name)
    return resolve(name)


def config_file(name: str) -> Path:
    """The config.json of the base model `name`, which needs no weights beside it; of a hub id it alone is downloaded.

    Raises ModelError as `resolve` does.
    """
    path = Path(name).expanduser()
    if name in _KNOWN or path.is_dir():
        folder = path if name not in _KNOWN else _folder_of_known(name)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is no base model: it has no config.json")
        return folder / "config.json"
    if _HUB_ID.fullmatch(name):
        return hub.config_file(name)
    raise ModelError(f"unknown base model '{name}'; {_close_matches(name)}")


def local_folder(name: str) -> Path | None:
    """Where the base model `name` lies on this machine, whole or in part; None if it does not."""
    path = Path(name).expanduser()
    if name in _KNOWN:
        path = _KNOWN[name].folder()
    elif not path.is_dir() and _HUB_ID.fullmatch(name):
        return hub.cached_folder(name)
    return path if path.is_dir() else None


def _folder_of_known(name: str) -> Path:
    folder = _KNOWN[name].folder()
    if not folder.is_dir():
        what = f"fetch it with: ftmeta models fetch {name}" if _KNOWN[name].make else "reinstall ftmeta"
        raise ModelError(f"base model '{name}' is not on this machine; {what}")
    return folder


def fetch(name: str) -> BaseModelInfo:
    """Puts a base model on this machine (a known one is made once, a hub id downloaded) and describes it.

    Raises ModelError, and MissingDependencyError when something has to be installed first.
    """
    known = _KNOWN.get(name)
    if known is not None and known.make is not None and not known.folder().is_dir():
        known.make(known.folder())
    return resolve(name)


def list_base_models() -> list[dict[str, Any]]:
    """The known base models and the hub models in the local cache, as `ftmeta models list --json` shows them.

    Keys: name, parameters, hidden_size, reference_lr, path (None: not on this machine), licence.
    """
    absent = [
        {
            "name": name,
            "parameters": known.parameters,
            "hidden_size": known.hidden_size,
            "reference_lr": reference_lr(known.hidden_size),
            "path": None,
            "licence": "Apache-2.0",
        }
        for name, known in _KNOWN.items()
        if known.hidden_size is not None and not known.folder().is_dir()
    ]
    return [_row(info) for info in models_here()] + absent


def models_here() -> list[BaseModelInfo]:
    """The base models on this machine, the known ones and those in the hub's cache, without their fingerprints."""
    known = [outline(known.folder(), name) for name, known in _KNOWN.items() if known.folder().is_dir()]
    return [*known, *hub.cached_models()]


def models_known() -> list[BaseModelInfo]:
    """`models_here`, and the published ones that are not: all that can be recommended for by name alone."""
    here = models_here()
    names = {info.name for info in here}
    return [*here, *(info for info in published_models() if info.name not in names)]


def _row(info: BaseModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "parameters": info.shape.parameters,
        "hidden_size": info.shape.hidden_size,
        "reference_lr": info.reference_lr,
        "path": info.path,
        "licence": info.licence,
    }


def _close_matches(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), _KNOWN, n=3, cutoff=0.4)
    names = f"did you mean {' or '.join(close)}? Known" if close else "known"
    return f"{names}: {', '.join(_KNOWN)}; otherwise give a folder or a hub id such as microsoft/Phi-3-mini-4k-instruct"
