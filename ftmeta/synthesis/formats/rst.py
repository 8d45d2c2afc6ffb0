"""reStructuredText to paragraphs, without underlines, directives, roles, comments, tables and code.

Not a parser of the whole language: documents of any Sphinx extension should come out as prose. Directives whose content
is none (code, tables, figures) are dropped with it; of all others the content is kept.
"""

from __future__ import annotations

import re

from ftmeta.synthesis.formats import Reading
from ftmeta.synthesis.formats.encoding import decode
from ftmeta.synthesis.formats.plain import blocks
from ftmeta.synthesis.formats.prose import as_item, join_lines, starts_item, words_of

_DIRECTIVE = re.compile(r"\.\. +(?:\|[^|]+\| +)?(?P<name>[\w:.+-]+)::(?P<argument>.*)")
_NOT_PROSE = frozenset({
    "bibliography", "code", "code-block", "contents", "csv-table", "digraph", "doctest", "figure", "graphviz",
    "highlight", "image", "include", "index", "ipython", "list-table", "literalinclude", "math", "meta",
    "parsed-literal", "plot", "productionlist", "prompt", "raw", "replace", "sourcecode", "table", "testcode",
    "testoutput", "testsetup", "toctree", "unicode", "uml",
})  # fmt: skip
_ADMONITIONS = frozenset({
    "admonition", "attention", "caution", "danger", "error", "hint", "important", "note", "rubric", "seealso",
    "sidebar", "tip", "topic", "warning",
})  # fmt: skip
_VERSIONS = {
    "deprecated": "Deprecated since version",
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "versionremoved": "Removed in version",
}
_OBJECTS = frozenset({
    "attribute", "class", "classmethod", "confval", "data", "decorator", "describe", "envvar", "exception", "function",
    "macro", "method", "option", "property", "staticmethod", "type",
})  # fmt: skip
_OPTION = re.compile(r":[\w -]+:(?:\s|$)")
_GRID_TABLE = re.compile(r"\+[-=+]+\+$|\|.*\|$")
_TABLE_RULE = re.compile(r"={2,}(?: +={2,})+$")
_INLINE = (
    (re.compile(r":(?P<role>pep|rfc):`(\d+)`"), lambda found: f"{found['role'].upper()} {found[2]}"),
    (
        re.compile(r":[\w+.:-]+:`!?(?:~(?:[\w.]*\.)?)?([^`<]+?)(?:\s*<[^`>]*>)?`"),
        r"\1",
    ),  # :func:`name`, :ref:`text <to>`
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
    words = words_of(lines)
    return Reading(
        [_plain(as_item(join_lines(item, words))) for block in blocks(lines) for item in _items(block)], note
    )


def _items(block: list[str]) -> list[list[str]]:
    """The lines of a block, divided where a list item starts."""
    items: list[list[str]] = []
    for line in block:
        if not items or starts_item(line):
            items.append([])
        items[-1].append(line)
    return items


def _prose_lines(lines: list[str]) -> list[str]:
    """The lines without what is not prose, and without indentation; a blank line before each indented block."""
    prose: list[str] = []
    skip_deeper_than: int | None = None  # lines indented further belong to what is being dropped
    in_options = in_table = False
    last_indent = 0
    above = ""
    for line in lines:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if bare and skip_deeper_than is not None:
            if indent > skip_deeper_than:
                continue
            skip_deeper_than = None
        in_table = _TABLE_RULE.match(bare) is not None or (in_table and (bare != "" or not _TABLE_RULE.match(above)))
        above = bare
        in_options = in_options and _OPTION.match(bare) is not None
        directive = _DIRECTIVE.match(bare)
        if directive is not None:
            if directive["name"] in _NOT_PROSE:
                skip_deeper_than = indent
            name = directive["name"].rpartition(":")[2]
            prose += ["", _prose_of(name, directive["argument"].strip()), *([""] if name in _OBJECTS else [])]
            in_options = True
            last_indent = len(line)  # what follows is indented, but goes on
        elif bare.startswith(".. ") or bare == "..":  # a comment, a target, a footnote
            skip_deeper_than = indent
        elif in_options or in_table or _GRID_TABLE.match(bare) or (indent == 0 and _OPTION.match(bare)):
            prose.append("")
        else:
            if bare.endswith("::"):
                skip_deeper_than = indent
                bare = bare[:-1] if bare[:-2] == bare[:-2].rstrip() and bare != "::" else bare[:-2].rstrip()
            if indent > last_indent and prose and not starts_item(prose[-1]):
                prose.append("")
            prose.append(bare.removeprefix("| "))  # a line block
            last_indent = indent
    return prose


def _prose_of(name: str, argument: str) -> str:
    """What of a directive's first line a reader of the page would see as text."""
    if name in _VERSIONS:
        version, _, change = argument.partition(" ")
        return f"{_VERSIONS[name]} {version}{':' if change else '.'} {change}"
    return argument if name in _ADMONITIONS or name in _OBJECTS else ""


def _plain(paragraph: str) -> str:
    for pattern, replacement in _INLINE:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph
