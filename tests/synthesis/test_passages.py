"""Passages: within the limit, in order, nothing lost but what passages.py says it drops, in any script."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftmeta.synthesis.documents import Document
from ftmeta.synthesis.passages import FRAGMENT_RUN, Passage, count_words, passages

WORDS = st.sampled_from(
    ["river", "dam", "gate", "Norden", "flood", "bridge", "1962", "(closed)", "e.g.", "Dr.", "Elm’s"]
)
SENTENCES = st.lists(WORDS, min_size=8, max_size=30).map(lambda words: f"The {' '.join(words)} stood.")
PARAGRAPHS = st.lists(SENTENCES, min_size=3, max_size=20).map(" ".join)
HEADINGS = st.sampled_from(["Introduction", "2.1 The dam", "Who lives there?", "水坝"])
LIMITS = st.integers(130, 300)  # twice the least and two sentences: no part of a paragraph is too short for a passage

PROSE = (
    "The dam of Norden was built in 1962 of stone from the hills, and it has held every flood since then. " * 3
    + "So it was."
)
CHINESE = "北京是中华人民共和国的首都，是全国的政治中心。这座城市有着三千多年的历史。"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย"


def texts(*paragraphs: str, max_words: int = 220, min_words: int = 30) -> list[str]:
    found = passages(Document("a.txt", "\n\n".join(paragraphs)), max_words, min_words)
    return [passage.text for passage in found]


# --- what always holds --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.lists(HEADINGS, max_size=FRAGMENT_RUN - 1), PARAGRAPHS), max_size=6), LIMITS)
def test_nothing_of_prose_is_lost_or_moved(sections: list[tuple[list[str], str]], max_words: int) -> None:
    number = itertools.count()
    paragraphs = [part for headings, paragraph in sections for part in (*headings, paragraph)]
    unique = [re.sub("stood", lambda _: f"stood for {next(number)} years", one) for one in paragraphs]
    assert " ".join(texts(*unique, max_words=max_words)).split() == " ".join(unique).split()


@given(st.lists(PARAGRAPHS | HEADINGS | SENTENCES | st.text(max_size=300), max_size=12), st.integers(1, 80))
def test_any_text_gives_passages_within_the_limits_in_order(paragraphs: list[str], max_words: int) -> None:
    text = "\n\n".join(paragraphs)
    found = passages(Document("a.txt", text), max_words, max_words // 4)
    assert [passage.index for passage in found] == list(range(len(found)))
    assert len({passage.key for passage in found}) == len(found)
    position = 0
    letters = "".join(text.split())
    for passage in found:
        assert max_words // 4 <= count_words(passage.text) <= max_words
        for paragraph in passage.text.split("\n\n"):
            position = letters.find("".join(paragraph.split()), position)
            assert position >= 0


# --- packing ------------------------------------------------------------------------------------------------------


def test_whole_paragraphs_are_packed_and_a_heading_stays_with_what_follows() -> None:
    size = count_words(PROSE)
    found = texts(f"One. {PROSE}", f"Two. {PROSE}", "The bridge", f"Three. {PROSE}", max_words=2 * size + 5)
    assert found == [f"One. {PROSE}\n\nTwo. {PROSE}", f"The bridge\n\nThree. {PROSE}"]
    assert (
        texts("Rivers", "The Elm", PROSE, max_words=size)
        == [  # the headings take the room of a sentence
            "Rivers\n\nThe Elm\n\n" + " ".join(PROSE.split()[:42])
        ]
    )


def test_a_heading_starts_a_passage_where_the_one_before_is_long_enough() -> None:
    assert texts(f"One. {PROSE}", "The bridge", f"Two. {PROSE}", "Short", "It fell.", max_words=150) == [
        f"One. {PROSE}", f"The bridge\n\nTwo. {PROSE}\n\nShort\n\nIt fell.",
    ]  # fmt: skip


def test_a_long_paragraph_is_cut_at_sentence_ends_into_equal_parts() -> None:
    sentences = [f"Gate {number} was opened by Dr. A. Berg at 3.30 p.m. on a day of spring." for number in range(21)]
    found = texts(" ".join(sentences), max_words=200)
    assert " ".join(found) == " ".join(sentences)
    assert all(part.startswith("Gate") for part in found)
    assert sorted(map(count_words, found)) == [160, 176]


def test_scripts_without_spaces_are_cut_too() -> None:
    chinese = "".join(f"第{number}座大坝建于一九六二年，抵御了历次洪水。" for number in range(90))
    thai = " ".join(f"{THAI}{number}" for number in range(60))
    unbroken = "".join(chr(0x0E01 + number * number % 46) for number in range(900))
    for text in (chinese, thai, unbroken):
        found = texts(text, max_words=100)
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(count_words(part) <= 100 for part in found)
    assert all(part.endswith("。") for part in texts(chinese, max_words=100))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("The river Elm", 3),
        ("江河", 1),
        (CHINESE, 19),
        ("東京 is big", 3),
        ("https://" + "x" * 64, 3),
        ("Dürre", 1),
    ],
)
def test_words_are_counted_in_any_script(text: str, words: int) -> None:
    assert count_words(text) == words


# --- what is dropped ----------------------------------------------------------------------------------------------


def test_tables_and_link_lists_are_dropped() -> None:
    cells = [f"Year {year}" for year in range(1960, 1960 + FRAGMENT_RUN)]
    links = [f"- See page {number}" for number in range(FRAGMENT_RUN)]
    assert texts(PROSE, *cells, "The dam", f"{PROSE} Two.", *links, "The bridge", f"{PROSE} Three.", max_words=80) == [
        PROSE, f"The dam\n\n{PROSE} Two.", f"The bridge\n\n{PROSE} Three.",
    ]  # fmt: skip


def test_lists_of_sentences_are_kept() -> None:
    items = [f"- Gate {number} lets the water of the upper lake into the mill" for number in range(6)]
    assert texts("The gates", *items) == ["\n\n".join(["The gates", *items])]


def test_numbers_and_signs_are_no_prose() -> None:
    assert texts("1962 2.1 3.4 8.8 1963 2.2 3.1 8.7. " * 10, "= = = = . " * 40) == []


def test_what_is_too_short_is_joined_or_dropped() -> None:
    assert texts("It is a river.") == []
    assert texts("It is a river.", min_words=3) == ["It is a river."]
    assert texts("It is a river.", PROSE, "It floods.") == [f"It is a river.\n\n{PROSE}\n\nIt floods."]
    assert texts("It is a river.", PROSE, max_words=count_words(PROSE)) == [PROSE]


def test_what_stands_there_twice_is_one_passage() -> None:
    found = passages(Document("a.txt", f"{PROSE}\n\n{PROSE}\n\nThe end. {PROSE}"), max_words=70)
    assert [(passage.index, passage.text) for passage in found] == [(0, PROSE), (1, f"The end. {PROSE}")]


def test_the_key_names_the_text_alone() -> None:
    one, same, other = Passage("a", 0, "River."), Passage("b", 7, "River."), Passage("a", 0, "Dam.")
    assert one.key == same.key != other.key
    assert len(one.key) == 16
