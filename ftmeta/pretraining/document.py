"""What a text source is and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftmeta.packages import Kind


@dataclass(frozen=True)
class Document:
    """A piece of running text: the unit that goes to the training or to the held-out part as a whole."""

    title: str | None  # as a reader would name it; None: the text has none worth learning
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Prose in a package of a registry. `read` gets the folder with the unpacked package."""

    name: str
    label: str  # how a sentence names it: "the Django documentation"
    kind: Kind
    package: str
    version: str | None  # None: what Debian's stable release holds
    licence: str
    attribution: str
    in_chat: bool  # False: its text is also a task's document, so that no question may be made from it
    read: Callable[[Path], Iterator[Document]]
