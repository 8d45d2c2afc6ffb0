"""Examples as conversations, the form that a tokenizer's chat template takes."""

from __future__ import annotations

from ftmeta.schema import Example


def chat_messages(example: Example) -> list[dict[str, str]]:
    """The conversation with the answer last: [{"role": .., "content": ..}, ..]."""
    turns = [{"role": message.role, "content": message.content} for message in example.context]
    return [*turns, {"role": "assistant", "content": example.completion}]
