"""Lines of PDF pages to paragraphs. A PDF knows where text stands, not what belongs together; that is guessed here.

In: for each page its lines in the order of the page's content, which is the reading order in nearly all PDFs that were
typeset (columns one after the other). Out: paragraphs. Dropped: running headers and footers, page numbers, tables of
contents and whole lines of monospaced type (code), unless most of the document is.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ftmeta.synthesis.formats.prose import (
    ROUND_BULLET,
    SENTENCE_END,
    as_item,
    columns,
    join_lines,
    starts_item,
    usual_width,
    words_of,
)

_EDGE_LINES = 2  # how many lines at the top and at the bottom of a page can be running ones
_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlcIVXLC]{1,7}")
_LEADERS = re.compile(r"(?:\.\s?){6,}\s*[\divxlc]+$")
_CAPTION = re.compile(
    r"(?:Figure|Fig\.|FIGURE|Table|TABLE|Abb\.|Abbildung|Tabelle|Tableau|Figura|Tabla) ?\d+(?:\.\d+)*[:.] "
)


@dataclass(frozen=True)
class Line:
    """A line of a page: where it begins (`x`, `y` in points, y grows upwards), the font size of most of it."""

    text: str
    x: float
    y: float
    size: float
    monospaced: bool


def paragraphs(pages: list[list[Line]]) -> list[str]:
    pages = [[line for line in lines if not _LEADERS.search(line.text)] for lines in _without_running_lines(pages)]
    everything = [line for lines in pages for line in lines]
    if sum(len(line.text) for line in everything if line.monospaced) * 2 < sum(len(line.text) for line in everything):
        pages = [[line for line in lines if not line.monospaced] for lines in pages]
    return _Layout([line for lines in pages for line in lines]).paragraphs(pages)


# --- running headers and footers ----------------------------------------------------------------------------------


def _without_running_lines(pages: list[list[Line]]) -> list[list[Line]]:
    """Drops lines at the edges of pages that repeat there but for numbers, or that carry the page's number; and where
    such lines stand on a fifth of the pages, whatever stands at that height (headers with the names of sections)."""
    edges = [_edge_lines(lines) for lines in pages]
    repeated: Counter[tuple[str, int]] = Counter(key for lines in edges for key in {_key(line) for line in lines})
    offsets: Counter[int] = Counter(
        offset for page, lines in enumerate(edges) for offset in {n - page for line in lines for n in _numbers(line)}
    )
    offset, numbered = offsets.most_common(1)[0] if offsets else (0, 0)
    is_numbered = numbered >= max(3, len(pages) / 2)
    often = min(len(pages), max(3, len(pages) // 50))

    def is_running(page: int, line: Line) -> bool:
        return (
            (len(pages) > 1 and repeated[_key(line)] >= often)
            or (is_numbered and page + offset in _numbers(line))
            or _ROMAN.fullmatch(line.text) is not None
            or line.text == str(page + 1)
        )

    running = [{line for line in lines if is_running(page, line)} for page, lines in enumerate(edges)]
    heights = Counter(height for lines in running for height in {_height(line) for line in lines})
    reserved = {height for height, count in heights.items() if count >= max(3, len(pages) / 5)}
    for dropped, lines in zip(running, edges, strict=True):
        dropped.update(line for line in lines if _height(line) in reserved)
    return [[line for line in lines if line not in dropped] for lines, dropped in zip(pages, running, strict=True)]


def _edge_lines(lines: list[Line]) -> list[Line]:
    heights = sorted({round(line.y) for line in lines})
    outermost = {*heights[:_EDGE_LINES], *heights[-_EDGE_LINES:]}
    return [line for line in lines if round(line.y) in outermost]


def _key(line: Line) -> tuple[str, int]:
    return _DIGITS.sub("#", " ".join(line.text.split())), _height(line)


def _height(line: Line) -> int:
    return round(line.y / 4)


def _numbers(line: Line) -> list[int]:
    """The numbers at the beginning and the end of a line, one of which can be the page's."""
    words = line.text.split()
    return [int(word) for word in {words[0], words[-1]} if word.isascii() and word.isdigit() and len(word) < 6]


# --- paragraphs ---------------------------------------------------------------------------------------------------


class _Layout:
    """The measures of a document, and the decisions that rest on them."""

    def __init__(self, lines: list[Line]) -> None:
        self.words = words_of(line.text for line in lines)
        characters: Counter[float] = Counter()
        gaps: defaultdict[float, Counter[float]] = defaultdict(Counter)
        for above, below in itertools.pairwise(lines):
            characters[above.size] += len(above.text)
            if above.size == below.size and 0 < above.y - below.y < 2.5 * above.size:
                gaps[above.size][round(above.y - below.y, 1)] += 1
        self.body_size = characters.most_common(1)[0][0] if characters else 0.0
        self.leading = {size: found.most_common(1)[0][0] for size, found in gaps.items() if found.total() >= 5}
        self.width = usual_width(line.text for line in lines if line.size == self.body_size)

    def paragraphs(self, pages: list[list[Line]]) -> list[str]:
        return [as_item(join_lines((line.text for line in block), self.words)) for block in self._stitched(pages)]

    def _stitched(self, pages: list[list[Line]]) -> Iterator[list[Line]]:
        """Paragraphs over columns and pages. What stands aside, captions and footnotes, comes after the paragraph that
        it interrupts."""
        open_block: list[Line] = []
        aside: list[list[Line]] = []
        for lines in pages:
            for block in self._blocks(lines):
                if _CAPTION.match(block[0].text) or block[0].size < 0.92 * self.body_size:
                    aside.append(block)
                elif open_block and self._goes_on(open_block[-1], block[0]):
                    open_block += block
                else:
                    yield from [open_block] * bool(open_block)
                    yield from aside
                    open_block, aside = block, []
        yield from [open_block] * bool(open_block)
        yield from aside

    def _blocks(self, lines: list[Line]) -> Iterator[list[Line]]:
        """The lines of a page that belong together by their places."""
        block: list[Line] = []
        for line in lines:
            if block and self._breaks(block[-1], line):
                yield block
                block = []
            block.append(line)
        if block:
            yield block

    def _breaks(self, above: Line, below: Line) -> bool:
        """Whether `below` starts a block on the same page."""
        drop = above.y - below.y
        if not -1 < drop <= 1.15 * self.leading.get(above.size, 1.25 * above.size):  # a gap, or the next column
            return True
        if _differ(above.size, below.size) or ROUND_BULLET.match(below.text) or _CAPTION.match(below.text):
            return True
        ended, short = self._ended(above), self._is_short(above)
        indented = abs(below.x - above.x) > 0.8 * above.size
        if starts_item(below.text) and (ended or short or indented):
            return True
        return (ended and (below.x - above.x > 0.8 * above.size or short)) or (short and not below.text[:1].islower())

    def _goes_on(self, above: Line, below: Line) -> bool:
        """Whether `below`, at the top of a block, goes on with the paragraph that `above` ends: only where a page, a
        column, a figure or a listing came between."""
        drop = above.y - below.y
        if 0 <= drop <= 8 * above.size or _differ(above.size, below.size) or self._ended(above):
            return False
        return below.text[:1].islower() or not (self._is_short(above) or starts_item(below.text))

    def _ended(self, line: Line) -> bool:
        return SENTENCE_END.search(line.text) is not None

    def _is_short(self, line: Line) -> bool:
        return columns(line.text) < 0.7 * self.width


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > 0.08 * one
