"""One passage -> question-answer pairs of a language model, with what it took; and the journal that keeps them.

The journal is the truth: a line a passage, written as soon as the passage is done. Whatever ends the process, the next
one reads it and asks for the rest only. A line counts for its passage, prompt, model and number of pairs, so another
model or prompt asks anew and leaves the old lines alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter, ValidationError

from ftmeta.errors import FtmetaError, UserError
from ftmeta.files import fingerprint
from ftmeta.synthesis.language_models import Failure, LanguageModel
from ftmeta.synthesis.prompts import Prompt
from ftmeta.synthesis.replies import Outcome, Pair, read_reply

ATTEMPTS = 2  # at a reply that holds no pair; the second at a temperature that gives another one
_AGAIN_TEMPERATURE = 0.7
_MOST_PAIRS = 5  # times what was asked for: some more are welcome, but one passage gone wild is not to fill the dataset


@dataclass(frozen=True)
class Question:
    """What is asked of a model about one passage. `key` names it in the journal."""

    passage_key: str
    text: str
    pairs: int

    def key(self, model: str, prompt: Prompt) -> str:
        return fingerprint([self.passage_key, model, prompt.fingerprint, self.pairs])


@dataclass(frozen=True)
class Generated:
    """What came of it. Tokens are of all attempts, those that gave nothing among them."""

    key: str
    outcome: Outcome
    pairs: tuple[Pair, ...]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error: str | None = None  # of a failed one


_LINE = TypeAdapter(Generated)


async def generate(
    model: LanguageModel, key: str, prompt: Prompt, question: Question, temperature: float
) -> Generated | Failure:
    """Asks once, and once more where the reply cannot be read. A Failure is one of the endpoint, which says nothing of
    the passage. Raises ConfigError for what no repetition mends."""
    began, prompt_tokens, completion_tokens = time.monotonic(), 0, 0
    outcome: Outcome = "malformed"
    pairs: list[Pair] = []
    error: str | None = None
    messages = prompt.messages(question.text, question.pairs)
    for attempt in range(ATTEMPTS):
        reply = await model.ask(messages, max(temperature, _AGAIN_TEMPERATURE) if attempt else temperature)
        if isinstance(reply, Failure):
            if attempt:
                break  # what came of the first attempt counts
            if reply.because_of != "passage":
                return reply
            outcome, error = "failed", reply.reason
            break
        prompt_tokens += reply.prompt_tokens
        completion_tokens += reply.completion_tokens
        pairs, outcome = read_reply(reply.text, refused=reply.refused, cut=reply.cut)
        if reply.cut and not pairs:  # as models that think first: they would think as long again
            outcome, error = "failed", f"the reply was cut at {reply.completion_tokens} tokens before it held a pair"
        if outcome != "malformed":
            break
    pairs = pairs[: question.pairs * _MOST_PAIRS]
    return Generated(key, outcome, tuple(pairs), prompt_tokens, completion_tokens, time.monotonic() - began, error)


class Journal:
    """`with Journal(path) as journal`: at most one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)  # what did not fit must not be written again at the end
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); choose another place") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise UserError(
                    f"another process is writing to {self.path.parent}; wait for it, or give another --out"
                ) from None
            raise UserError(
                f"{self.path} cannot be locked ({error.strerror}); give an --out on a file system that can"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, generated: Generated) -> None:
        """Raises FtmetaError where the disk does not take it; what is written before stays whole."""
        line = json.dumps(asdict(generated), ensure_ascii=False).encode("utf-8") + b"\n"
        try:
            self._end_torn_line()
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise FtmetaError(
                f"{self.path} cannot be written ({error.strerror}); what was generated before is kept: make room and "
                "run the same command again"
            ) from None

    def read(self) -> dict[str, Generated]:
        """The last line of each key. Torn lines, of a process that was killed while it wrote, count as none."""
        return {one.key: one for one in _lines(self.path)}

    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of every line, those that a later line replaces among them."""
        lines = list(_lines(self.path))
        return sum(one.prompt_tokens for one in lines), sum(one.completion_tokens for one in lines)

    def _end_torn_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if size:
            self._file.seek(size - 1)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")


def _lines(path: Path) -> Iterator[Generated]:
    with path.open("rb") as file:
        for line in file:
            try:
                yield _LINE.validate_json(line)
            except ValidationError:
                continue
