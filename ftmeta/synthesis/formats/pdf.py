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
import unicodedata
from collections import Counter
from typing import Any

from ftmeta.errors import MissingDependencyError
from ftmeta.synthesis.formats import CannotRead, Reading, needs_extra
from ftmeta.synthesis.formats.pdf_layout import Line, paragraphs

_COMBINING = {"¨": "\u0308", "´": "\u0301", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "˚": "\u030a"}
_SPACING_ACCENT = re.compile(f"([{''.join(_COMBINING)}])([A-Za-z])")
MAX_CHARACTERS = 50_000_000
_MONOSPACED = re.compile(
    r"mono|courier|cmtt|sftt|txtt|typewriter|consol|menlo|nimbusmon|sourcecode|firacode", re.IGNORECASE
)
_GAP = 0.14  # of the font size; TeX squeezes a space to a sixth, and kerning stays below a tenth
_RANGES = re.compile(rb"beginbfrange(.*?)endbfrange", re.DOTALL)
_RANGE = re.compile(rb"<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>")  # of codes, and what the first shows
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
    broken = scanned = characters = 0
    for number in range(page_count):
        try:
            page = reader.pages[number]
            lines = _lines(page)
            scanned += not lines and _has_image(page)
        except MemoryError:
            raise
        except Exception as error:  # pypdf raises many types on damaged pages; the others may be whole
            broken, last_error = broken + 1, error
            continue
        pages.append(lines)
        characters += sum(len(line.text) for line in lines)
        if characters > MAX_CHARACTERS:
            raise CannotRead(f"a PDF with more than {MAX_CHARACTERS:,} characters of text; split it by chapters")
    if broken == page_count:
        raise CannotRead(_damaged(last_error))
    if not any(pages):
        if scanned:
            found = f"a scanned PDF: {page_count} page{'s hold' if page_count > 1 else ' holds'} no text"
            raise CannotRead(f"{found}; run OCR over it first (as with ocrmypdf)")
        raise CannotRead("a PDF without text or scanned pages; leave it out, or if it shows text, run OCR over it")
    _refuse_unmapped(pages)
    notes = [f"no text on {scanned} of {page_count} pages, only images"] * (scanned > 0)
    notes += [f"{broken} of {page_count} pages left out as damaged"] * (broken > 0)
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
    try:
        misjudged = _misjudged_spaces(page)
    except Exception:  # a font that is damaged, which pypdf may get over
        misjudged = {}
    widener = _GapWidener(misjudged)
    page.extract_text(visitor_operand_before=widener.visit, visitor_text=collector.visit)
    collector.end_line()
    angles: Counter[int] = Counter()
    for angle, line in collector.lines:
        angles[angle] += len(line.text)
    return [line for angle, line in collector.lines if angle == angles.most_common(1)[0][0]]


def _resources(page: Any, kind: str) -> dict[str, Any]:
    found = page.get("/Resources")
    named = found and found.get_object().get(kind)
    return {name: item.get_object() for name, item in named.get_object().items()} if named else {}


def _has_image(page: Any) -> bool:
    return any(item.get("/Subtype") == "/Image" for item in _resources(page, "/XObject").values())


def _misjudged_spaces(page: Any) -> dict[str, float]:
    """The fonts in which words are apart without a space character (XeTeX, LuaTeX), with the width, in thousandths of
    the font size, that pypdf takes for that of a space there: that of glyph 32, which is any other."""
    widths = {}
    for name, font in _resources(page, "/Font").items():
        if font.get("/Subtype") != "/Type0" or "/ToUnicode" not in font:
            continue
        mapped: Any = font["/ToUnicode"].get_object()
        if hasattr(mapped, "get_data") and not _shows_space(mapped.get_data()):
            widths[name] = _glyph_width(font["/DescendantFonts"][0].get_object().get("/W"), 32)
    return widths


