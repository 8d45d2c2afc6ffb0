"""Passages -> what a language model makes of them, on Ray: many requests at a time, within a budget of tokens.

Each reply goes into the journal as it comes. An endpoint that is down ends the asking with all of them kept.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftmeta.errors import FtmetaError
from ftmeta.orchestrate.progress import Display, time_left
from ftmeta.synthesis.generate import ATTEMPTS, Generated, Journal, Question, generate
from ftmeta.synthesis.language_models import EndpointModel, LanguageModel, Limits, TransformersModel
from ftmeta.synthesis.prompts import Prompt
from ftmeta.synthesis.settings import Synthesis

DOWN_AFTER = 8  # requests in a row, retries included, that did not reach the endpoint
_TOKENS_PER_PAIR = 150
_CALLS_PER_ACTOR = 64
_UNREACHED_TRIES = 2  # at a passage in one run, when only the endpoint is to blame


class _Writer:
    """An actor with a language model. It answers many calls at a time."""

    def __init__(self, settings: Synthesis, prompt: Prompt, key: str | None, limits: Limits) -> None:
        self._settings, self._prompt, self._key, self._limits = settings, prompt, key, limits
        self._model: LanguageModel | None = None

    async def write(self, name: str, question: Question) -> Generated | FtmetaError:
        """An error that no repetition mends is returned, not raised: Ray logs those that nobody waits for any more."""
        try:
            if self._model is None:
                self._model = self._load()
            return await generate(self._model, name, self._prompt, question, self._settings.temperature)
        except FtmetaError as error:
            return error

    def _load(self) -> LanguageModel:
        settings = self._settings
        if settings.llm_url is not None:
            return EndpointModel(settings.llm_url, settings.model, self._key, self._limits)
        import torch

        torch.set_num_threads(max(1, int(settings.cpus_per_model)))
        return TransformersModel(settings.model, settings.device, self._limits)


class Asking:
    """Asks about passages until all are done, the budget is spent or the endpoint is down.

    `done` is what has come of them, by key; `unfinished` says why some are left over, and `failure` is to be raised in
    the end, when what there is has been written.
    """

    def __init__(self, settings: Synthesis, prompt: Prompt, journal: Journal, done: dict[str, Generated]) -> None:
        self.done = done
        self.unfinished: str | None = None
        self.failure: FtmetaError | None = None
        self._settings, self._prompt, self._journal = settings, prompt, journal
        self._limits = Limits(
            settings.reply_tokens or _TOKENS_PER_PAIR * settings.pairs, settings.timeout_s, settings.retries
        )
        self._spent = sum(journal.tokens())
        self._pairs = sum(len(one.pairs) for one in done.values())
        self._queue: deque[_Asked] = deque()
        self._running: dict[Any, _Asked] = {}
        self._unreached: Counter[str] = Counter()  # tries at each passage
        self._in_a_row = 0  # requests that did not reach the endpoint
        self._down_after = DOWN_AFTER

    def run(self, pending: Sequence[tuple[str, Question]], key: str | None) -> None:
        import ray

        settings = self._settings
        self._queue.extend(_Asked(name, question, self._most_tokens(question)) for name, question in pending)
        self._down_after = min(DOWN_AFTER, _UNREACHED_TRIES * len(pending))
        began, before = time.monotonic(), len(self.done)
        writers = _writers(settings, self._prompt, key, self._limits, len(pending))
        turns = itertools.cycle(writers)
        try:
            with Display("asking", len(pending), "passages", f"{settings.model}, starting workers") as display:
                while self._start(turns):
                    for reference in ray.wait(list(self._running), timeout=1.0)[0]:
                        self._take(self._running.pop(reference), _generated(reference))
                    asked = len(self.done) - before
                    left = time_left(asked, len(pending), began)
                    display.update(asked, f"{left} · {self._pairs:,} pairs · {self._spent:,} tokens")
        finally:
            for writer in writers:
                ray.kill(writer)
        missed = before + len(pending) - len(self.done)
        if missed and self.unfinished is None:
            self.unfinished = f"The endpoint did not answer for {missed} passages; run the same command again for them."

    def _start(self, turns: Iterator[Any]) -> bool:
        """Starts as many requests as may run at a time and as the budget allows; False if none is running then."""
        budget = self._settings.token_budget
        while self._queue and len(self._running) < self._settings.concurrency:
            following = self._queue[0]
            reserved = sum(one.most_tokens for one in self._running.values())
            if budget is not None and self._spent + reserved + following.most_tokens > budget:
                if not self._running:  # those that run may take less than they may
                    self.unfinished = (
                        f"The budget of {budget:,} tokens is spent: {self._spent:,} are used, and one more passage may "
                        f"take {following.most_tokens:,}. {len(self._queue):,} passages are left for a larger one."
                    )
                break
            self._queue.popleft()
            self._running[next(turns).write.remote(following.name, following.question)] = following
        return bool(self._running)

    def _take(self, asked: _Asked, generated: Generated) -> None:
        self._spent += generated.prompt_tokens + generated.completion_tokens
        if not generated.unreachable:
            self._in_a_row = 0
            self._journal.put(generated)
            self.done[asked.name] = generated
            self._pairs += len(generated.pairs)
            return
        self._in_a_row += 1
        self._unreached[asked.name] += 1
        if self.failure is None and self._unreached[asked.name] < _UNREACHED_TRIES:
            self._queue.append(asked)
        if self.failure is None and self._in_a_row >= self._down_after:
            self._queue.clear()
            url = self._settings.llm_url
            self.unfinished = f"The endpoint {url} does not answer: {generated.error}."
            self.failure = FtmetaError(
                f"the endpoint {url} does not answer ({generated.error}); {len(self.done):,} passages are done "
                "and kept: run the same command again when it is up"
            )

    def _most_tokens(self, question: Question) -> int:
        """What a passage can take: attempts at full length. Models need more than three bytes for a token."""
        texts = (message["content"] for message in self._prompt.messages(question.text, question.pairs))
        prompt_tokens = math.ceil(sum(len(text.encode("utf-8")) for text in texts) / 3) + 32
        return ATTEMPTS * (prompt_tokens + self._limits.reply_tokens)


@dataclass(frozen=True)
class _Asked:
    name: str
    question: Question
    most_tokens: int


def _writers(settings: Synthesis, prompt: Prompt, key: str | None, limits: Limits, pending: int) -> list[Any]:
    import ray

    if settings.llm_url is not None:  # they wait most of the time
        count = math.ceil(min(settings.concurrency, pending) / _CALLS_PER_ACTOR)
        resources = {"num_cpus": 0.0}
    else:
        count = min(settings.local_models, pending)
        resources = {"num_cpus": settings.cpus_per_model, "num_gpus": settings.gpus_per_model}
    actor: Any = ray.remote(_Writer)
    options = {**resources, "max_concurrency": settings.concurrency, "scheduling_strategy": "SPREAD"}
    return [actor.options(**options).remote(settings, prompt, key, limits) for _ in range(count)]


def _generated(reference: Any) -> Generated:
    """Raises what no repetition mends: a wrong key, an unknown model, a writer whose process died."""
    import ray

    try:
        found: Generated | FtmetaError = ray.get(reference)
    except ray.exceptions.RayActorError as error:
        said = " ".join(str(error).split())[:500]
        raise FtmetaError(f"the worker with the language model died ({said}); what is done is kept") from None
    if isinstance(found, FtmetaError):
        raise found
    return found
