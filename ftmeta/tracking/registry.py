"""The selector in MLflow's model registry: versions with what they were learned from, and which one is live.

    registered = register(uri, "my-selector")              # alias `challenger`
    promote(uri, registered["version"])                    # alias `champion`, unless it is worse
    found = fetch(uri, "models:/ftmeta-selector@champion") # its folder on this machine

A version is a pyfunc model (selector_model.py) with the folder of `ftmeta metatrain` in it. The same selector is
registered once. Worse means: on tasks that were left out, its ranks agree less with the truth (Kendall's tau) or its
intervals describe it less well (negative log-likelihood) than those of the champion.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import atomic_path, cache_dir, fingerprint
from ftmeta.selector import load_selector
from ftmeta.surrogates import Surrogates
from ftmeta.tracking import parents, store
from ftmeta.tracking.packing import FOLDER, card, content_of, save_model, tags_of
from ftmeta.tracking.scheme import METATRAINING, Dataset
from ftmeta.tracking.store import first_line, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "ftmeta-selector"
CHAMPION, CHALLENGER = "champion", "challenger"
SCHEME = "models:/"
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_EXPERIMENT = "metatrain"
_BETTER = {"kendall_tau": 1, "nll": -1}  # what a promotion is decided by: 1 where more is better


@dataclass(frozen=True)
class Fetched:
    """A version on this machine, whatever its alias will name later."""

    folder: Path
    name: str
    version: str
    alias: str | None  # by which it was asked for

    @property
    def pinned(self) -> str:
        return f"{SCHEME}{self.name}/{self.version}"


def is_reference(text: str | None) -> bool:
    return text is not None and text.startswith(SCHEME)


def register(
    uri: str, folder: Path | str | None, *, name: str = MODEL, alias: str | None = CHALLENGER
) -> dict[str, Any]:
    """Registers the selector in `folder` (None: the bundled one); the document of `ftmeta registry register --json`.

    The same selector again is the version that there is. Raises UserError for a folder that holds no selector, and
    FtmetaError when MLflow does not answer.
    """
    from ftmeta.selector import BUNDLED

    place = BUNDLED if folder is None else Path(folder)
    surrogates = load_selector(place).surrogates
    with _answers(uri):
        client = store.new_client(uri)
        content = content_of(place)
        known = [one for one in _all(client, name) if one.tags.get("content") == content]
        made = known[0] if known else _new_version(client, uri, name, place, surrogates, content)
        if alias is not None:
            client.set_registered_model_alias(name, alias, made.version)
        return {**_document(client.get_model_version(name, made.version)), "is_new": not known}


def versions(uri: str, name: str = MODEL) -> dict[str, Any]:
    """The document of `ftmeta registry list --json`, newest first."""
    with _answers(uri):
        client = store.new_client(uri)
        return {"name": name, "versions": [_document(one) for one in _all(client, name)]}


def promote(uri: str, which: str, *, name: str = MODEL, even_if_worse: bool = False) -> dict[str, Any]:
    """Makes a version (a number or an alias) the champion; the document of `ftmeta registry promote --json`.

    Raises UserError for one that is not there, and for one that is worse than the champion, unless told otherwise.
    """
    with _answers(uri):
        client = store.new_client(uri)
        there = [_document(one) for one in _all(client, name)]
        chosen = next((one for one in there if which == one["version"] or which in one["aliases"]), None)
        if chosen is None:
            has = ", ".join(map(_in_short, there)) or "none; register one with: ftmeta registry register FOLDER"
            raise UserError(f"model '{name}' has no version or alias '{which}'; it has {has}")
        former = next((one for one in there if CHAMPION in one["aliases"]), None)
        worse = [] if former is None else _worse(chosen["quality"], former["quality"])
        if worse and former is not None and former["version"] != chosen["version"] and not even_if_worse:
            raise UserError(
                f"version {chosen['version']} is worse than the champion, version {former['version']}, on tasks that "
                f"were left out: {'; '.join(worse)}. Nothing was changed; --even-if-worse promotes it all the same"
            )
        client.set_registered_model_alias(name, CHAMPION, chosen["version"])
        if CHALLENGER in chosen["aliases"]:
            client.delete_registered_model_alias(name, CHALLENGER)
        return {
            **_document(client.get_model_version(name, chosen["version"])),
            "former_champion": None if former is None else former["version"],
            "worse": worse,
        }


def fetch(uri: str, reference: str) -> Fetched:
    """The folder of a selector that `reference` names (models:/NAME@ALIAS or models:/NAME/VERSION), from this machine's
    cache where it lies there. A version never changes, so one that is here needs no MLflow.

    Raises UserError for a reference that names nothing, FtmetaError when MLflow is needed and does not answer.
    """
    named = _REFERENCE.fullmatch(reference)
    if named is None:
        raise UserError(
            f"'{reference}' is no model of a registry; write {SCHEME}{MODEL}@{CHAMPION} or {SCHEME}{MODEL}/3"
        )
    name, version, alias = named["name"], named["version"], named["alias"]
    if version is not None and (kept := _kept(uri, name, version)).is_dir():
        return Fetched(kept, name, version, None)
    with _answers(uri):
        client = store.new_client(uri)
        found = _find(client, name, version, alias)
        kept = _kept(uri, name, str(found.version))
        if not kept.is_dir():
            _download(uri, found, kept)
    return Fetched(kept, name, str(found.version), alias)


# --- versions ---------------------------------------------------------------------------------------------------------


def _new_version(client: MlflowClient, uri: str, name: str, folder: Path, surrogates: Surrogates, content: str) -> Any:
    opened = store.open_store(uri, _EXPERIMENT, lambda cost_s, device: None)
    run = parents.find_parent(opened, surrogates.version, METATRAINING) or parents.begin_parent(
        opened,
        f"{surrogates.meta_dataset['name']} {surrogates.version}",
        surrogates.version,
        {"runs": surrogates.runs, "tasks": ", ".join(surrogates.tasks), "seed": surrogates.seed},
        None,
        METATRAINING,
        [Dataset(surrogates.meta_dataset["name"], surrogates.meta_dataset["fingerprint"], "meta-dataset")],
    )
    with tempfile.TemporaryDirectory(prefix="ftmeta-model-") as scratch:
        model = save_model(folder, Path(scratch), card(surrogates))
        client.log_artifacts(run.info.run_id, str(model), FOLDER)
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, status="FINISHED")
    _require_model(client, name)
    source = f"{run.info.artifact_uri}/{FOLDER}"
    return client.create_model_version(
        name, source, run.info.run_id, tags=tags_of(surrogates, content), description=card(surrogates)
    )


def _require_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Selectors of ftmeta: which finetuning pipeline to run.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _all(client: MlflowClient, name: str) -> list[Any]:
    """Newest first, with their aliases, which a search leaves out."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    found = client.search_model_versions(f"name = {store.quoted(name)}", max_results=1000)
    for one in found:
        one.aliases = [alias for alias, version in aliases.items() if str(version) == str(one.version)]
    return sorted(found, key=lambda one: -int(one.version))


