from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftmeta.synthesis.replies import Pair, read_reply

A, B = Pair("What is a?", "The first letter."), Pair("What is b?", "The second letter.")
LIST = json.dumps([vars(A), vars(B)])


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        f"```json\n{LIST}\n```",
        f"Sure! Here are the pairs:\n{LIST}\nLet me know if you need more.",
        json.dumps({"pairs": [vars(A), vars(B)]}),
        f"{json.dumps(vars(A))}\n{json.dumps(vars(B))}",
        f'<think>[{{"question": "no", "answer": "no"}}]</think>{LIST}',
        "Q: What is a?\nA: The first letter.\n\nQ: What is b?\nA: The second letter.",
        "1. **Question:** What is a?\n   **Answer:** The first letter.\n"
        "2. **Question:** What is b?\n   **Answer:** The second letter.",
        LIST.replace("The first letter.", "The first\\n letter."),
        f"{LIST}\n{LIST}",  # said twice
        "Q: Question: What is a?\nA: Answer: The first letter.\nQ: What is b?\nA: The second letter.",
    ],
)
def test_whatever_stands_around_it(text: str) -> None:
    assert read_reply(text) == ([A, B], "ok")


def test_half_of_the_json_gives_the_whole_pairs_in_it() -> None:
    for cut in range(len(json.dumps([vars(A)])), len(LIST) - 1):
        assert read_reply(LIST[:cut]) == ([A], "ok")
    assert read_reply('{"pairs": ' + LIST[:-20]) == ([A], "ok")


def test_the_last_line_of_a_reply_that_was_cut_is_half_a_line() -> None:
    text = "Q: What is a?\nA: The first letter.\nQ: What is b?\nA: The sec"
    assert read_reply(text, cut=True) == ([A], "ok")
    assert len(read_reply(text)[0]) == 2


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("[]", "empty"),
        ("", "empty"),
        ('```json\n{"pairs": []}\n```', "empty"),
        ("<think>what to ask", "empty"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("As an AI language model, I cannot", "refused"),
        ("The passage is about letters.", "malformed"),
        ('{"question": "What is a?"}', "malformed"),
        ('[{"question": "What is a?", "answer": ["x"]}]', "malformed"),
        ('[{"question": "  ", "answer": "x"}]', "malformed"),
        ("{" * 100_000, "malformed"),
    ],
)
def test_no_pair(text: str, outcome: str) -> None:
    assert read_reply(text) == ([], outcome)


def test_the_endpoint_says_that_it_refused() -> None:
    assert read_reply("Let us talk about something else.", refused=True) == ([], "refused")


@pytest.mark.parametrize(
    "piece", ["{", '{"', '{"a": [', "Q: ", "Q:\n", "[ ", "Q: a\nA: ", "**", '{"question": "', "<think>", " \n"]
)
def test_a_model_that_repeats_itself_is_read_in_no_time(piece: str) -> None:
    began = time.process_time()
    read_reply(piece * (2_000_000 // len(piece)))
    assert time.process_time() - began < 10  # some of them took minutes


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    pairs, outcome = read_reply(text)
    assert (outcome == "ok") == bool(pairs)


def test_half_of_a_surrogate_pair_and_nul_do_not_pass() -> None:
    reply = '[{"question": "What\\ud800 is\\u0000 a?", "answer": "The first letter."}]'
    assert read_reply(reply) == ([A], "ok")
