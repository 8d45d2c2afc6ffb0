"""The manual of Apache's HTTP server, its English pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source
from ftmeta.pretraining.html import html_documents


def read(folder: Path) -> Iterator[Document]:
    pages = list(folder.rglob("manual/en/**/*.html"))
    return html_documents(pages, start='<div id="page-content"', end='<div id="footer"')


APACHE = Source(
    name="apache",
    label="the Apache manual",
    kind="apt",
    package="apache2-doc",
    version=None,
    licence="Apache-2.0",
    attribution="The Apache Software Foundation",
    in_chat=True,
    read=read,
)
