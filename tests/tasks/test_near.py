"""Near-duplicates: what is one, what is none, and that time stays linear in awkward collections."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmeta.tasks.near import near_duplicates

COUNTRIES = [f"{first}{last}" for first in "BDFGKLMNPRSTVWZ" for last in ("oria", "ania", "estan", "eland", "ibu")]
TEMPLATES = ["What is the capital of {}?", "Which currency do people in {} pay with?", "How many people live in {}?"]
QUESTIONS = [template.format(country) for template in TEMPLATES for country in COUNTRIES]


def test_templates_with_other_names_are_no_duplicates() -> None:
    assert near_duplicates(QUESTIONS) == [None] * len(QUESTIONS)


@pytest.mark.parametrize(
    "again",
    [
        "What is the capital of Boria",
        "what is  the CAPITAL of boria ?!",
        "What is capital of Boria?",
        "The capital of Boria is what?",
    ],
)
def test_small_edits_are_found(again: str) -> None:
    assert near_duplicates([*QUESTIONS, again])[-1] == QUESTIONS.index("What is the capital of Boria?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 4", "3 - 4"),
        ("What is C++?", "What is C#?"),
        ("日本の首都はどこですか", "中国で一番長い川は何ですか"),
        ("?!", "..."),
    ],
)
def test_other_texts_are_new(one: str, other: str) -> None:
    assert near_duplicates([one, other]) == [None, None]


def test_the_threshold() -> None:
    one, other = "a b c d e f g h i j", "a b c d e f g h i k"
    # Of 2 + 100 texts two hold a shared word, which weighs round(2 log2(102 / 2)) = 11 and a pair 3, the others
    # 13 and 3: (9 * 11 + 8 * 3) / (9 * 11 + 8 * 3 + 2 * (13 + 3)) = 0.794
    assert near_duplicates([one, other], threshold=0.79) == [None, 0]
    assert near_duplicates([one, other], threshold=0.8) == [None, None]


def test_text_without_spaces_is_compared_by_character() -> None:
    assert near_duplicates(["日本の首都はどこですか", "日本の首都はどこですか。"]) == [None, 0]
    assert near_duplicates(["富士山は日本で一番高い山です", "富士山は日本で一番高い山でした"]) == [None, 0]


def test_the_first_of_several_is_named() -> None:
    assert near_duplicates(["one two three", "else", "One two three.", "one, two, three", "Else!"]) == [
        *(None, None),
        *(0, 0, 1),
    ]


def test_long_prompts_that_share_their_instruction_differ_by_what_follows() -> None:
    rng = random.Random(0)
    instruction = " ".join(f"rule{rng.randrange(300)}" for _ in range(400))
    texts = [f"{instruction} Review: {' '.join(f'w{rng.randrange(9000)}' for _ in range(8))}" for _ in range(300)]
    assert near_duplicates(texts) == [None] * 300
    assert near_duplicates([*texts, texts[7] + " Thanks."])[-1] == 7


@given(st.lists(st.text(max_size=30), max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_texts(texts: list[str]) -> None:
    found = near_duplicates(texts)
    assert len(found) == len(texts)
    assert all(earlier is None or 0 <= earlier < index for index, earlier in enumerate(found))
    assert all(
        found[texts.index(text)] is not None or found[index] is not None or texts.index(text) == index
        for index, text in enumerate(texts)
    )
