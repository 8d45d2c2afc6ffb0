"""HTML pages to paragraphs: trafilatura finds the main text, without menus, footers, tables and code."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from ftmeta.synthesis.formats import CannotRead, Reading, needs_extra
from ftmeta.synthesis.formats.encoding import decode

_BLOCKS = frozenset({"p", "head", "list", "item", "quote", "div", "section"})
_PERMALINK = re.compile(r"\s*[¶§#]$")
MAX_HTML_BYTES = 20_000_000  # a parsed page takes some twenty times its size in memory
_DECLARED = re.compile(rb"<(?:meta\b[^>]*\bcharset|\?xml\b[^>]*\bencoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


def read_html(raw: bytes) -> Reading:
    if len(raw) > MAX_HTML_BYTES:
        raise CannotRead(
            f"an HTML page of {len(raw):,} bytes, the limit is {MAX_HTML_BYTES:,}; split it, or save it as plain text"
        )
    declared = _DECLARED.search(raw[:2048])
    text, note = decode(raw, declared[1].decode("ascii", "replace") if declared else None)
    with needs_extra():
        import trafilatura
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a page without text is an answer, not a warning
    tree = trafilatura.load_html(text)
    found: Any = None if tree is None else trafilatura.bare_extraction(tree, include_comments=False)
    paragraphs = [] if found is None else [one for one in _paragraphs(found.body) if one.strip()]
    if tree is None or not paragraphs:
        raise CannotRead("an HTML page without text in its body; is it filled by a script? Save it from a browser")
    title = _title(tree)
    return Reading([title, *paragraphs] if title and title not in map(_squeeze, paragraphs[:3]) else paragraphs, note)


def _title(tree: Any) -> str | None:
    """The page's only first-rank heading or else its title: what the main text often does without."""
    headings = tree.findall(".//h1")
    title = headings[0] if len(headings) == 1 else tree.find(".//title")
    return None if title is None else _squeeze("".join(title.itertext())) or None


def _squeeze(text: str) -> str:
    return _PERMALINK.sub("", " ".join(text.split()))


def _paragraphs(element: Any, opening: str = "") -> Iterator[str]:
    """The paragraphs below an element of trafilatura's tree; `opening` goes before the first."""
    run = element.text or ""
    for child in element:
        if child.tag not in _BLOCKS and not _is_listing(child):
            run += (" " if child.tag == "lb" else "".join(child.itertext())) + (child.tail or "")
            continue
        if run.strip():
            yield opening + _squeeze(run)
            opening = ""
        run = child.tail or ""
        if child.tag in _BLOCKS:
            inner = "- " if child.tag == "item" and child.get("rend") is None else opening
            for paragraph in _paragraphs(child, inner):
                yield paragraph
                opening = ""
    if run.strip():
        yield opening + _squeeze(run)


def _is_listing(element: Any) -> bool:
    """Whether `code` stands by itself, as a block: several lines, or no words around it."""
    if element.tag in {"table", "graphic"}:
        return True
    before = element.getprevious()
    around = ((element.getparent().text if before is None else before.tail) or "") + (element.tail or "")
    return element.tag == "code" and ("\n" in (element.text or "").strip() or not around.strip())
