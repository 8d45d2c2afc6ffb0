from __future__ import annotations

import pytest

from ftmeta.synthesis.filters import FILTERS, Candidate, dropped_by, language_of, words
from ftmeta.synthesis.replies import Pair

PASSAGE = (
    "The Sojourner rover landed on Mars on 4 July 1997 as part of the Pathfinder mission. It weighed 10.6 kilograms "
    "and carried three cameras and a spectrometer, which analysed rocks until contact was lost in September."
)
TOKYO = "東京は日本の首都であり、人口は約1400万人です。江戸と呼ばれていた時代から政治の中心でした。"


def judge(question: str, answer: str, passage: str = PASSAGE, language: str = "en") -> str | None:
    return dropped_by(Candidate(Pair(question, answer), passage, language))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When did Sojourner land on Mars?", "On 4 July 1997."),
        ("How heavy was the Sojourner rover?", "10.6 kg"),
        ("Which rover landed on Mars in 1997?", "Sojourner"),
        ("What did Sojourner's spectrometer do?", "It analysed rocks"),
        ("What did the spectrometer of Sojourner do?", "Analysis of rocks"),  # another form of the word
        ("How many cameras did Sojourner carry?", "Three cameras"),
    ],
)
def test_good_pairs_pass(question: str, answer: str) -> None:
    assert judge(question, answer) is None


@pytest.mark.parametrize(
    ("question", "answer", "name"),
    [
        ("Sojourner?", "A rover.", "length"),
        ("What did Sojourner carry?", "cameras " * 61, "length"),
        ("Why " + "why " * 60 + "did it land?", "Cameras", "length"),
        ("What does the passage say about Sojourner?", "It landed on Mars.", "standalone"),
        ("According to the text, when did Sojourner land?", "On 4 July 1997", "standalone"),
        ("What is mentioned above about Mars?", "Sojourner landed on Mars.", "standalone"),
        ("When did Sojourner land?", "The passage says on 4 July 1997", "standalone"),
        ("What did it do there?", "It analysed rocks", "standalone"),
        ("Was macht Sojourner laut dem Text?", "Er landete auf dem Mars", "standalone"),
        ("Selon le texte, où est Sojourner?", "Mars", "standalone"),
        ("¿Qué dice el texto sobre Sojourner?", "Mars", "standalone"),
        ("How heavy was Sojourner?", "11 kilograms", "unsupported"),
        ("Who built the Sojourner rover?", "The Jet Propulsion Laboratory", "unsupported"),
        ("Did Sojourner land on Mars?", "Yes.", "unsupported"),
        ("Which rover is the Sojourner rover?", "Sojourner rover", "given away"),
    ],
)
def test_bad_pairs_do_not(question: str, answer: str, name: str) -> None:
    assert judge(question, answer) == name


@pytest.mark.parametrize(
    "question",
    [
        "Which file format holds the text of a book?",
        "What does a passage through the strait of Gibraltar cost?",
        "Who is the author of Moby Dick?",
        "What is a context manager in Python?",
        "Which table stores the prices of items in SQLite?",
    ],
)
def test_questions_about_texts_and_tables_stand_alone(question: str) -> None:
    stands_alone, _ = FILTERS["standalone"]
    assert stands_alone(Candidate(Pair(question, "x"), "x", "en"))


def test_language() -> None:
    german = ("Wann landete der Rover Sojourner auf dem Mars, und was trug er bei sich?", "Sojourner, Mars, 4, 1997")
    assert judge(*german) == "language"
    assert judge(*german, language="de") is None
    assert judge("Which planet did Sojourner reach?", "Mars", language="de") is None  # too short to be sure of
    assert language_of(PASSAGE)[0] == "en"


def test_scripts_without_spaces() -> None:
    assert judge("日本の首都はどこですか？", "東京", TOKYO, "ja") is None
    assert judge("日本の首都はどこですか？", "大阪市", TOKYO, "ja") == "unsupported"
    assert judge("東京の人口はどのくらいですか？", "約1400万人", TOKYO, "ja") is None
    assert words("東京 is big") == ["東", "京", "is", "big"]
