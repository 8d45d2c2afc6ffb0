"""The reference of Node.js."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source
from ftmeta.pretraining.html import html_documents


def read(folder: Path) -> Iterator[Document]:
    pages = [path for path in folder.rglob("api/*.html") if path.name != "all.html"]
    return html_documents(pages, start='<div id="apicontent"', end="</body>")


NODEJS = Source(
    name="nodejs",
    label="the Node.js documentation",
    kind="apt",
    package="nodejs-doc",
    version=None,
    licence="MIT",
    attribution="OpenJS Foundation and Node.js contributors",
    in_chat=True,
    read=read,
)
