"""Models of the Hugging Face hub: the snapshot of one, and those that lie in the hub's cache already."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from ftmeta.errors import ModelError
from ftmeta.models.describe import outline, weight_files
from ftmeta.schema import BaseModelInfo

# Weights as safetensors, tokenizer and configuration; no code, which would not be run, and no pickles.
_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md"]


def snapshot(name: str) -> Path:
    """The folder of hub model `name`, from the cache or downloaded once. Raises ModelError when it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
        if _is_whole(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    with _reasons(name):
        return Path(snapshot_download(name, allow_patterns=_FILES))


def _is_whole(folder: Path) -> bool:
    """Whether there is all that a base model needs: `config_file` leaves a folder with config.json alone."""
    try:
        weight_files(folder)
    except (ModelError, ValueError, KeyError):
        return False
    return all((folder / file).is_file() for file in ("config.json", "tokenizer.json"))


def cached_folder(name: str) -> Path | None:
    """The folder of hub model `name` in the cache, which may hold some of its files only; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def config_file(name: str) -> Path:
    """The config.json of hub model `name` alone, from the cache or downloaded. Raises ModelError."""
    from huggingface_hub import snapshot_download

    folder = cached_folder(name)
    if folder is None:
        with _reasons(name):  # hf_hub_download would ask a hub that is out of reach for 20 s, with a line for each try
            folder = Path(snapshot_download(name, allow_patterns=["config.json"]))
    if not (folder / "config.json").is_file():
        raise ModelError(f"base model '{name}' has no config.json on the hub or in its cache; check the name")
    return folder / "config.json"


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[None]:
    """Says why a download failed, as a ModelError."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ModelError(f"base model '{name}' is gated; accept its terms on its page and run: hf auth login") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model '{name}' (or it is private); check the name, or run: hf auth login"
        ) from None
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        logging.getLogger(__name__).debug("snapshot of %s failed", name, exc_info=True)
        raise ModelError(
            f"base model '{name}' is not in the local hub cache and the hub is out of reach ({type(error).__name__}); "
            "connect this machine, copy the model here and give its folder, or use the bundled phi3-micro"
        ) from None


def cached_models() -> Iterator[BaseModelInfo]:
    """Outlines the usable base models in the hub's cache, each as it was fetched last, which is what `snapshot` gives.

    What is no decoder-only model, or damaged, is passed over.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    for ref in sorted(Path(HF_HUB_CACHE).glob("models--*--*/refs/main")):
        folder = ref.parents[1]
        _, organisation, name = folder.name.split("--", 2)
        try:
            commit = ref.read_text(encoding="utf-8").strip()
            yield outline(folder / "snapshots" / commit, f"{organisation}/{name}")
        except (ModelError, ValueError, OSError) as error:
            logging.getLogger(__name__).debug("%s is passed over: %s", folder, error)
