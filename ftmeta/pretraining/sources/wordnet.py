"""WordNet's glosses and example sentences, in the order of its files, where neighbours are related."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source

_SYNSETS_PER_DOCUMENT = 50


def read(folder: Path) -> Iterator[Document]:
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / "usr" / "share" / "wordnet" / f"data.{part}"
        synsets = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]
        for start in range(0, len(synsets), _SYNSETS_PER_DOCUMENT):
            yield Document(None, tuple(map(_sentence, synsets[start : start + _SYNSETS_PER_DOCUMENT])))


def _sentence(line: str) -> str:
    """`dog, domestic dog: a member of the genus Canis; "the dog barked all night"`."""
    fields, _, gloss = line.partition(" | ")
    columns = fields.split()
    words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
    names = dict.fromkeys(word.partition("(")[0].replace("_", " ") for word in words)
    return f"{', '.join(names)}: {gloss.strip()}"


WORDNET = Source(
    name="wordnet",
    label="WordNet",
    kind="apt",
    package="wordnet-base",
    version=None,
    licence="WordNet 3.0 licence",
    attribution="WordNet 3.0, Copyright 2006 by Princeton University",
    in_chat=False,
    read=read,
)