def _glyph_width(widths: Any, glyph: int) -> float:
    """From an array of `first [width, ..]` and `first last width` (ISO 32000-1, 9.7.4.3); 0 where it is not told."""
    entries = list(widths.get_object()) if widths else []
    while len(entries) >= 2:
        first, second = int(entries[0]), entries[1].get_object()
        if isinstance(second, list):
            if first <= glyph < first + len(second):
                return float(second[glyph - first])
            del entries[:2]
        else:
            if first <= glyph <= int(second) and len(entries) >= 3:
                return float(entries[2])
            del entries[:3]
    return 0.0


def _shows_space(to_unicode: bytes) -> bool:
    ranges = b" ".join(_RANGES.findall(to_unicode))
    return b"0020>" in to_unicode or any(
        0 <= 0x20 - int(shown, 16) <= int(last, 16) - int(first, 16) for first, last, shown in _RANGE.findall(ranges)
    )


class _GapWidener:
    """Makes pypdf see the gaps between words that it takes for kerning in fonts that have no space of their own.

    It is shown each operation before it is carried out, and may change the operands: a gap within a string is widened
    and taken back; one between two strings is widened by what pypdf misjudges it, which the next line takes back.
    """

    def __init__(self, misjudged_spaces: dict[str, float]) -> None:
        self._spaces = misjudged_spaces
        self._font = self._shown_font = ""
        self._size = self._baseline = 0.0
        self._added = self._in_place = 0.0  # to this line so far, in units of text; what of it tm already has

    def visit(self, operator: bytes, operands: list[Any], cm: list[float], tm: list[float]) -> None:
        match operator, operands:
            case b"TJ" | b"Tj", [shown]:
                self._baseline = tm[5] * cm[3] + cm[5]
                self._shown_font = self._font
                if isinstance(shown, list):
                    shown[:] = [part for item in shown for part in _widened(item)]
            case b"Tf", [name, int() | float() as size]:
                self._font, self._size = str(name), float(size)
            case b"BT", _:
                self._in_place = 0.0
            case b"Td" | b"TD", [int() | float() as across, int() | float() as up]:
                self._start((tm[5] + up * tm[3]) * cm[3] + cm[5])
                operands[0] = type(across)(across + self._added - self._in_place)
                self._in_place = self._added
            case b"Tm", [int() | float() as scale, _, _, _, int() | float() as across, int() | float() as up]:
                self._start(up * cm[3] + cm[5])
                operands[4] = type(across)(across + self._added * scale)
                self._in_place = self._added

    def _start(self, baseline: float) -> None:
        if abs(baseline - self._baseline) >= 0.1:
            self._added = 0.0
            return
        # pypdf takes half of the narrower of the two fonts' spaces for the least gap.
        least_gap = min(self._spaces.get(self._font, 0.0), self._spaces.get(self._shown_font, 0.0)) / 2000
        self._added += max(0.0, least_gap - _GAP) * self._size


def _widened(item: Any) -> list[Any]:
    if isinstance(item, (int, float)) and item <= -1000 * _GAP:
        return [type(item)(item - 2000), type(item)(2000)]
    return [item]


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
            line = Line(
                _SPACING_ACCENT.sub(_composed, text).strip(), pieces[0][2].x, most.y, round(most.size, 1), monospaced
            )
            if line.text:
                self.lines.append((angle, line))
        self._pieces.clear()


def _composed(accented: re.Match[str]) -> str:
    """TeX's old fonts set an accent before its letter: `u` with a diaeresis comes as `¨u`."""
    letter = unicodedata.normalize("NFC", accented[2] + _COMBINING[accented[1]])
    return letter if len(letter) == 1 else accented[0]


def _raised(before: str, part: str) -> str:
    """Small raised text: a footnote's mark after a word is dropped, a power is written with ^."""
    mark = part.strip()
    if not mark.lstrip("-−").isdigit():
        return part if mark not in {"*", "†", "‡", "§"} else ""
    if _FOOTNOTE_MARK.search(before) and not before[-1:].isdigit():
        return ""
    return f"^{mark}" if before[-1:].isalnum() or before[-1:] == ")" else part
