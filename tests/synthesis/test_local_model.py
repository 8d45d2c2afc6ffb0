"""Language models in this process: the bundled one, and smollm2-135m where it has been fetched."""

from __future__ import annotations

import asyncio

import pytest

from ftmeta.errors import ModelError
from ftmeta.models import resolve
from ftmeta.synthesis.generate import Generated, Question, generate
from ftmeta.synthesis.language_models import Failure, Limits, Reply, TransformersModel
from ftmeta.synthesis.prompts import load_prompt
from tests.synthesis.conftest import lamps

PROMPT = load_prompt("question-answer-lines")


def ask_all(model: TransformersModel, contents: list[str], temperature: float = 0.0) -> list[Reply | Failure]:
    async def together() -> list[Reply | Failure]:
        messages = ([{"role": "user", "content": content}] for content in contents)
        return await asyncio.gather(*(model.ask(one, temperature) for one in messages))

    return asyncio.run(together())


def test_what_is_asked_together_is_answered_as_if_alone() -> None:
    model = TransformersModel("phi3-micro", "cpu", Limits(reply_tokens=12), rows=3)
    contents = [
        "What is a whale?",
        "Who wrote Moby Dick, and what is it about?",
        "Name a colour.",
        "Why?",
        "Where is it?",
    ]
    together = ask_all(model, contents)
    alone = [ask_all(model, [content])[0] for content in contents]
    assert together == alone
    for reply in together:
        assert isinstance(reply, Reply)
        assert reply.prompt_tokens > 3
        assert 1 <= reply.completion_tokens <= 12


def test_a_prompt_that_does_not_fit_is_a_failure_of_its_own() -> None:
    model = TransformersModel("phi3-micro", "cpu", Limits(reply_tokens=12))
    short, failure = ask_all(model, ["Name a colour.", "word " * 2000])
    assert short == ask_all(model, ["Name a colour."])[0]
    assert isinstance(failure, Failure)
    assert "context has room for 500 before a reply of 12: choose a model with a longer context" in failure.reason
    assert failure.because_of == "passage"


def test_smollm2_writes_pairs() -> None:
    try:
        resolve("smollm2-135m")
    except ModelError as error:
        pytest.skip(f"smollm2-135m is missing: {error}")
    model = TransformersModel("smollm2-135m", "cpu", Limits(reply_tokens=100))
    questions = [Question(str(i), lamps(i, 1), 2) for i in range(2)]

    async def both() -> list[Generated | Failure]:
        return await asyncio.gather(*(generate(model, q.passage_key, PROMPT, q, 0.0) for q in questions))

    made = [one for one in asyncio.run(both()) if isinstance(one, Generated)]
    assert [one.key for one in made] == ["0", "1"]
    assert all(one.outcome == "ok" and one.prompt_tokens > 80 for one in made)
    assert any("lamp" in pair.question for one in made for pair in one.pairs)
