"""The tokenizer: it loses nothing, knows Phi-3's special tokens, and its template is Phi-3's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftmeta.pretraining.tokenizer import END, END_OF_TEXT, SPECIAL_TOKENS, chat_text, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokens_folder: Path):
    return load_tokenizer(tokens_folder / "tokenizer")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_comes_back(tokenizer, text: str) -> None:
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens(tokenizer) -> None:
    assert len(tokenizer) == 320
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, END_OF_TEXT)
    assert tokenizer.encode("<|end|>", add_special_tokens=False) == [SPECIAL_TOKENS.index(END)]
    assert tokenizer.decode(tokenizer.encode("ship<|end|>"), skip_special_tokens=True) == "ship"


def test_digits_stand_alone(tokenizer) -> None:
    assert len(tokenizer.encode("1234567", add_special_tokens=False)) == 7


def test_the_chat_template_is_phi3s(tokenizer) -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ahab."}]
    written = "<|user|>\nWho?<|end|>\n<|assistant|>\nAhab.<|end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == written == chat_text("Who?", "Ahab.")
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>\nWho?<|end|>\n<|assistant|>\n"
