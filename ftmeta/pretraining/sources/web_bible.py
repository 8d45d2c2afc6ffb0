"""The World English Bible, from a SWORD module (zText, one compressed block a book).

The .bzs file is an index of `<III` (offset, compressed size, size) into .bzz; the text is OSIS XML.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source

_NOT_TEXT = re.compile(r"<(note|title)\b[^>]*?(?<!/)>.*?</\1>", re.DOTALL)
_CHAPTER = re.compile(r'<chapter\b[^>]*\bsID="[^"]*"[^>]*>')
_BOOK = re.compile(r'<milestone n="([^"]+)" type="x-usfm-h"/>')
_BREAK = re.compile(r"<(?:div|lg)\b[^>]*>")
_TAG = re.compile(r"<[^>]*>")


def read(folder: Path) -> Iterator[Document]:
    for index in sorted(folder.rglob("ztext/*/*.bzs")):
        entries, packed = index.read_bytes(), index.with_suffix(".bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", entries):
            yield from _chapters(zlib.decompress(packed[offset : offset + size]).decode("utf-8"))


def _chapters(osis: str) -> Iterator[Document]:
    named = _BOOK.search(osis)
    book = named.group(1) if named else None
    for number, chapter in enumerate(_CHAPTER.split(_NOT_TEXT.sub("", osis))[1:], 1):
        # Verses and lines of a poem end within a paragraph; only divisions and stanzas start a new one.
        blocks = _BREAK.split(re.sub(r'<div\b[^>]*type="x-milestone"[^>]*>', " ", chapter))
        paragraphs = (" ".join(_TAG.sub("", block).split()) for block in blocks)
        yield Document(f"{book}, chapter {number}" if book else None, tuple(paragraphs))


WEB_BIBLE = Source(
    name="web_bible",
    label="the Bible",
    kind="apt",
    package="sword-text-web",
    version=None,
    licence="public domain",
    attribution="World English Bible contributors, eBible.org (the text is cut and normalised here)",
    in_chat=True,
    read=read,
)
