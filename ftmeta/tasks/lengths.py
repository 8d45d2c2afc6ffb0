"""Length statistics of a task in tokens of a base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftmeta.schema import Example, Task

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def length_statistics(task: Task, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """For each split: `examples`, and `prompt_tokens` and `completion_tokens` with min, p10, p50, p90, p99, max (whole
    tokens of a real example), mean and total. Prompts are all messages before the answer; chat tokens do not count."""
    return {
        split: {
            "examples": len(examples),
            "prompt_tokens": summarise(prompt_tokens(examples, tokenizer)),
            "completion_tokens": summarise(completion_tokens(examples, tokenizer)),
        }
        for split, examples in task.splits.items()
    }


def prompt_tokens(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    return encode(["\n".join(message.content for message in one.context) for one in examples], tokenizer)


def completion_tokens(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    return encode([one.completion for one in examples], tokenizer)


def encode(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    return [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def summarise(tokens: list[list[int]]) -> dict[str, float | int]:
    lengths = list(map(len, tokens))
    return quantiles(lengths) | {"mean": round(sum(lengths) / len(lengths), 2), "total": sum(lengths)}


def quantiles(values: list[int], shares: Mapping[str, float] = QUANTILES) -> dict[str, int]:
    """Of at least one value; each is one of them."""
    ordered = sorted(values)
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}
