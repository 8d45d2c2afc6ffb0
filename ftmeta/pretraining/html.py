"""HTML pages to paragraphs: the running text, without navigation, tables, code listings and markup."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from ftmeta.pretraining.document import Document
from ftmeta.pretraining.text import word_set

_BLOCKS = word_set("address article aside blockquote body br center dd div dl dt li main ol p section td th ul")
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_SKIPPED = frozenset({"pre", "table", "script", "style", "nav", "svg", "head", "button", "footer", "sup", "details"})
_SKIPPED_CLASSES = frozenset({"headerlink", "mark", "api_metadata", "title-anchors", "footer", "sig", "toc"})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: str | None = None
        self.paragraphs: list[str] = []
        self._pieces: list[str] = []
        self._heading = False
        self._skipping: str | None = None  # the tag whose end resumes the text
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping is not None:
            self._depth += tag == self._skipping
            return
        classes = (dict(attrs).get("class") or "").split()
        if tag in _SKIPPED or not _SKIPPED_CLASSES.isdisjoint(classes):
            self._skipping, self._depth = tag, 1
            if tag in {"pre", "table"}:
                self._flush()
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
            self._heading = self._heading or tag in _HEADINGS

    def handle_endtag(self, tag: str) -> None:
        if self._skipping is not None:
            self._depth -= tag == self._skipping
            if self._depth == 0:
                self._skipping = None
        elif tag in _BLOCKS and not self._heading:
            self._flush()
        elif tag in _HEADINGS:
            self._flush()
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self._skipping is None:
            self._pieces.append(data)

    def close(self) -> None:
        super().close()
        self._flush()

    def _flush(self) -> None:
        text = " ".join("".join(self._pieces).split())
        self._pieces.clear()
        if not text:
            return
        if not self._heading:
            self.paragraphs.append(text)
        elif self.title is None:
            self.title = text


def html_document(html: str, start: str = "<body", end: str = "</body>") -> Document:
    """The text of a page between the first `start` and the last `end` (to the end of the page if there is none).

    The title is the first heading. Sections' headings are left out: they are no sentences.
    """
    first, last = html.find(start), html.rfind(end)
    if first < 0:
        return Document(None, ())
    parser = _Text()
    parser.feed(html[first : last if last > first else len(html)])
    parser.close()
    return Document(parser.title, tuple(parser.paragraphs))


def html_documents(paths: list[Path], start: str, end: str) -> Iterator[Document]:
    for path in sorted(paths):
        yield html_document(path.read_text(encoding="utf-8", errors="replace"), start, end)
