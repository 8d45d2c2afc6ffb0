"""Plain text to paragraphs: blank lines divide them, hard line ends inside them are undone."""

from __future__ import annotations

from collections.abc import Iterator

from ftmeta.synthesis.formats import Reading
from ftmeta.synthesis.formats.encoding import decode
from ftmeta.synthesis.formats.prose import unwrap, usual_width, words_of


def read_plain(raw: bytes) -> Reading:
    text, note = decode(raw)
    return Reading(plain_paragraphs(text), note)


def plain_paragraphs(text: str) -> list[str]:
    lines = text.expandtabs().replace("\f", "\n\n").splitlines()
    width, words = usual_width(lines), words_of(lines)
    return [paragraph for block in blocks(lines) for paragraph in unwrap(block, width, words)]


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines with text in them; a line of signs alone (`-----`, `* * *`) divides as a blank one does."""
    block: list[str] = []
    for line in [*lines, ""]:
        if any(char.isalnum() for char in line):
            block.append(line)
        elif block:
            yield block
            block = []
