"""HTML pages to paragraphs: trafilatura finds the main text, without menus, footers, tables and code listings.

Where it finds next to nothing of a page that has paragraphs (a fragment, one of thousands of nested elements), all
text outside of such parts is taken.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ftmeta.synthesis.formats import CannotRead, Reading, needs_extra
from ftmeta.synthesis.formats.encoding import decode
from ftmeta.synthesis.formats.plain import plain_paragraphs

MAX_HTML_BYTES = 20_000_000  # a parsed page takes some twenty times its size in memory
_DECLARED = re.compile(rb"<(?:meta\b[^>]*\bcharset|\?xml\b[^>]*\bencoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_PERMALINK = re.compile(r"\s*[¶§#]$")
_LONG = 20  # words of a paragraph that is no menu or caption
# trafilatura loses and moves words of nested inline elements, and takes a term in <code> for a listing.
_INLINE = ("code", "tt", "kbd", "samp", "var", "em", "strong", "b", "i", "span", "cite", "dfn", "abbr", "small", "u")
_MAIN_BLOCKS = frozenset({"p", "head", "list", "item", "quote", "div", "section"})  # of trafilatura's own tree
_BLOCKS = frozenset({
    "address", "article", "blockquote", "body", "br", "center", "dd", "div", "dl", "dt", "figcaption", "h1",
    "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "section", "ul",
})  # fmt: skip
_SKIPPED = frozenset(
    {"aside", "button", "footer", "form", "head", "iframe", "nav", "noscript", "pre", "script", "style", "svg", "table"}
)


def read_html(raw: bytes) -> Reading:
    if len(raw) > MAX_HTML_BYTES:
        raise CannotRead(
            f"an HTML page of {len(raw):,} bytes, the limit is {MAX_HTML_BYTES:,}; split it, or save it as plain text"
        )
    declared = _DECLARED.search(raw[:2048])
    text, note = decode(raw, declared[1].decode("ascii", "replace") if declared else None)
    tree = _parsed(text)
    paragraphs = _listed_text(tree) or _main_text(tree)
    everything = list(_all_text(tree))
    if 4 * _words(paragraphs) < _words(one for one in everything if len(one.split()) >= _LONG):
        paragraphs = everything
    if not paragraphs:
        raise CannotRead("an HTML page without text in its body; is it filled by a script? Save it from a browser")
    title = _title(tree)
    return Reading([title, *paragraphs] if title and title not in paragraphs[:3] else paragraphs, note)


def _parsed(text: str) -> Any:
    with needs_extra():
        from lxml import html
    parser = html.HTMLParser(encoding="utf-8", huge_tree=True)  # huge: more than 256 nested elements, too
    return html.document_fromstring(f"<html>{text}</html>".encode("utf-8", "replace"), parser=parser)


def _listed_text(tree: Any) -> list[str]:
    """The text of a page that is one listing: another format, as of an RFC, put into <pre>. Empty for other pages."""
    listings = ["".join(listing.itertext()) for listing in tree.iter("pre")]
    if 2 * sum(map(len, listings)) <= len("".join(tree.itertext())):
        return []
    return [paragraph for listing in listings for paragraph in plain_paragraphs(listing)]


def _main_text(tree: Any) -> list[str]:
    """The paragraphs of the main text. Takes the listings and inline elements out of `tree`."""
    with needs_extra():
        import trafilatura
        from lxml import etree
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a page without text is an answer, not a warning
    for listing in list(tree.iter("pre")):
        listing.drop_tree()
    etree.strip_tags(tree, *_INLINE)
    try:
        found: Any = trafilatura.bare_extraction(tree, include_comments=False, favor_recall=True)
        return [] if found is None else list(_paragraphs(found.body))
    except RecursionError:
        return []


def _paragraphs(element: Any, opening: str = "") -> Iterator[str]:
    """The paragraphs below an element of trafilatura's tree; `opening` goes before the first."""
    run = element.text or ""
    for child in element:
        if child.tag == "table" or _is_listing(child) or child.tag in _MAIN_BLOCKS:
            if text := _squeezed(run):
                yield opening + text
                opening = ""
            run = child.tail or ""
            if child.tag in _MAIN_BLOCKS:
                is_item = child.tag == "item" and child.get("rend") is None  # terms and definitions have one
                for paragraph in _paragraphs(child, "- " if is_item else opening):
                    yield paragraph
                    opening = ""
        else:
            run += (" " if child.tag == "lb" else "".join(child.itertext())) + (child.tail or "")
    if text := _squeezed(run):
        yield opening + text


def _is_listing(element: Any) -> bool:
    return element.tag == "code" and "\n" in (element.text or "").strip()


def _all_text(tree: Any) -> Iterator[str]:
    """The paragraphs of a whole page but for what is no running text. No recursion: pages can be nested deeply."""
    from lxml import etree

    walk = etree.iterwalk(tree, events=("start", "end"))
    run = ""
    for event, element in walk:
        is_block = element.tag in _BLOCKS
        if is_block or element.tag in _SKIPPED:
            if text := _squeezed(run):
                yield text
            run = ""
        if event == "end":
            run += element.tail or ""
        elif element.tag in _SKIPPED or not isinstance(element.tag, str):  # comments have a function for a tag
            walk.skip_subtree()
        else:
            run += element.text or ""
    if text := _squeezed(run):
        yield text


def _title(tree: Any) -> str | None:
    """The page's only first-rank heading or else its title: what the main text often does without."""
    headings = tree.findall(".//h1")
    title = headings[0] if len(headings) == 1 else tree.find(".//title")
    return None if title is None else _squeezed("".join(title.itertext())) or None


def _squeezed(text: str) -> str:
    return _PERMALINK.sub("", " ".join(text.split()))


def _words(paragraphs: Iterable[str]) -> int:
    return sum(len(paragraph.split()) for paragraph in paragraphs)
