"""One task in detail, bundled or not: what `ftmeta tasks show` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftmeta.schema import Task
from ftmeta.tasks.chat import chat_messages
from ftmeta.tasks.lengths import length_statistics

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLES = 5


def describe_task(task: Task, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """name, domain, examples, splits, licence, fingerprint, source, attribution, description, rebuild, details,
    samples (conversations of the training split) and, with a tokenizer, `lengths` in its tokens."""
    card = task.card
    details = {key: value for key, value in card.details.items() if key != "samples"}
    return {
        "name": task.name,
        "domain": card.domain,
        "examples": sum(len(examples) for examples in task.splits.values()),
        "splits": {split: len(examples) for split, examples in task.splits.items()},
        "licence": card.licence,
        "fingerprint": task.fingerprint,
        "source": card.source,
        "attribution": card.attribution,
        "description": card.description,
        "rebuild": card.rebuild,
        "details": details,
        "samples": [chat_messages(example) for example in task.train[:_SAMPLES]],
        "lengths": None if tokenizer is None else length_statistics(task, tokenizer),
    }
