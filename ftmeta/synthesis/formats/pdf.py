"""PDF files to paragraphs: pypdf gives pieces of text with their places, pdf_layout.py makes paragraphs of them.

Scanned pages hold no text, and no OCR is done here. What protects us from a PDF that explodes: pypdf refuses streams
that unpack to more than 75 MB and content of more than two million operands, and MAX_CHARACTERS stops one that repeats
a page. A page can still take minutes, which is for the caller to limit.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from typing import Any

from ftmeta.errors import MissingDependencyError
from ftmeta.synthesis.formats import CannotRead, Reading, needs_extra
from ftmeta.synthesis.formats.pdf_layout import Line, paragraphs

MAX_CHARACTERS = 50_000_000
_MONOSPACED = re.compile(
    r"mono|courier|cmtt|sftt|txtt|typewriter|consol|menlo|nimbusmon|sourcecode|firacode", re.IGNORECASE
)
_WORD_GAP = 170  # thousandths of the font size; kerning stays below, the narrowest space of justified text above
_FOOTNOTE_MARK = re.compile(r"\w{3}[\"'”’)]?[.,;:!?]?[\"'”’)]?$")


def read_pdf(raw: bytes) -> Reading:
    with needs_extra():
        from pypdf import PasswordType, PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it gets over
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise CannotRead(
                "an encrypted PDF; save it without a password, as with qpdf --decrypt --password=.. IN OUT"
            )
        page_count = len(reader.pages)
    except DependencyError as error:
        raise MissingDependencyError(
            f"an encrypted PDF needs more ({error}); pip install 'ftmeta[synthesis]'"
        ) from error
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CannotRead(_damaged(error)) from error
    if page_count == 0:
        raise CannotRead("a PDF without pages, or cut off; export or download it again")
    return _read_pages(reader, page_count)


def _read_pages(reader: Any, page_count: int) -> Reading:
    pages: list[list[Line]] = []
    broken = characters = 0
    for number in range(page_count):
        try:
            pages.append(_lines(reader.pages[number]))
        except MemoryError:
            raise
        except Exception as error:  # pypdf raises many types on damaged pages; the others may be whole
            broken, last_error = broken + 1, error
            continue
        characters += sum(len(line.text) for line in pages[-1])
        if characters > MAX_CHARACTERS:
            raise CannotRead(f"a PDF with more than {MAX_CHARACTERS:,} characters of text; split it by chapters")
    if broken == page_count:
        raise CannotRead(_damaged(last_error))
    empty = sum(not lines for lines in pages)
    if empty == len(pages):
        raise CannotRead(
            f"a scanned PDF: {page_count} page{'s hold' if page_count > 1 else ' holds'} no text; run OCR over it "
            "first (as with ocrmypdf)"
        )
    _refuse_unmapped(pages)
    notes = [f"{empty} of {page_count} pages hold no text (scanned?)"] * (empty > 0)
    notes += [f"{broken} of {page_count} pages are damaged and left out"] * (broken > 0)
    return Reading(paragraphs(pages), "; ".join(notes) or None)


def _damaged(error: Exception) -> str:
    return f"a damaged or cut off PDF ({type(error).__name__}: {str(error)[:200]}); export or download it again"


def _refuse_unmapped(pages: list[list[Line]]) -> None:
    text = "".join(line.text for lines in pages for line in lines)
    unmapped = sum(char == "\ufffd" or "\ue000" <= char <= "\uf8ff" or char < " " for char in text)
    if unmapped * 5 > len(text):
        raise CannotRead(
            "a PDF whose fonts do not say which characters they show; run OCR over it first (as with ocrmypdf "
            "--force-ocr)"
        )


def _lines(page: Any) -> list[Line]:
    """The lines of a page in the order of its content, without those at another angle than most (stamps in margins)."""
    collector = _Collector()
    page.extract_text(visitor_operand_before=_widen_word_gaps, visitor_text=collector.visit)
    collector.end_line()
    angles: Counter[int] = Counter()
    for angle, line in collector.lines:
        angles[angle] += len(line.text)
    return [line for angle, line in collector.lines if angle == angles.most_common(1)[0][0]]


def _widen_word_gaps(operator: bytes, operands: Any, _cm: object, _tm: object) -> None:
    """Makes pypdf see word gaps in fonts without a space, whose width it guesses too large (XeTeX, LuaTeX): a gap is
    moved on by the double of the font size and back again, which leaves all places as they were."""
    if operator != b"TJ" or not operands or not isinstance(operands[0], list):
        return
    shown: list[Any] = []
    for item in operands[0]:
        is_gap = isinstance(item, (int, float)) and item <= -_WORD_GAP
        shown += [type(item)(item - 2000), type(item)(2000)] if is_gap else [item]
    operands[0][:] = shown


class _Collector:
    """Gathers the pieces that pypdf shows to lines, each with its place along and across the direction of its text."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, Line]] = []
        self._pieces: list[tuple[str, int, Line]] = []

    def visit(self, text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        a, b = tm[0] * cm[0] + tm[1] * cm[2], tm[0] * cm[1] + tm[1] * cm[3]
        c, d = tm[2] * cm[0] + tm[3] * cm[2], tm[2] * cm[1] + tm[3] * cm[3]
        e, f = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        along, up = math.hypot(a, b) or 1.0, math.hypot(c, d) or 1.0
        name = str(font.get("/BaseFont", "")) if font else ""
        for number, part in enumerate(text.split("\n")):
            if number:
                self.end_line()
            if part:
                place = Line(
                    part, (e * a + f * b) / along, (e * c + f * d) / up, abs(size) * up, bool(_MONOSPACED.search(name))
                )
                self._pieces.append((part, round(math.degrees(math.atan2(b, a)) / 15), place))

    def end_line(self) -> None:
        pieces = [piece for piece in self._pieces if piece[0].strip()]
        if pieces:
            _, angle, most = max(pieces, key=lambda piece: len(piece[0].strip()))
            text = ""
            for part, _, place in self._pieces:
                text += _raised(text, part) if place.size < 0.85 * most.size and place.y > most.y + 1 else part
            monospaced = all(place.monospaced for _, _, place in pieces)
            line = Line(text.strip(), pieces[0][2].x, most.y, round(most.size, 1), monospaced)
            if line.text:
                self.lines.append((angle, line))
        self._pieces.clear()


def _raised(before: str, part: str) -> str:
    """Small raised text: a footnote's mark after a word is dropped, a power is written with ^."""
    mark = part.strip()
    if not mark.lstrip("-−").isdigit():
        return part if mark not in {"*", "†", "‡", "§"} else ""
    if _FOOTNOTE_MARK.search(before) and not before[-1:].isdigit():
        return ""
    return f"^{mark}" if before[-1:].isalnum() or before[-1:] == ")" else part
