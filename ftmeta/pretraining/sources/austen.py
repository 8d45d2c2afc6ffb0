"""Jane Austen's six novels, from the data of an R package.

Rdata.rdb holds one zlib-compressed serialised character vector a book, each behind its length in four bytes. In R's
XDR serialisation a string is the word 0x00040009 (an ASCII CHARSXP), its length in four bytes, and its characters.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source

_STRING = re.compile(rb"\x00\x04\x00\x09(.{4})", re.DOTALL)
_CHAPTER = re.compile(r"^chapter\s+\w+\.?$", re.IGNORECASE)


def read(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("janeaustenr/data/Rdata.rdb")):
        for lines in _vectors(path.read_bytes()):
            yield from _chapters(lines)


def _vectors(packed: bytes) -> Iterator[list[str]]:
    while packed:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed[4:])
        packed = unpacker.unused_data
        lines, position = [], 0
        while found := _STRING.search(data, position):
            (length,) = struct.unpack(">I", found.group(1))
            lines.append(data[found.end() : found.end() + length].decode("utf-8", errors="replace"))
            position = found.end() + length
        yield lines


def _chapters(lines: list[str]) -> Iterator[Document]:
    book = lines[0].title()
    starts = [i for i, line in enumerate(lines) if _CHAPTER.match(line.strip())]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)], strict=True), 1):
        text = "\n".join(lines[start + 1 : end])
        paragraphs = (" ".join(paragraph.split()).replace("_", "") for paragraph in re.split(r"\n\s*\n", text))
        yield Document(f"{book}, chapter {number}", tuple(paragraphs))


AUSTEN = Source(
    name="austen",
    label="a novel by Jane Austen",
    kind="apt",
    package="r-cran-janeaustenr",
    version=None,
    licence="public domain (text), MIT (package)",
    attribution="Jane Austen's six novels; collected by Julia Silge (janeaustenr)",
    in_chat=True,
    read=read,
)
