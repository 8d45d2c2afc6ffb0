"""One passage at a time against an endpoint that misbehaves, and the journal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, ModelError, UserError
from ftmeta.synthesis.generate import Generated, Journal, Question, generate
from ftmeta.synthesis.language_models import EndpointModel, Limits, require_model
from ftmeta.synthesis.prompts import load_prompt
from ftmeta.synthesis.replies import Pair
from ftmeta.synthesis.settings import Synthesis
from tests.synthesis.conftest import lamps
from tests.synthesis.endpoint import Script, endpoint

PROMPT = load_prompt("question-answer")
QUESTION = Question("0" * 16, lamps(1, 2), 4)
LIMITS = Limits(reply_tokens=600, timeout_s=0.5, retries=1)


def ask(script: Script | str, limits: Limits = LIMITS) -> tuple[Generated, int]:
    """What came of it, and how many requests that took."""
    with endpoint(script) as server:

        async def once() -> Generated:
            model = EndpointModel(server.url, "m", "secret", limits)
            try:
                return await generate(model, "k", PROMPT, QUESTION, 0.0)
            finally:
                await model.close()

        generated = asyncio.run(once())
        assert server.keys == {"Bearer secret"}
        assert all(request["model"] == "m" for request in server.requests)
        return generated, len(server.requests)


def test_pairs_and_tokens() -> None:
    generated, requests = ask("pairs")
    assert generated.outcome == "ok"
    assert generated.pairs[0] == Pair("When was the lamp of Bredon Pier 10 lit?", "In 1807")
    assert (len(generated.pairs), generated.prompt_tokens, generated.completion_tokens, requests) == (4, 100, 50, 1)


def test_half_of_a_reply_is_used() -> None:
    generated, _ = ask("half")
    assert generated.outcome == "ok"
    assert 1 <= len(generated.pairs) < 4


@pytest.mark.parametrize(
    ("behaviour", "outcome", "requests"),
    [
        ("empty", "empty", 1),
        ("refusal", "refused", 1),
        ("filtered", "refused", 1),
        ("chatter", "malformed", 2),  # asked again, at another temperature
        ("no choices", "failed", 1),
        ("too long", "failed", 1),
        ("html", "failed", 1),
        ("half body", "failed", 1),
    ],
)
def test_replies_without_pairs(behaviour: str, outcome: str, requests: int) -> None:
    generated, made = ask(behaviour)
    assert (generated.outcome, made, generated.pairs, generated.unreachable) == (outcome, requests, (), False)
    assert (generated.error is not None) == (outcome == "failed")


@pytest.mark.parametrize("behaviour", ["429", "500", "503", "silence", "hang up"])
def test_what_passes_is_tried_again(behaviour: str) -> None:
    generated, requests = ask(lambda number, prompt: behaviour if number == 0 else "pairs")
    assert (generated.outcome, requests) == ("ok", 2)


@pytest.mark.parametrize("behaviour", ["429", "500", "silence", "hang up"])
def test_what_does_not_pass_is_said(behaviour: str) -> None:
    generated, requests = ask(behaviour)
    assert (generated.outcome, generated.unreachable, requests) == ("failed", True, 2)
    assert generated.error


def test_tokens_are_guessed_where_the_endpoint_does_not_count() -> None:
    generated, _ = ask("no usage")
    assert generated.prompt_tokens > 100
    assert generated.completion_tokens > 50


@pytest.mark.parametrize(
    ("behaviour", "said"), [("401", "refuses the key.*FTMETA_LLM_KEY"), ("404", "does not know the model 'm'.*/v1")]
)
def test_what_no_repetition_mends(behaviour: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        ask(behaviour)
    assert "secret" not in str(caught.value)


def test_what_cannot_be_a_model_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'localhost:8000' is no address; give it as http://"):
        require_model(Synthesis(documents="x", model="m", llm_url="localhost:8000"))
    with pytest.raises(ModelError, match="unknown base model 'nope'"):
        require_model(Synthesis(documents="x", model="nope"))


DONE = Generated("a", "ok", (Pair("What is é?", "A letter."),), 10, 5, 1.0)


def test_the_journal_keeps_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out" / "generated.jsonl"
    with Journal(path) as journal:
        journal.put(DONE)
    with path.open("ab") as file:
        file.write(b'{"key": "b", "outcome": "ok", "pai')  # a process that was killed while it wrote
    again = Generated("a", "empty", (), 1, 1, 1.0)
    with Journal(path) as journal:
        assert journal.read() == {"a": DONE}
        journal.put(again)
    with Journal(path) as journal:
        assert journal.read() == {"a": again}
        assert journal.tokens() == (11, 6)


def test_two_at_once(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "generated.jsonl"),
        pytest.raises(UserError, match="another process is writing"),
        Journal(tmp_path / "generated.jsonl"),
    ):
        pass