def _find(client: MlflowClient, name: str, version: str | None, alias: str | None) -> Any:
    there = _all(client, name)
    for one in there:
        if str(one.version) == version or (alias is not None and alias in one.aliases):
            return one
    wanted = f"version {version}" if alias is None else f"alias '{alias}'"
    has = ", ".join(_in_short(_document(one)) for one in there) or "nothing registered"
    raise UserError(f"model '{name}' has no {wanted}; it has {has}")


def _document(version: Any) -> dict[str, Any]:
    tags = version.tags
    quality = {name: tags.get(f"quality.{name}") for name in ("kendall_tau", "nll", "coverage_80", "cost_mdape")}
    return {
        "name": version.name,
        "version": str(version.version),
        "aliases": sorted(version.aliases or []),
        "selector_version": tags.get("selector_version"),
        "meta_dataset": {"name": tags.get("meta_dataset"), "fingerprint": tags.get("meta_dataset_fingerprint")},
        "runs": int(tags.get("runs", 0)),
        "tasks": tags["tasks"].split(", ") if tags.get("tasks") else [],
        "quality": {name: None if value is None else float(value) for name, value in quality.items()},
        "registered_at": version.creation_timestamp / 1000,
        "reference": f"{SCHEME}{version.name}/{version.version}",
    }


def _in_short(document: Mapping[str, Any]) -> str:
    aliases = f" ({', '.join(document['aliases'])})" if document["aliases"] else ""
    return f"{document['version']}{aliases}"


def _worse(chosen: Mapping[str, float | None], champion: Mapping[str, float | None]) -> list[str]:
    """In words, what the champion is better at. What is not known of a version counts as worse than what is."""
    found = []
    for name, sign in _BETTER.items():
        new, old = chosen.get(name), champion.get(name)
        if old is not None and (new is None or sign * new < sign * old):
            found.append(f"{name} {'unknown' if new is None else f'{new:.3f}'} against {old:.3f}")
    return found


# --- folders on this machine ------------------------------------------------------------------------------------------


def _kept(uri: str, name: str, version: str) -> Path:
    return cache_dir() / "selectors" / fingerprint({"registry": shown(uri), "name": name}) / version


def _download(uri: str, version: Any, kept: Path) -> None:
    from mlflow.artifacts import download_artifacts

    with atomic_path(kept) as fresh, tempfile.TemporaryDirectory(prefix="ftmeta-model-") as scratch:
        model = download_artifacts(artifact_uri=version.source, dst_path=scratch, tracking_uri=uri)
        whole = Path(model) / "artifacts" / FOLDER
        Surrogates.load(whole)  # raises what is wrong with it
        if content_of(whole) != version.tags.get("content"):
            raise UserError(
                f"the files of version {version.version} of model '{version.name}' are not those that were registered; "
                "register the selector again, and serve another version"
            )
        shutil.copytree(whole, fresh)


@contextlib.contextmanager
def _answers(uri: str) -> Iterator[None]:
    """Turns what MLflow raises into an FtmetaError of one line."""
    try:
        yield
    except FtmetaError:
        raise
    except Exception as error:
        raise FtmetaError(f"MLflow at {shown(uri)} does not answer as it should: {first_line(error)}") from None
