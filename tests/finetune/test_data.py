"""Tokens, labels, truncation and the composition of batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmeta.finetune import tokenize_task
from ftmeta.finetune.data import (
    Tokens,
    _fit,
    collate,
    evaluation_batches,
    fixed_subset,
    micro_batches,
    training_batches,
)
from ftmeta.models import LoadedModel
from ftmeta.schema import Example, Message, Task


def test_labels_are_the_completion_and_the_end_of_the_turn(base: LoadedModel, task: Task) -> None:
    tokenized = tokenize_task(task, base)
    assert tokenized.end_token == base.tokenizer.convert_tokens_to_ids("<|end|>")
    for split, examples in task.splits.items():
        for tokens, example in zip(tokenized.splits[split], examples, strict=True):
            prompt, labels = tokens.ids[: tokens.start], tokens.ids[tokens.start :]
            assert base.tokenizer.decode(prompt) == f"<|user|>\n{example.prompt}<|end|>\n<|assistant|>\n"
            assert base.tokenizer.decode(labels) == example.completion + "<|end|>"


def test_collated_positions_predict_the_labels(base: LoadedModel, task: Task) -> None:
    rows = tokenize_task(task, base).splits["train"][:7]
    batch = collate(rows, 0, torch.device("cpu"))
    flat = batch.ids_BL.flatten()
    assert torch.equal(flat[batch.select_S + 1], batch.targets_S)
    packed = batch.ids_BL[batch.row_N, batch.position_N]
    assert packed.tolist() == np.concatenate([row.ids for row in rows]).tolist()
    assert torch.equal(packed[batch.packed_S + 1], batch.targets_S)
    assert batch.targets_S.tolist() == np.concatenate([row.ids[row.start :] for row in rows]).tolist()
    assert batch.tokens == sum(map(len, rows))
    full = collate(rows, 0, torch.device("cpu"), full=True)
    assert len(full.targets_S) == full.tokens - len(rows)  # every token but the first


def test_truncation_takes_the_prompt_s_beginning_first() -> None:
    ids = np.arange(20)
    cut = _fit(Tokens(ids, 15), 10)  # 15 of prompt, 5 of completion: the prompt loses 10
    assert (cut.ids.tolist(), cut.start) == ([10, 11, 12, 13, 14, 15, 16, 17, 18, 19], 5)
    cut = _fit(Tokens(ids, 8), 10)  # 8 and 12: half of the context to the prompt's end, half to the completion's start
    assert (cut.ids.tolist(), cut.start) == ([3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 5)
    cut = _fit(Tokens(ids, 2), 10)
    assert (cut.ids.tolist(), cut.start) == (list(range(10)), 2)
    assert _fit(Tokens(ids, 15), 20).start == 15


def test_examples_that_are_cut_are_counted(base: LoadedModel, task: Task) -> None:
    long = Example((Message("user", "what is red? " * 300),), "red")
    tokenized = tokenize_task(replace(task, train=(*task.train, long)), base)
    assert tokenized.cut == {"train": 1, "validation": 0, "test": 0}
    assert len(tokenized.splits["train"][-1]) == base.info.shape.context_length


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(1, 90),
    batch_size=st.sampled_from([1, 4, 16]),
    epochs=st.floats(0.2, 3.5),
    seed=st.integers(0, 5),
)
def test_training_batches(size: int, batch_size: int, epochs: float, seed: int) -> None:
    examples = max(1, int(epochs * size))
    batches = training_batches(size, batch_size, examples, seed)
    assert len(batches) == -(-examples // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    counts = np.bincount(np.concatenate(batches), minlength=size)
    assert counts.sum() == examples
    assert counts.max() - counts.min() <= 1  # every example is seen equally often
    again = training_batches(size, batch_size, examples, seed)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_batch_is_a_random_draw() -> None:
    """Batches of like length cost score: what is alike in length is alike in content."""
    lengths = np.random.default_rng(0).integers(10, 100, 1000)
    batches = training_batches(len(lengths), 16, 3000, 0)
    within = np.mean([lengths[batch].std() for batch in batches])
    assert within == pytest.approx(lengths.std(), rel=0.05)


def test_evaluation_batches_keep_every_row_once_and_the_limit() -> None:
    rows = [Tokens(np.arange(length), 1) for length in (5, 30, 7, 7, 12, 2, 100)]
    groups = list(evaluation_batches(rows, 40))
    assert sorted(len(row) for group in groups for row in group) == sorted(map(len, rows))
    assert all(len(group) * max(map(len, group)) <= 40 or len(group) == 1 for group in groups)


def test_fixed_subset_is_fixed() -> None:
    assert fixed_subset(5, None).tolist() == fixed_subset(5, 9).tolist() == [0, 1, 2, 3, 4]
    subset = fixed_subset(1000, 50)
    assert len(set(subset.tolist())) == 50
    assert subset.tolist() == fixed_subset(1000, 50).tolist() == sorted(subset.tolist())


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), limit=st.integers(1, 100), ranks=st.integers(1, 5)
)
def test_micro_batches_share_out_every_row_once(lengths: list[int], limit: int, ranks: int) -> None:
    rows = [Tokens(np.arange(length), 0) for length in lengths]
    passes = micro_batches(rows, limit, ranks)
    assert all(len(shares) == ranks for shares in passes)
    assert sorted(id(row) for shares in passes for share in shares for row in share) == sorted(map(id, rows))
    held = [sum(len(shares[rank]) for shares in passes) for rank in range(ranks)]
    assert max(held) - min(held) <= 1
    for shares in passes:
        assert any(shares), "no pass for nothing"
        assert all(len(share) <= 1 or len(share) * max(map(len, share)) <= limit for share in shares)
    if ranks == 1:
        assert [shares[0] for shares in passes] == list(evaluation_batches(rows, limit))
