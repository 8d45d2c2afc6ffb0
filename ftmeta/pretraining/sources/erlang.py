"""Erlang/OTP's documentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source
from ftmeta.pretraining.html import html_documents


def read(folder: Path) -> Iterator[Document]:
    pages = list(folder.rglob("*.html"))
    return html_documents(pages, start='<div id="content"', end='<div class="footer"')


ERLANG = Source(
    name="erlang",
    label="the Erlang documentation",
    kind="apt",
    package="erlang-doc",
    version=None,
    licence="Apache-2.0",
    attribution="Ericsson AB and the Erlang/OTP contributors",
    in_chat=True,
    read=read,
)
