"""Django's documentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source
from ftmeta.pretraining.html import html_documents


def read(folder: Path) -> Iterator[Document]:
    pages = [
        path
        for path in folder.rglob("*.html")
        if not {"_modules", "genindex.html", "py-modindex.html"} & set(path.parts)
    ]
    return html_documents(pages, start='<div id="bd"', end='<div id="sidebar"')


DJANGO = Source(
    name="django",
    label="the Django documentation",
    kind="apt",
    package="python-django-doc",
    version=None,
    licence="BSD-3-Clause",
    attribution="Django Software Foundation and contributors",
    in_chat=True,
    read=read,
)
