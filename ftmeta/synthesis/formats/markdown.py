"""Markdown (CommonMark, with GitHub's tables) to paragraphs: no front matter, code blocks, tables, images, markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ftmeta.synthesis.formats import Reading, needs_extra
from ftmeta.synthesis.formats.encoding import decode

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A\s*(---|\+\+\+)[ \t]*\r?\n.*?\r?\n\1[ \t]*(?:\r?\n|$)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_BREAKS = frozenset({"softbreak", "hardbreak"})


def read_markdown(raw: bytes) -> Reading:
    text, note = decode(raw)
    with needs_extra():
        from markdown_it import MarkdownIt
    parser = MarkdownIt("commonmark").enable("table")
    return Reading(_paragraphs(parser.parse(_COMMENT.sub("", _FRONT_MATTER.sub("", text)))), note)


def _paragraphs(tokens: list[Token]) -> list[str]:
    paragraphs: list[str] = []
    in_table = False
    item_opens = False
    for token in tokens:
        if token.type in {"table_open", "table_close"}:
            in_table = token.type == "table_open"
        elif token.type in {"list_item_open", "list_item_close"}:
            item_opens = token.type == "list_item_open"
        elif token.type == "inline" and not in_table:
            text = "".join(_inline(child) for child in token.children or ())
            paragraphs.append(f"- {text}" if item_opens and text.strip() else text)
            item_opens = False
        elif token.type == "html_block":
            paragraphs += _TAG.sub("\n", token.content).split("\n\n")
    return paragraphs


def _inline(token: Token) -> str:
    if token.type in _BREAKS:
        return " "
    return token.content if token.type in {"text", "code_inline"} else ""
