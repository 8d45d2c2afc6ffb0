"""Documents: from what a user names, a file or a folder, to clean text in paragraphs.

    for path in find_documents(root):
        document = read_document(path, path.relative_to(root).as_posix())

A document that cannot be read is an answer (Unreadable, with what to do), not an error: one bad file of a thousand
costs nothing else. To add a format, write one reader (see formats/) and one line in READERS.

What bounds a document that is hostile or merely huge: files above MAX_DOCUMENT_BYTES are not opened; HTML and PDF have
limits of their own; pypdf refuses streams that unpack to more than 75 MB. Time is for the caller to limit, who runs
this in a process that can be ended.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftmeta.errors import DataError, MissingDependencyError
from ftmeta.synthesis.formats import CannotRead, Reading
from ftmeta.synthesis.formats.html import read_html
from ftmeta.synthesis.formats.markdown import read_markdown
from ftmeta.synthesis.formats.pdf import read_pdf
from ftmeta.synthesis.formats.plain import read_plain
from ftmeta.synthesis.formats.prose import tidy
from ftmeta.synthesis.formats.rst import read_rst

MAX_DOCUMENT_BYTES = 100_000_000

READERS: dict[str, Callable[[bytes], Reading]] = {
    ".txt": read_plain,
    ".text": read_plain,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".rst": read_rst,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
}


@dataclass(frozen=True)
class Document:
    """One document: `name` is its path below what the user named, `text` has one blank line between paragraphs, each
    of which is one line; `encoding_note` says how it was read where that was not plain UTF-8, or what of a PDF was
    not read."""

    name: str
    text: str
    encoding_note: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """A document that gave no text: `reason` says what was found and what to do."""

    name: str
    reason: str


def find_documents(path: Path) -> list[Path]:
    """The documents at `path`, a file or a folder (with its subfolders), sorted by path.

    Hidden files and folders are skipped, and files of other suffixes than those of READERS (see other_files). Links are
    followed; a folder or file that is reached twice counts once. Raises DataError for a path that is not there, a
    folder that cannot be listed, and where there is nothing to read.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"there is no file or folder '{path}'; check the path")
        if not path.is_file():
            raise DataError(f"'{path}' is neither a file nor a folder; give a document or a folder of documents")
        if path.suffix.lower() not in READERS:
            raise DataError(f"'{path}': the suffix '{path.suffix}' is not supported; {_wanted()}")
        return [path]
    found = [file for file in _walk(path) if file.suffix.lower() in READERS]
    if not found:
        others = other_files(path)
        held = ", ".join(f"{count} {suffix}" for suffix, count in others.items()) or "no files"
        raise DataError(f"the folder '{path}' has no documents that can be read (it holds {held}); {_wanted()}")
    once = {os.path.realpath(file): file for file in reversed(found)}
    return sorted(once.values())


def other_files(path: Path) -> dict[str, int]:
    """How many files below a folder find_documents passes over for their suffix: `{'.docx': 12, 'no suffix': 1}`.
    None below a file."""
    if not path.is_dir():
        return {}
    suffixes = (shown(file.suffix.lower()) for file in _walk(path) if file.suffix.lower() not in READERS)
    return dict(Counter(suffix or "no suffix" for suffix in suffixes).most_common())


def shown(name: str) -> str:
    """A name of a file for reports and terminals: names need not be UTF-8, and may hold what moves a cursor."""
    return "".join(char if char.isprintable() else "?" for char in name)


def read_document(path: Path, name: str) -> Document | Unreadable:
    """The text of one document, or why there is none. Raises only MissingDependencyError, for an absent library."""
    name = name.encode("utf-8", "replace").decode("utf-8")  # names of files need not be UTF-8; reports have to
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about what is in the file
            reading = READERS[path.suffix.lower()](_bytes_of(path))
            text = "\n\n".join(filter(None, map(tidy, reading.paragraphs)))
    except MissingDependencyError:
        raise
    except CannotRead as error:
        return Unreadable(name, str(error))
    except OSError as error:
        return Unreadable(name, _about_os_error(error))
    except MemoryError:
        return Unreadable(name, "it needs more memory than there is; split it into smaller files")
    except Exception as error:  # whatever a parser raises on a damaged file, RecursionError among it
        said = (str(error).strip().splitlines() or [""])[0][:200]
        return Unreadable(
            name, f"damaged: it cannot be taken apart ({type(error).__name__}: {said}); save or export it again"
        )
    if not any(char.isalnum() for char in text):
        return Unreadable(name, "there is no text in it; leave it out")
    return Document(name, text, reading.encoding_note)


def _bytes_of(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe or a device can wait for ever
        raise CannotRead("not a regular file but a folder, pipe, socket or device; leave it out")
    if found.st_size == 0:
        raise CannotRead("the file is empty; leave it out")
    if found.st_size > MAX_DOCUMENT_BYTES:
        raise CannotRead(
            f"a file of {found.st_size:,} bytes, the limit is {MAX_DOCUMENT_BYTES:,}; split it, for example with "
            "split --line-bytes=50M for text, or by chapters"
        )
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES)


def _about_os_error(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "the file is not there any more, or is a link to nowhere; start again once it is back"
        case PermissionError():
            return "no permission to read the file; change that (chmod +r), or run as a user who may"
    return f"the file could not be read ({error.strerror or error}); check the disk, or copy the file elsewhere"


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder that are not hidden, those of hidden folders neither; each real folder once."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise DataError(
            f"the folder '{error.filename}' cannot be listed ({error.strerror}); change its permissions or move it away"
        ) from error

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _wanted() -> str:
    return (
        f"wanted {', '.join(READERS)}; convert other documents first, for example with pandoc or "
        "libreoffice --convert-to pdf"
    )
