"""The books of Rust's documentation: not the reference of its library, which is mostly code, and not the Embedded Rust
Book, whose share-alike licence (CC BY-SA 4.0) does not go with the weights' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftmeta.pretraining.document import Document, Source
from ftmeta.pretraining.html import html_documents

_BOOKS = (
    "book",
    "edition-guide",
    "nomicon",
    "reference",
    "rust-by-example",
    "rustc",
    "rustdoc",
    "unstable-book",
)


def read(folder: Path) -> Iterator[Document]:
    html = folder / "usr" / "share" / "doc" / "rust-doc" / "html"
    # print.html repeats its whole book.
    pages = [path for book in _BOOKS for path in (html / book).rglob("*.html") if path.name != "print.html"]
    return html_documents(pages, start="<main>", end="</main>")


RUST = Source(
    name="rust",
    label="the Rust documentation",
    kind="apt",
    package="rust-doc",
    version=None,
    licence="MIT OR Apache-2.0",
    attribution="The Rust Project contributors",
    in_chat=True,
    read=read,
)
