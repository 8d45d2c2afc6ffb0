"""How long the rows of a dataset are, in tokens of a base model: what memory and time depend on.

In: a task, the base model's name, where the loss is taken. Out: `Lengths`. Tokens are counted without torch, and what
the chat template adds is measured on one short conversation. The tokenizer of a base model that is not on this machine
is replaced by phi3-micro's, whose small vocabulary makes more tokens, so the answer is on the safe side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftmeta.errors import DataError
from ftmeta.files import DATA
from ftmeta.schema import Task
from ftmeta.tasks.lengths import completion_tokens, prompt_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_A_TURN = 4  # tokens around each further message: its role, its end, line breaks
_END = 1  # the token that ends the answer, which is learned too


@dataclass(frozen=True)
class Lengths:
    """Of the training rows, cut to the base model's context."""

    examples: int
    longest: int
    mean: float
    labels_mean: float
    label_share: float  # the largest share of a row that is labels
    cut: int = 0  # rows that were longer than the context


@dataclass(frozen=True)
class Counter:
    """A tokenizer, and how many tokens its chat template puts around a question and its answer."""

    tokenizer: Tokenizer
    chat_tokens: int
    is_own: bool  # the base model's own, not phi3-micro's in its place


def lengths_of(task: Task, counter: Counter, context_length: int, *, full: bool) -> Lengths:
    """Counts the training split. `full`: every token but the first is a label, not the answer alone."""
    if not task.train:
        raise DataError(f"task '{task.name}' has no training examples")
    rows, labels, cut = [], [], 0
    prompts = prompt_tokens(task.train, counter.tokenizer)
    completions = completion_tokens(task.train, counter.tokenizer)
    for example, prompt, completion in zip(task.train, prompts, completions, strict=True):
        around = counter.chat_tokens + _A_TURN * (len(example.context) - 1)
        whole = len(prompt) + len(completion) + around
        row = min(whole, context_length)
        cut += whole > context_length
        rows.append(row)
        labels.append(row - 1 if full else min(len(completion) + _END, row - 1))
    return Lengths(
        examples=len(rows),
        longest=max(rows),
        mean=sum(rows) / len(rows),
        labels_mean=sum(labels) / len(labels),
        label_share=max(label / row for label, row in zip(labels, rows, strict=True)),
        cut=cut,
    )


def counter_of(base_model: str) -> Counter:
    """The base model's tokenizer, or phi3-micro's where it is not on this machine."""
    from tokenizers import Tokenizer

    from ftmeta.models import local_folder

    folder = local_folder(base_model)
    own = folder is not None and (folder / "tokenizer.json").is_file()
    place = folder if own and folder is not None else DATA / "models" / "phi3-micro"
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    return Counter(tokenizer, _chat_tokens(place, tokenizer), own)


def _chat_tokens(folder: Path, tokenizer: Tokenizer) -> int:
    """The tokens of a conversation that are in neither of its messages, up to the end of the answer."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    file = folder / "chat_template.jinja"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    said = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}]
    try:
        if file.is_file():
            template = file.read_text(encoding="utf-8")
        else:
            template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
        text = environment.from_string(template).render(messages=said, bos_token="", eos_token="")
    except (OSError, ValueError, KeyError, TypeError, TemplateError):  # none, or one that asks for more than messages
        return 2 * _A_TURN - 1
    head, _, tail = text.rpartition("because")
    ending = len(tokenizer.encode(tail, add_special_tokens=False).ids[:_END])

    def count(part: str) -> int:
        return len(tokenizer.encode(part, add_special_tokens=False).ids)

    return count(head) - count("why") + ending
