"""Documents: which are found, what text comes out of each format, and a reason for each that cannot be read."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmeta.errors import DataError, MissingDependencyError
from ftmeta.synthesis.documents import (
    MAX_DOCUMENT_BYTES,
    READERS,
    Document,
    Unreadable,
    find_documents,
    other_files,
    read_document,
)
from tests.synthesis.pdf_writer import At, column, pdf_of, pdf_of_contents, scanned_pdf

PROSE = (
    "The river Elm rises in the hills above Norden and flows north for ninety kilometres before it meets the sea. "
    "Its dam, which was built in 1962, has held every flood since."
)


@pytest.fixture
def text_of(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    def read(name: str, content: str | bytes) -> str:
        found = read_raw(tmp_path / name, content)
        assert isinstance(found, Document), found
        return found.text

    return read


@pytest.fixture
def reason_for(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    def read(name: str, content: str | bytes) -> str:
        found = read_raw(tmp_path / name, content)
        assert isinstance(found, Unreadable), found
        return found.reason

    return read


def read_raw(path: Path, content: str | bytes) -> Document | Unreadable:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path, path.name)


Read = Callable[[str, str | bytes], str]


# --- finding ------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_documents_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.TXT", "a/y.pdf", ".git/notes.txt", "a/.draft.md", "c.docx", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in find_documents(tmp_path)] == [
        "a/y.pdf",
        "a/z.TXT",
        "b.md",
    ]
    assert other_files(tmp_path) == {".docx": 1, "no suffix": 1}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.txt").write_text("x")
    (tmp_path / "docs" / "near.txt").write_text("x")
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs" / "same.txt").symlink_to(tmp_path / "docs" / "near.txt")
    found = find_documents(tmp_path / "docs")
    assert [path.relative_to(tmp_path / "docs").as_posix() for path in found] == ["near.txt", "other/far.txt"]


def test_a_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("x")
    assert find_documents(tmp_path / "one.md") == [tmp_path / "one.md"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("absent", "there is no file or folder"),
        ("empty", r"no documents that can be read \(it holds no files\)"),
        ("office", r"it holds 2 \.docx, 1 \.xlsx\); wanted \.txt, .*convert"),
        ("office/a.docx", r"suffix '\.docx' is not supported; wanted \.txt"),
        ("pipe.txt", "neither a file nor a folder"),
    ],
)
def test_nothing_to_read_is_said_with_what_was_found(tmp_path: Path, named: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "office").mkdir()
    for name in ("a.docx", "b.docx", "c.xlsx"):
        (tmp_path / "office" / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=said):
        find_documents(tmp_path / named)


def test_a_name_that_is_not_utf8_can_be_reported(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text(PROSE)
    assert [read_document(found, found.name) for found in find_documents(tmp_path)] == [Document("caf?.txt", PROSE)]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "closed").mkdir(mode=0o000)
    with unprivileged(tmp_path), pytest.raises(DataError, match=r"closed' cannot be listed .* permissions"):
        find_documents(tmp_path)


@contextmanager
def unprivileged(below: Path) -> Iterator[None]:
    """As a user for whom file permissions hold: the superuser reads everything."""
    if os.geteuid() != 0:
        yield
        return
    for folder in below.parents:
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- files that hold no text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", READERS)
def test_every_reader_gives_a_reason_for_what_is_no_document(reason_for: Read, suffix: str) -> None:
    assert "empty" in reason_for(f"empty{suffix}", b"")
    assert reason_for(f"blank{suffix}", b" \n \n")
    assert reason_for(f"binary{suffix}", bytes(range(256)) * 40)


def test_pipes_sockets_devices_and_folders_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket is limited to a hundred bytes
        server.bind("socket.md")
        (tmp_path / "zero.html").symlink_to("/dev/zero")
        (tmp_path / "folder.pdf").mkdir()
        for name in ("pipe.txt", "socket.md", "zero.html", "folder.pdf"):
            found = read_document(tmp_path / name, name)
            assert isinstance(found, Unreadable)
            assert "not a regular file" in found.reason


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "dump.txt").open("wb") as file:
        file.truncate(1_000_000_000)  # sparse: takes no room
    found = read_document(tmp_path / "dump.txt", "dump.txt")
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(f"a file of 1,000,000,000 bytes, the limit is {MAX_DOCUMENT_BYTES:,}; split it")


def test_a_file_that_vanished_and_one_that_is_closed(tmp_path: Path) -> None:
    gone = read_document(tmp_path / "gone.txt", "gone.txt")
    (tmp_path / "closed.txt").write_text("x")
    (tmp_path / "closed.txt").chmod(0o000)
    with unprivileged(tmp_path):
        closed = read_document(tmp_path / "closed.txt", "closed.txt")
    assert isinstance(gone, Unreadable)
    assert "not there any more" in gone.reason
    assert isinstance(closed, Unreadable)
    assert "no permission" in closed.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"fields of a record\x00with names\x00" * 100, "binary file .* NUL bytes"),
        (b"%PDF-1.4 ...", "a PDF; rename it to .pdf"),
        (b"PK\x03\x04rest of a docx", "office document; .* export it as PDF or HTML"),
        (bytes(range(1, 9)) * 400, "a binary file with the suffix of a text file"),
    ],
)
def test_binary_files_named_as_text(reason_for: Read, content: bytes, said: str) -> None:
    assert re.search(said, reason_for("notes.txt", content))


@settings(max_examples=30, deadline=None)
@given(
    suffix=st.sampled_from(sorted(READERS)),
    start=st.sampled_from([b"", b"%PDF-1.4\n1 0 obj <<", b"<html><body><p>", b"---\na: b\n---\n", codecs.BOM_UTF16_LE]),
    noise=st.binary(min_size=1, max_size=200),
)
def test_no_content_makes_it_raise(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, start: bytes, noise: bytes
) -> None:
    read_raw(tmp_path_factory.getbasetemp() / f"noise{suffix}", start + noise)


@pytest.mark.parametrize(
    ("library", "name"), [("pypdf", "a.pdf"), ("trafilatura", "a.html"), ("lxml", "a.html"), ("markdown_it", "a.md")]
)
def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ftmeta\[synthesis\]'"):
        read_raw(tmp_path / name, f"<p>{PROSE}</p>")


# --- encodings ----------------------------------------------------------------------------------------------------

GERMAN = "Über den Dächern der Stadt lag ein grauer Schleier, und die Straße führte über die Brücke zum größten Platz."
FRENCH = (
    "Le café était fermé à cause de l’été. Où êtes-vous allés après le dîner ? Les élèves ont déjà reçu leurs livres."
)
POLISH = "Zażółć gęślą jaźń. Wrocław jest miastem w Polsce, położonym nad Odrą, a Łódź również jest dużym miastem."
TURKISH = "İstanbul Türkiye'nin en kalabalık şehridir. Ankara ise ülkenin başkentidir ve çok güzel bir şehirdir."
RUSSIAN = "Москва является столицей России. Население города составляет более двенадцати миллионов человек."
JAPANESE = "東京は日本の首都であり、世界最大級の都市の一つです。人口は約千四百万人です。"
CHINESE = "北京是中华人民共和国的首都，是全国的政治中心。这座城市有着三千多年的历史。"


@pytest.mark.parametrize(
    ("text", "encoding", "note"),
    [
        (GERMAN, "utf-8", None),
        (GERMAN, "utf-8-sig", None),
        (GERMAN, "latin-1", "read as windows-1252"),  # of which it is a part
        (FRENCH, "cp1252", "read as windows-1252"),
        (POLISH, "cp1250", "read as windows-1250"),
        (POLISH, "iso8859-2", "read as iso8859-2"),
        (TURKISH, "cp1254", "read as windows-1254"),
        (RUSSIAN, "koi8-r", "read as koi8-r"),
        (JAPANESE, "shift-jis", "read as Shift-JIS"),
        (CHINESE, "gb18030", "read as GB 18030"),
        (GERMAN, "utf-16", "read as UTF-16"),
        (GERMAN, "utf-16-be", "read as UTF-16"),  # without a byte-order mark
        (JAPANESE, "utf-32", "read as UTF-32"),
    ],
)
def test_encodings(tmp_path: Path, text: str, encoding: str, note: str | None) -> None:
    assert read_raw(tmp_path / "a.txt", text.encode(encoding)) == Document("a.txt", text, note)


def test_a_damaged_byte_does_not_change_the_encoding(tmp_path: Path) -> None:
    found = read_raw(tmp_path / "a.txt", (GERMAN * 9).encode() + b"\xff")
    assert isinstance(found, Document)
    assert found.encoding_note == "read as UTF-8, 1 damaged character"


def test_a_page_says_its_encoding(tmp_path: Path) -> None:
    page = f'<html><head><meta charset="iso-8859-2"><title>T</title></head><body><p>{POLISH}</p></body></html>'
    found = read_raw(tmp_path / "a.html", page.encode("iso8859-2"))
    assert found == Document("a.html", f"T\n\n{POLISH}", "read as iso8859-2")


# --- text formats -------------------------------------------------------------------------------------------------


def test_plain_text_loses_its_line_ends_but_not_its_lists(text_of: Read) -> None:
    text = text_of(
        "a.txt",
        "RIVERS\n======\n\n"
        "The river Elm rises in the hills above Norden and flows north for nine-\n"
        "ty kilometres before it meets the sea near the light-\n"
        "house of Süden.\r\n\r\n"
        "* The dam was built in 1962 and has held\n  every flood since.\n"
        "* The bridge is closed.\n",
    )
    assert text.split("\n\n") == [
        "RIVERS",
        "The river Elm rises in the hills above Norden and flows north for ninety kilometres before it meets the sea "
        "near the lighthouse of Süden.",
        "- The dam was built in 1962 and has held every flood since.",
        "- The bridge is closed.",
    ]


def test_plain_text_with_a_paragraph_a_line(text_of: Read) -> None:
    paragraphs = [f"{number}. {PROSE} {PROSE}" for number in range(4)]
    assert text_of("a.txt", "\n".join(paragraphs)).split("\n\n") == paragraphs


def test_chinese_lines_are_joined_without_spaces(text_of: Read) -> None:
    assert text_of("a.txt", f"{CHINESE[:20]}\n{CHINESE[20:]}\n") == CHINESE


def test_characters_are_cleaned(text_of: Read) -> None:
    assert (
        text_of("a.txt", "The ﬁrst\u00a0of\u200b the ofﬁ\u00adcers\x07 came in\u0301.")
        == "The first of the officers came iń."
    )


def test_markdown(text_of: Read) -> None:
    text = text_of(
        "a.md",
        "---\ntitle: Elm\ntags: [river]\n---\n\n# The *Elm*\n\n[![build](b.svg)](ci) A [long](url) `river`,\nof the "
        "north.\n\n<!-- not shown\n\nnor this -->\n\n```python\nprint('no prose')\n```\n\n"
        "- One **strong** dam.\n- Two bridges.\n\n  The second is old.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "<details>\n<summary>More</summary>\n\nIt floods.\n\n</details>\n",
    )
    assert text.split("\n\n") == [
        "The Elm", "A long river, of the north.", "- One strong dam.", "- Two bridges.", "The second is old.", "More",
        "It floods.",
    ]  # fmt: skip


def test_restructuredtext(text_of: Read) -> None:
    text = text_of(
        "a.rst",
        ".. _top:\n\nThe Elm\n*******\n\n:Author: A. Writer\n\nSee :func:`~os.path.join`, :pep:`8`, :ref:`the dam "
        "<dam>` and\n`home <http://x>`_. It is **old** [#]_ and ``wet``::\n\n    print('no prose')\n\n.. note:: It "
        "*floods*\n   in May.\n\n.. code-block:: python\n   :linenos:\n\n   print('no')\n\n.. function:: flow(rate)\n\n"
        "   Lets it flow.\n\n   .. versionadded:: 3.8\n\n* one\n  item\n* two\n\n=== ===\n a   b\n=== ===\n\n"
        ".. comment\n   of two lines\n",
    )
    assert text.split("\n\n") == [
        "The Elm", "See join, PEP 8, the dam and home. It is old and wet:", "It floods in May.", "flow(rate)",
        "Lets it flow.", "New in version 3.8.", "- one item", "- two",
    ]  # fmt: skip


def test_html_gives_the_main_text_without_menus_tables_listings_and_comments(text_of: Read) -> None:
    page = f"""<!doctype html><html><head><title>Floods - Daily News</title><script>var x = "no";</script></head><body>
        <nav><ul><li><a href="/">Home</a></li><li><a href="/w">World</a></li></ul></nav>
        <article><h1>Floods in <em>Norden</em></h1><p>{PROSE}</p>
        <p>Call <code>open(<i>gate</i>)</code> to let water out, and <code>close()</code> to keep it. See also
        <a href="x">the manual of the dam</a>, which says how.</p>
        <pre>open(gate)\nclose()</pre><table><tr><td>1962</td><td>2.1 m</td></tr></table>
        <h2>Help</h2><ul><li>The sports hall takes in families.</li><li>Food can be left at the town hall.</li></ul>
        <dl><dt><code>gate</code></dt><dd><p>The number of the gate that is to be opened or closed.</p></dd></dl>
        </article><aside><p>Ten best rivers</p></aside><footer><p>All rights reserved by the Daily News.</p></footer>"""
    assert text_of("a.html", page).split("\n\n") == [
        "Floods in Norden",
        PROSE,
        "Call open(gate) to let water out, and close() to keep it. See also the manual of the dam, which says how.",
        "Help", "- The sports hall takes in families.", "- Food can be left at the town hall.",
        "gate", "The number of the gate that is to be opened or closed.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "page",
    [
        f"<p>{PROSE}",
        f"<html><body>{'<div>' * 1000}<p>{PROSE}</p>",
        f"<html><body><pre>{PROSE.replace('. ', '. ' + chr(10))}</pre></body></html>",
        f'<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>{PROSE}</p></body></html>',
    ],
)
def test_fragments_deep_pages_and_listings_have_text_too(text_of: Read, page: str) -> None:
    assert text_of("a.xhtml", page).replace("\n\n", " ") == PROSE


def test_a_page_nested_beyond_all_reason_ends(tmp_path: Path) -> None:
    for tag in ("div", "ul><li", "span", "blockquote"):
        read_raw(tmp_path / "deep.html", f"<html><body>{f'<{tag}>' * 5000}{PROSE}")


@pytest.mark.parametrize("body", ["", "<div id=app></div><script>render('text')</script>", "<img src=a.png>"])
def test_a_page_without_text(reason_for: Read, body: str) -> None:
    said = reason_for("a.html", f"<html><head><title>App</title></head><body>{body}</body></html>")
    assert said.startswith("an HTML page without text in its body; is it filled by a script?")


# --- PDF ----------------------------------------------------------------------------------------------------------

BODY = [
    "The river Elm rises in the hills above the town of Norden and flows north for some",
    "ninety kilometres before it meets the sea. Its dam, which was built in 1962, con-",
    "tains enough water for the whole province, and the engineers who look after it have",
    "opened the gates only twice. In the spring of 1987 the lower town was flooded, and",
]


def test_pdf_paragraphs_go_over_pages_without_what_repeats_on_them(text_of: Read) -> None:
    pages = []
    for number in range(1, 6):
        running = [At(72, 780, f"Rivers of the North {number if number % 2 else ''}"), At(300, 30, str(number))]
        pages.append(
            [
                *running,
                *column([f"Chapter {'ABCDE'[number - 1]}"], top=740, size=16),
                *column(BODY, top=700 - 10 * number),
            ]
        )
    pages.append([At(72, 780, "Rivers of the North"), At(300, 30, "6"), *column(["nobody was hurt."])])
    paragraphs = text_of("a.pdf", pdf_of(*pages)).split("\n\n")
    whole = " ".join(BODY).replace("con- tains", "contains")
    assert paragraphs[:4] == ["Chapter A", whole, "Chapter B", whole]
    assert paragraphs[-1] == f"{whole} nobody was hurt."


def test_pdf_paragraphs_by_gap_and_by_indentation(text_of: Read) -> None:
    first, second = [*BODY[:3], "rest of it."], [*BODY[:3], "end of it."]
    by_gap = text_of("a.pdf", pdf_of(column([*first, "", *second])))
    indented = [*column(first), *(At(90 if i == 0 else 72, 692 - 12 * i, line) for i, line in enumerate(second))]
    by_indentation = text_of("b.pdf", pdf_of(indented))
    assert by_gap == by_indentation
    assert [paragraph[-11:] for paragraph in by_gap.split("\n\n")] == ["rest of it.", " end of it."]


def test_pdf_columns_captions_footnotes_lists_and_code(text_of: Read) -> None:
    page = [
        *column(BODY, size=10),
        *column(["Figure 1: The dam."], top=680, size=9),
        *column(["1 By the engineers' own count."], top=60, size=7),
        *column(["seven bridges fell.", "", "\x95 One was rebuilt.", "\x95 Six were not."], x=320),
        At(320, 600, "open(gate)", font="Courier"),
        *column(["Nobody was hurt."], x=320, top=560),
    ]
    text = text_of(
        "a.pdf", pdf_of([At(line.x, line.y, line.text.replace("\x95", "•"), line.size, line.font) for line in page])
    )
    assert text.split("\n\n") == [
        " ".join(BODY).replace("con- tains", "contains") + " seven bridges fell.",
        "Figure 1: The dam.", "1 By the engineers' own count.", "- One was rebuilt.", "- Six were not.",
        "Nobody was hurt.",
    ]  # fmt: skip


def test_pdf_words_without_a_space_between_them_are_told_by_the_gap(text_of: Read) -> None:
    def shown(word: str) -> str:
        return f"<{word.encode('utf-16-be').hex()}>"

    within_a_string = f"[{shown('Its')}-200{shown('da')}20{shown('m')}-170{shown('has')}] TJ"
    end = 100 + 10 * (9 * 0.6 + 0.2 + 0.17 - 0.02)  # of what was shown: nine letters, two gaps, one pair kerned
    another_string = f"{end - 100 + 1.7} 0 Td {shown('held')} Tj /Spaceless 10 Tf 24 0 Td {shown('.')} Tj"
    content = f"BT /Spaceless 10 Tf 100 700 Td {within_a_string} {another_string} ET"
    assert text_of("a.pdf", pdf_of_contents(content.encode())) == "Its dam has held."


def test_a_pdf_whose_characters_are_not_told(reason_for: Read) -> None:
    content = b"BT /Spaceless 10 Tf 100 700 Td <00010002000300040005> Tj ET"
    assert reason_for("a.pdf", pdf_of_contents(content)).startswith("a PDF whose fonts do not say which characters")


def test_a_scanned_pdf_says_so(reason_for: Read) -> None:
    assert reason_for("a.pdf", scanned_pdf(12)) == (
        "a scanned PDF: 12 pages hold no text; run OCR over it first (as with ocrmypdf)"
    )
    assert reason_for("b.pdf", pdf_of([])).startswith("a PDF without text or scanned pages")


def test_a_partly_scanned_pdf_keeps_its_text(tmp_path: Path) -> None:
    text, image = b"BT /Helvetica 10 Tf 72 700 Td (It is the only page of text.) Tj ET", b"q 9 0 0 9 0 0 cm /Im Do Q"
    found = read_raw(tmp_path / "a.pdf", pdf_of_contents(text, image, image))
    assert found == Document("a.pdf", "It is the only page of text.", "no text on 2 of 3 pages, only images")


def test_encrypted_pdfs(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    def encrypted(user_password: str) -> bytes:
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_of(column(["It may be read."])))))
        writer.encrypt(user_password=user_password, owner_password="owner", algorithm="AES-256")
        file = io.BytesIO()
        writer.write(file)
        return file.getvalue()

    opened = read_raw(tmp_path / "open.pdf", encrypted(""))
    closed = read_raw(tmp_path / "closed.pdf", encrypted("secret"))
    assert opened == Document("open.pdf", "It may be read.")
    assert isinstance(closed, Unreadable)
    assert closed.reason.startswith("an encrypted PDF; save it without a password")


def test_damaged_pdfs_give_a_reason_or_text_and_are_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = pdf_of(column(BODY), column(BODY))
    with caplog.at_level(logging.DEBUG):
        found = [read_raw(tmp_path / "a.pdf", whole[:end]) for end in range(20, len(whole), 40)]
        noise = read_raw(tmp_path / "a.pdf", whole.replace(b"/Pages", b"/Pagan"))
    assert all(isinstance(one, Document) or one.reason for one in found)
    assert isinstance(found[0], Unreadable)
    assert found[0].reason.startswith("a damaged or cut off PDF")
    assert isinstance(noise, Unreadable)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_pdf_that_would_explode_is_refused(reason_for: Read) -> None:
    assert "limit" in reason_for("bomb.pdf", pdf_of_contents(b" " * 80_000_000)).lower()
