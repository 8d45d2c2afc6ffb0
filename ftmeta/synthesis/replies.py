"""What a language model wrote -> question-answer pairs.

Models are asked for a JSON list and send code fences, remarks, half of it, an object around it, or lines `Q: ..` and
`A: ..`. Every whole pair in a reply is taken, whatever stands around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Outcome = Literal[
    "ok",  # at least one pair
    "empty",  # an empty list, or nothing at all: the model found nothing to ask
    "malformed",  # text without a pair in it
    "refused",  # the model, or a filter before it, declined
    "failed",  # no reply: time-outs, errors of the endpoint
]

# No prompt asks for that much; an endpoint gone wild does not hold up the others.
_MAX_CHARACTERS = 1 << 16
_MAX_THOUGHTS = 1 << 20  # with the thoughts before it
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_EMPTY_LIST = re.compile(r"\[\s*\]")
_REFUSAL = re.compile(
    r"^\W*(?:I(?:['’]m| am)? (?:sorry|afraid|cannot|can['’]?t|unable|not able|won['’]t)|sorry\b|I must decline"
    r"|as an AI\b)",
    re.IGNORECASE,
)
_LINES = re.compile(
    r"^\W{0,4}(?:\d+[.)]\s*)?(?:(?:\*\*)?Q(?:uestion)?\s*\d*\s*[:.](?:\*\*)?[ \t]*)++(?P<question>\S[^\n]*)\n+"
    r"\W{0,4}(?:(?:\*\*)?A(?:nswer)?\s*\d*\s*[:.](?:\*\*)?[ \t]*)++(?P<answer>\S[^\n]*)",
    re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str


def read_reply(text: str, *, refused: bool = False, cut: bool = False) -> tuple[list[Pair], Outcome]:
    """The pairs of a reply in their order, and what kind of reply it is.

    `refused`: the endpoint says so. `cut`: the reply reached its limit of tokens, so that a last line is half a line.
    """
    text = _THOUGHTS.sub("", text[:_MAX_THOUGHTS])[:_MAX_CHARACTERS].strip()
    pairs = list(_json_pairs(text)) or [
        Pair(_clean(found["question"]), _clean(found["answer"]))
        for found in _LINES.finditer(text)
        if not (cut and found.end() == len(text))
    ]
    pairs = [pair for pair in dict.fromkeys(pairs) if pair.question and pair.answer]
    if pairs:
        return pairs, "ok"
    if refused or _REFUSAL.match(text):
        return [], "refused"
    return [], "empty" if not text or _EMPTY_LIST.search(text) else "malformed"


def _json_pairs(text: str) -> Iterator[Pair]:
    """From every whole JSON object; where an outer one is cut off, from the whole ones inside it."""
    decoder, at = json.JSONDecoder(strict=False), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        except RecursionError:
            return
        else:
            yield from _pairs_in(value)
        at = text.find("{", end)


def _pairs_in(value: object) -> Iterator[Pair]:
    if isinstance(value, list):
        for item in value:
            yield from _pairs_in(item)
    elif isinstance(value, dict):
        question, answer = value.get("question"), value.get("answer")
        if isinstance(question, str) and isinstance(answer, (str, int, float)) and not isinstance(answer, bool):
            yield Pair(_clean(question), _clean(str(answer)))
        else:
            for item in value.values():
                yield from _pairs_in(item)


def _clean(text: str) -> str:
    """One line, without the half of a surrogate pair that JSON escapes can hold, or NUL."""
    whole = text.encode("utf-8", errors="ignore").decode("utf-8").replace("\0", "")
    return " ".join(whole.split())
