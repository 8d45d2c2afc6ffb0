"""One passage at a time against an endpoint that misbehaves, and the journal."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, FtmetaError, ModelError, UserError
from ftmeta.synthesis.generate import Generated, Journal, Question, generate
from ftmeta.synthesis.language_models import (
    KEY_VARIABLES,
    EndpointModel,
    Failure,
    Limits,
    key_from_environment,
    require_model,
)
from ftmeta.synthesis.prompts import load_prompt
from ftmeta.synthesis.replies import Pair
from ftmeta.synthesis.settings import Synthesis
from tests.synthesis.conftest import lamps
from tests.synthesis.endpoint import Script, endpoint

PROMPT = load_prompt("question-answer")
QUESTION = Question("0" * 16, lamps(1, 2), 4)
LIMITS = Limits(reply_tokens=600, timeout_s=0.5, retries=1)


def ask(script: Script | str, limits: Limits = LIMITS) -> tuple[Generated | Failure, int]:
    """What came of it, and how many requests that took."""
    with endpoint(script) as server:

        async def once() -> Generated | Failure:
            model = EndpointModel(server.url, "m", "secret", limits)
            try:
                return await generate(model, "k", PROMPT, QUESTION, 0.0)
            finally:
                await model.close()

        generated = asyncio.run(once())
        assert server.keys == {"Bearer secret"}
        assert all(request["model"] == "m" for request in server.requests)
        return generated, len(server.requests)


def replied(script: Script | str, limits: Limits = LIMITS) -> tuple[Generated, int]:
    generated, requests = ask(script, limits)
    assert isinstance(generated, Generated)
    return generated, requests


def unanswered(script: Script | str, limits: Limits = LIMITS) -> tuple[Failure, int]:
    failure, requests = ask(script, limits)
    assert isinstance(failure, Failure)
    return failure, requests


def test_pairs_and_tokens() -> None:
    generated, requests = replied("pairs")
    assert generated.outcome == "ok"
    assert generated.pairs[0] == Pair("When was the lamp of Bredon Pier 10 lit?", "In 1807")
    assert (len(generated.pairs), generated.prompt_tokens, generated.completion_tokens, requests) == (4, 100, 50, 1)


def test_half_of_a_reply_is_used() -> None:
    generated, _ = replied("half")
    assert generated.outcome == "ok"
    assert 1 <= len(generated.pairs) < 4


@pytest.mark.parametrize(
    ("behaviour", "outcome", "requests"),
    [
        ("empty", "empty", 1),
        ("refusal", "refused", 1),
        ("filtered", "refused", 1),
        ("chatter", "malformed", 2),  # asked again, at another temperature
        ("too long", "failed", 1),
        ("no choices", "failed", 1),
        ("html", "failed", 1),
        ("half body", "failed", 1),
        ("parts", "failed", 1),
        ("stream", "failed", 1),
        ("null", "failed", 1),
        ("error in a reply", "failed", 1),
        ("thinks until it is cut", "failed", 1),
    ],
)
def test_replies_without_pairs(behaviour: str, outcome: str, requests: int) -> None:
    generated, made = replied(behaviour)
    assert (generated.outcome, made, generated.pairs) == (outcome, requests, ())
    assert (generated.error is not None) == (outcome == "failed")


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("error in a reply", 'is no chat completion: {"error":{"message":"model overloaded","code":503}}'),
        ("html", "is no chat completion: '<html>a proxy says hello</html>'"),
        ("too long", "maximum context length exceeded"),
        ("thinks until it is cut", "cut at 50 tokens before it held a pair"),
        ("repeats the key", "no luck with Bearer [key]"),
    ],
)
def test_the_reason_of_a_failure(behaviour: str, said: str) -> None:
    generated, _ = replied(behaviour)
    assert generated.error is not None
    assert said in generated.error
    assert "secret" not in generated.error


def test_one_reply_does_not_fill_the_dataset() -> None:
    generated, _ = replied("everything")
    assert len(generated.pairs) == 20


@pytest.mark.parametrize("behaviour", ["429", "500", "503", "silence", "hang up"])
def test_what_passes_is_tried_again(behaviour: str) -> None:
    generated, requests = replied(lambda number, prompt: behaviour if number == 0 else "pairs")
    assert (generated.outcome, requests) == ("ok", 2)


@pytest.mark.parametrize(
    ("behaviour", "because_of", "requests"),
    [
        ("429", "load", 2),
        ("429 for an hour", "load", 1),
        ("500", "endpoint", 2),
        ("silence", "endpoint", 2),
        ("hang up", "endpoint", 2),
        ("other protocol", "endpoint", 2),
    ],
)
def test_what_does_not_pass_is_said(behaviour: str, because_of: str, requests: int) -> None:
    failure, made = unanswered(behaviour)
    assert (failure.because_of, made) == (because_of, requests)
    assert failure.reason


def test_redirects_that_go_round() -> None:
    failure, _ = unanswered("redirect", Limits(reply_tokens=600, timeout_s=0.5, retries=0))
    assert "redirects" in failure.reason


def test_an_endpoint_that_drips() -> None:
    failure, _ = unanswered("drip", Limits(reply_tokens=600, timeout_s=0.5, retries=0, whole_s=0.3))
    assert failure == Failure("no whole reply within 0.3 s", "endpoint")


def test_what_came_first_counts_where_the_second_attempt_is_not_answered() -> None:
    generated, requests = replied(lambda number, prompt: "500" if number else "chatter")
    assert (generated.outcome, generated.prompt_tokens, requests) == ("malformed", 100, 3)


def test_tokens_are_guessed_where_the_endpoint_does_not_count() -> None:
    generated, _ = replied("no usage")
    assert generated.prompt_tokens > 100
    assert generated.completion_tokens > 50
    assert replied("odd usage")[0].completion_tokens == generated.completion_tokens


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("401", "refuses the key.*FTMETA_LLM_KEY"),
        ("402", "refuses every request .*error 402"),
        ("404", "does not know the model 'm'.*/v1"),
    ],
)
def test_what_no_repetition_mends(behaviour: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        ask(behaviour)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "'localhost:8000' is no address; give it as http://"),
        ("http://", "is no address"),
        ("http://host:80:81/v1", "is no address"),
        ("http://my host/v1", "is no address"),
        ("http://[::1/v1", "is no address"),
        ("http://me:secret@host/v1", "holds a user or password"),
    ],
)
def test_what_cannot_be_an_endpoint_is_said_at_once(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        require_model(Synthesis(documents="x", model="m", llm_url=url))
    assert "secret" not in str(caught.value)


def test_what_cannot_be_a_model_is_said_at_once() -> None:
    with pytest.raises(ModelError, match="unknown base model 'nope'"):
        require_model(Synthesis(documents="x", model="nope"))


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("OPENAI_API_KEY", "b")
    assert key_from_environment() == "b"
    monkeypatch.setenv("FTMETA_LLM_KEY", " a\n")  # as files of secrets end
    assert key_from_environment() == "a"
    monkeypatch.setenv("FTMETA_LLM_KEY", "secret\nkey")
    with pytest.raises(ConfigError, match=r"\$FTMETA_LLM_KEY holds characters that no key has") as caught:
        key_from_environment()
    assert "secret" not in str(caught.value)


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


def test_lines_that_are_none_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "generated.jsonl"
    with Journal(path) as journal:
        journal.put(DONE)
    odd = b'[]\nnull\n\xff\xfe\n{"key": "b"}\n'
    wrong = path.read_bytes().replace(b'"a"', b'"c"').replace(b"10", b'"many"')
    path.write_bytes(odd + wrong + path.read_bytes())
    with Journal(path) as journal:
        assert journal.read() == {"a": DONE}


def test_a_full_disk_keeps_what_is_there_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "generated.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        journal.put(DONE)
        one = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (one + one // 2, before[1]))
        try:
            with pytest.raises(FtmetaError, match=r"cannot be written \(File too large\).*make room and run"):
                journal.put(replace(DONE, key="b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.stat().st_size == one + one // 2  # half a line
        journal.put(replace(DONE, key="c"))
        assert set(journal.read()) == {"a", "c"}


def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "generated.jsonl").mkdir(parents=True)
    for folder in ("file", "folder"):
        with pytest.raises(UserError, match="cannot be written"), Journal(tmp_path / folder / "generated.jsonl"):
            pass


def test_two_at_once(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "generated.jsonl"),
        pytest.raises(UserError, match="another process is writing"),
        Journal(tmp_path / "generated.jsonl"),
    ):
        pass
