"""Text metrics and generation."""

from __future__ import annotations

import pytest
import torch

from ftmeta.finetune import tokenize_task
from ftmeta.finetune.evaluate import answers, score_of, text_metrics
from ftmeta.models import LoadedModel
from ftmeta.schema import Task


def test_text_metrics() -> None:
    same = text_metrics(["The red river."], ["red River"])
    assert same == {"exact_match": 1.0, "f1": 1.0, "rouge_l": pytest.approx(0.8)}
    half = text_metrics(["red stone", ""], ["red apple", "seven"])
    assert half == {"exact_match": 0.0, "f1": 0.25, "rouge_l": 0.25}


def test_score() -> None:
    assert score_of(3.0, 4.0) == 0.25
    assert score_of(5.0, 4.0) == 0.0
    assert score_of(float("nan"), 4.0) is None


def test_batched_generation_is_greedy_and_stops_at_the_end_of_the_turn(base: LoadedModel, task: Task) -> None:
    tokenized = tokenize_task(task, base)
    chosen = [3, 0, 7, 5]  # prompts of different lengths, not in order
    made = answers(base.model, tokenized, "test", chosen, base.tokenizer)
    longest = max(len(row) - row.start for split in ("train", "test") for row in tokenized.splits[split])  # type: ignore[index]
    for index, text in zip(chosen, made, strict=True):  # the same, one token at a time without a cache
        row = tokenized.splits["test"][index]
        ids = torch.from_numpy(row.ids[: row.start])[None]
        tokens: list[int] = []
        while len(tokens) < longest:
            with torch.inference_mode():
                token = int(base.model(ids).logits[0, -1].argmax())
            if token == tokenized.end_token:
                break
            tokens.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert text == base.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_a_model_that_ends_its_turn_at_once_answers_nothing(base: LoadedModel, task: Task) -> None:
    tokenized = tokenize_task(task, base)
    head = torch.nn.Linear(32, 384)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[tokenized.end_token] = 1.0
    original = base.model.get_output_embeddings()
    base.model.set_output_embeddings(head)
    try:
        assert answers(base.model, tokenized, "test", [0, 1], base.tokenizer) == ["", ""]
    finally:
        base.model.set_output_embeddings(original)
