"""Meta-features: the promised keys and ranges, determinism, and that each moves the way its description says."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ftmeta.metafeatures import FEATURES, metafeatures
from ftmeta.tasks import bundled_tasks, load_records, load_task


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [example.completion for example in load_task("world-facts").train]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


TOKENIZER = train_tokenizer()


def features_of(pairs: list[tuple[str, str]]) -> dict[str, float]:
    return metafeatures(load_records([{"question": q, "answer": a} for q, a in pairs], "t"), TOKENIZER)


def assert_in_range(found: dict[str, float]) -> None:
    assert list(found) == list(FEATURES)
    for name, description in FEATURES.items():
        opening, low, high, closing = re.match(r"([\[(])(\S+), (\S+)([\])]): ", description).groups()  # type: ignore[union-attr]
        value = found[name]
        assert math.isfinite(value)
        assert value >= float(low) if opening == "[" else value > float(low), name
        assert value <= float(high) if closing == "]" else value < float(high), name


@pytest.mark.parametrize("name", bundled_tasks())
def test_bundled_tasks(name: str) -> None:
    found = metafeatures(load_task(name), TOKENIZER)
    assert_in_range(found)
    assert found == metafeatures(load_task(name), TOKENIZER)


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=20, max_size=30, unique_by=lambda pair: pair[0].strip().casefold()))
def test_any_task_has_all_features_in_range(pairs: list[tuple[str, str]]) -> None:
    numbered = [(f"{i} {question}", answer) for i, (question, answer) in enumerate(pairs)]
    assert_in_range(features_of(numbered))


def test_values_by_hand() -> None:
    found = features_of([(f"Is item{i} red or blue", "Red" if i % 2 else "red") for i in range(100)])
    assert found["log10_train_examples"] == pytest.approx(math.log10(80))
    assert found["distinct_answers"] == 1 / 80
    assert found["top_answer_share"] == found["answer_in_prompt"] == 1
    assert found["answer_entropy"] == found["validation_answers_unseen"] == found["answer_digits"] == 0
    assert found["common_prompt_starts"] == 10 / 80  # "is itemN red": ten of eighty starts
    assert found["validation_prompt_words_unseen"] == pytest.approx(1 / 5)  # itemN
    assert found["messages_mean"] == 1


def test_answers_move_the_features() -> None:
    facts = features_of([(f"question {i}", f"answer number {i * 7919 % 1000}") for i in range(100)])
    classes = features_of([(f"question {i}", "yes" if i % 3 else "no") for i in range(100)])
    assert facts["answer_entropy"] > 0.9 > 0.2 > classes["answer_entropy"]
    assert facts["answer_tokens_mean"] > classes["answer_tokens_mean"]
    assert facts["answer_digits"] > 0 == classes["answer_digits"]
    assert facts["validation_answers_unseen"] == 1


def test_duplicates_count() -> None:
    pairs = [(f"question {i % 50}", f"answer {i}") for i in range(100)]
    assert features_of(pairs)["duplicate_prompts"] > 0.3


def test_the_test_split_does_not_count() -> None:
    task = load_task("elements")
    other = replace(task, test=task.test[:5])
    assert metafeatures(task, TOKENIZER) == metafeatures(other, TOKENIZER)
