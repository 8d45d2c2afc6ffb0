"""Meta-features: the promised keys and ranges, determinism, their page, and that each moves the way it is described."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ftmeta.files import DATA
from ftmeta.metadataset import read
from ftmeta.metafeatures import FEATURES, ZERO_SHOT_FEATURES, markdown_table, metafeatures, zero_shot
from ftmeta.models import fast_tokenizer, resolve
from ftmeta.tasks import bundled_tasks, load_records, load_task

PAGE = Path(__file__).parents[1] / "docs" / "metafeatures.md"


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


def assert_in_range(found: dict[str, float], features: dict[str, str] = FEATURES) -> None:
    assert list(found) == list(features)
    for name, description in features.items():
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


def test_the_base_model_s_own() -> None:
    assert_in_range(zero_shot(5.897566039532546, 0.195850622406639), ZERO_SHOT_FEATURES)
    assert zero_shot(5.897566039532546, 0.25) == {"zero_shot_nll": 5.89756604, "zero_shot_token_accuracy": 0.25}
    assert not set(FEATURES) & set(ZERO_SHOT_FEATURES)


def test_the_page_says_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for features in (FEATURES, ZERO_SHOT_FEATURES):
        assert markdown_table(features) in page, "out of date; put what `python -m ftmeta.metafeatures` prints there"
    assert page.count("\n| `") == len(FEATURES) + len(ZERO_SHOT_FEATURES)


def test_the_bundled_meta_dataset_has_what_the_code_gives_today() -> None:
    meta = read(DATA / "meta" / "spine")
    made_of = dict(zip(meta.runs["task"], meta.runs["task_fingerprint"], strict=True))
    tasks = {name: task for name in made_of if (task := load_task(name)).fingerprint == made_of[name]}
    if not tasks:
        pytest.skip("the bundled sweep is of earlier versions of its tasks; it has to be collected again")
    for (name, base_model), recorded in meta.metafeatures().items():
        if name in tasks:
            for feature, value in metafeatures(tasks[name], fast_tokenizer(resolve(base_model))).items():
                tolerance = 0.02 if feature.endswith("_compression") else 1e-6  # zlib's version moves sizes
                assert recorded[feature] == pytest.approx(value, rel=tolerance), (name, feature)
