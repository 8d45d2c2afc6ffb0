"""What every reader of a document format shares: bytes come in, paragraphs go out, or the reason why not.

A reader is a function `bytes -> Reading` in a file of its own, with one line in READERS of documents.py. It raises
CannotRead for what is in the file; read_document turns that, and whatever else a library raises, into an Unreadable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ftmeta.errors import MissingDependencyError


@dataclass(frozen=True)
class Reading:
    """The paragraphs of one document in reading order, headings among them; white space is tidied by the caller."""

    paragraphs: list[str]
    encoding_note: str | None = None


class CannotRead(Exception):  # noqa: N818 it is an answer about a file, not an error of the program
    """Why a document cannot be read, and what to do: the `reason` of an Unreadable."""


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Around the imports of a reader: a missing library becomes a MissingDependencyError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"reading documents needs '{error.name or error}', which is not installed; pip install 'ftmeta[synthesis]'"
        ) from error
