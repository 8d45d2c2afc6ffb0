"""reStructuredText to paragraphs, without underlines, directives, roles, comments, tables and code.

Not a parser of the whole language: documents of any Sphinx extension should come out as prose, so a directive whose
content is prose (`note`, `versionadded`) loses its first line only, and one whose content is not is dropped with it.
"""

from __future__ import annotations

import re

from ftmeta.synthesis.formats import Reading
from ftmeta.synthesis.formats.encoding import decode
from ftmeta.synthesis.formats.plain import blocks
from ftmeta.synthesis.formats.prose import unwrap, usual_width, words_of

_DIRECTIVE = re.compile(r"\.\. +(?:\|[^|]+\| +)?(?P<name>[\w:.+-]+)::(?P<argument>.*)")
_PROSE_DIRECTIVES = frozenset({
    "admonition", "attention", "caution", "danger", "error", "hint", "important", "note", "tip", "warning",
    "seealso", "topic", "sidebar", "epigraph", "versionadded",
    "versionchanged", "versionremoved", "deprecated", "rubric", "pull-quote", "highlights", "container", "glossary",
})  # fmt: skip
_TITLED = frozenset({"admonition", "topic", "sidebar", "rubric"})
_OPTION = re.compile(r":[\w -]+:(?:\s|$)")
_TABLE = re.compile(r"[+|]|={2,}(?: +={2,})+$")
_INLINE = (
    (re.compile(r":[\w+.:-]+:`~?!?(?:[\w.]*\.)?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`name`, :ref:`text <to>`
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),  # `text <address>`_
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s?\[(?:#\w*|\*|\d+)\]_"), ""),  # footnote marks
    (re.compile(r"\|([^|\s][^|]*)\|_{0,2}"), r"\1"),
    (re.compile(r"\b([A-Za-z]\w*)_(?=[\s.,;:)]|$)"), r"\1"),
    (re.compile(r"\\(.)"), r"\1"),
)


def read_rst(raw: bytes) -> Reading:
    text, note = decode(raw)
    lines = _prose_lines(text.expandtabs().splitlines())
    width, words = usual_width(lines), words_of(lines)
    paragraphs = [paragraph for block in blocks(lines) for paragraph in unwrap(block, width, words)]
    return Reading([_plain(paragraph) for paragraph in paragraphs], note)


def _prose_lines(lines: list[str]) -> list[str]:
    """The lines without what is not prose; a directive's content is not indented any more."""
    prose: list[str] = []
    skip_deeper_than: int | None = None  # lines indented further belong to what is being dropped
    in_options = False
    for line in lines:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if bare and skip_deeper_than is not None:
            if indent > skip_deeper_than:
                continue
            skip_deeper_than = None
        in_options = in_options and _OPTION.match(bare) is not None
        directive = _DIRECTIVE.match(bare)
        if directive is not None:
            argument = _start_directive(directive["name"], directive["argument"].strip())
            if argument is None:
                skip_deeper_than = indent
            else:
                prose += ["", argument] + [""] * (directive["name"] in _TITLED)
                in_options = True
        elif bare.startswith(".. ") or bare == "..":  # a comment, a target, a footnote
            skip_deeper_than = indent
        elif in_options or _TABLE.match(bare) or (indent == 0 and _OPTION.match(bare)):
            prose.append("")
        else:
            if bare.endswith("::"):
                skip_deeper_than = indent
                bare = "" if bare == "::" else bare[:-1]
            prose.append(bare)
    return prose


def _start_directive(name: str, argument: str) -> str | None:
    """What of the directive's first line is prose; None where its content is not prose either."""
    if name not in _PROSE_DIRECTIVES:
        return None
    if name.startswith("version") or name == "deprecated":
        return argument.partition(" ")[2]
    return argument


def _plain(paragraph: str) -> str:
    for pattern, replacement in _INLINE:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph
