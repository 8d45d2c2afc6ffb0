"""Answers that were given before, to be given again: the same selector answers the same question alike.

Only questions without rows are remembered, because rows are not kept; by the digest of the request's route and body,
not by what they say. The number of answers is bounded, and the one that was not asked for the longest goes first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

MAX_ANSWERS = 1_000  # of about 10 kB each
_MAX_BYTES = 100_000  # of one question, and of its answer


@dataclass(frozen=True)
class Answer:
    json: bytes  # an object, without the request's id
    score: float | None  # what metrics count of it
    warnings: tuple[str, ...]


class Remembered:
    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, route: str, body: bytes) -> Answer | None:
        if len(body) > _MAX_BYTES:
            return None
        key = _digest(route, body)
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
            return found

    def put(self, route: str, body: bytes, answer: Answer) -> None:
        if max(len(body), len(answer.json)) > _MAX_BYTES:
            return
        with self._lock:
            self._answers[_digest(route, body)] = answer
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)


def _digest(route: str, body: bytes) -> bytes:
    return hashlib.blake2b(route.encode() + b"\n" + body, digest_size=16).digest()
