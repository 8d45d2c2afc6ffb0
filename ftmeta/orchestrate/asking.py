"""Passages -> what a language model makes of them, on Ray: many requests at a time, within a budget of tokens.

Each reply goes into the journal as it comes. An endpoint that goes down is given some minutes to come back; one that
never answers ends the asking at once. Whatever ends it, what is done is kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.orchestrate.progress import Display, time_left
from ftmeta.synthesis.generate import ATTEMPTS, Generated, Journal, Question, generate
from ftmeta.synthesis.language_models import EndpointModel, Failure, LanguageModel, Limits, TransformersModel
from ftmeta.synthesis.prompts import Prompt
from ftmeta.synthesis.settings import Synthesis

DOWN_AFTER = 8  # requests in a row, retries included, that did not reach the endpoint
MOST_DEATHS = 3  # of writers, one after the other, without a reply in between
_TOKENS_PER_PAIR = 150
_CALLS_PER_WRITER = 64
_TRIES = 2  # at a passage in one run, where the endpoint may be to blame or the passage
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

log = logging.getLogger("ftmeta.synthesize")


class _Writer:
    """An actor with a language model. It answers many calls at a time."""

    def __init__(self, settings: Synthesis, prompt: Prompt, key: str | None, limits: Limits, cpus: float) -> None:
        self._settings, self._prompt, self._key, self._limits, self._cpus = settings, prompt, key, limits, cpus
        self._model: LanguageModel | FtmetaError | None = None

    async def write(self, name: str, question: Question) -> Generated | Failure | FtmetaError:
        """An error that no repetition mends is returned, not raised: Ray logs those that nobody waits for any more."""
        try:
            if self._model is None:
                self._model = self._load()
            if isinstance(self._model, FtmetaError):
                return self._model
            return await generate(self._model, name, self._prompt, question, self._settings.temperature)
        except FtmetaError as error:
            if self._model is None:
                self._model = error  # loading it again would fail again
            return error

    def _load(self) -> LanguageModel:
        settings = self._settings
        if settings.llm_url is not None:
            return EndpointModel(settings.llm_url, settings.model, self._key, self._limits)
        import torch

        torch.set_num_threads(max(1, int(self._cpus)))
        return TransformersModel(settings.model, settings.device, self._limits)


@dataclass(frozen=True)
class _Asked:
    name: str
    question: Question
    most_tokens: int


class Asking:
    """Asks about passages until all are done, the budget is spent, the endpoint is down, or somebody stops it.

    `done` is what has come of them, by key; `unfinished` says why some are left over, and `failure` is to be raised in
    the end, when what there is has been written.
    """

    def __init__(self, settings: Synthesis, prompt: Prompt, journal: Journal, key: str | None) -> None:
        self.done: dict[str, Generated] = {}
        self.unfinished: str | None = None
        self.failure: FtmetaError | KeyboardInterrupt | None = None
        self._settings, self._prompt, self._journal, self._key = settings, prompt, journal, key
        self._limits = Limits(
            settings.reply_tokens or _TOKENS_PER_PAIR * settings.pairs, settings.timeout_s, settings.retries
        )
        self._patience_s = (settings.retries + 1) * settings.timeout_s  # as long as one request may take
        self._queue: deque[_Asked] = deque()
        self._running: dict[Any, tuple[_Asked, Any]] = {}  # by the reference to what comes of it; and its writer
        self._writers: deque[Any] = deque()  # the next one first
        self._deaths = 0  # of writers, since the last reply
        self._active = self._stop = False
        self._spent = self._pairs = 0
        # Failures that come before any reply say more of the settings than of the passages: they are not written then.
        self._proven = False
        self._unproven: list[Generated] = []
        # While the endpoint is down, one request is made now and then.
        self._tries: Counter[str] = Counter()
        self._in_a_row = 0  # requests without an answer since the last one
        self._missed: tuple[str, FtmetaError | None] | None = None  # why the last of them was none
        self._answered_at: float | None = None  # in this run
        self._pauses = 0
        self._resume_at: float | None = None

    def run(self, pending: Sequence[tuple[str, Question]], done: dict[str, Generated]) -> None:
        """Asks about `pending`; `done` is what there is of other passages."""
        import ray

        self.done = dict(done)
        self._spent = sum(self._journal.tokens())
        self._pairs = sum(len(one.pairs) for one in done.values())
        self._proven = any(one.outcome != "failed" for one in done.values())
        if not pending:
            return
        self._queue.extend(_Asked(name, question, self._most_tokens(question)) for name, question in pending)
        self._down_after, self._enough_failures = min(DOWN_AFTER, _TRIES * len(pending)), min(DOWN_AFTER, len(pending))
        began, self._active = time.monotonic(), True
        self._writers.extend(self._new_writer() for _ in range(self._writer_count(len(pending))))
        try:
            with Display("asking", len(pending), "passages", f"{self._settings.model}, starting workers") as display:
                while (self._queue or self._running) and self.unfinished is None:
                    self._start()
                    if self._running:
                        for reference in ray.wait(list(self._running), timeout=1.0)[0]:
                            self._take(reference)
                    elif self._resume_at is not None:
                        time.sleep(min(1.0, max(0.0, self._resume_at - time.monotonic())))
                    if self._stop:
                        self._end("stopped; run the same command again for the other passages", KeyboardInterrupt())
                    asked = len(self.done) - len(done)
                    left = time_left(asked, len(pending), began) if asked else "waiting for the first reply"
                    state = "the endpoint does not answer, waiting for it" if self._is_down() else left
                    display.update(asked, f"{state} · {self._pairs:,} pairs · {self._spent:,} tokens")
            if self.unfinished is None:
                self._never_worked()
        finally:
            self._active = False
            for writer in self._writers:
                ray.kill(writer)
        missed = len(done) + len(pending) - len(self.done)
        if missed and self.unfinished is None:
            self._end(f"no answer came for {missed} passages; run the same command again for them")

    def interrupt(self) -> None:
        """For the handler of a signal: ends the asking soon; a second time, or before and after it, at once."""
        if not self._active or self._stop:
            raise KeyboardInterrupt
        self._stop = True
        log.warning("stopping; what is generated is kept, and the same command goes on from there")

    def _end(self, unfinished: str, failure: FtmetaError | KeyboardInterrupt | None = None) -> None:
        self.unfinished, self.failure = unfinished[0].upper() + unfinished[1:] + ".", failure

    def _fail(self, error: FtmetaError) -> None:
        self._end(str(error), error)

    # --- what is asked next -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Starts as many requests as may run at a time and as the budget allows."""
        most, budget = self._settings.concurrency, self._settings.token_budget
        if len(self._unproven) >= self._enough_failures or self._is_down():
            if self._running or self._never_worked() or not self._may_ask_again():  # what runs may yet be answered
                return
            most = 1
        while self._queue and len(self._running) < most:
            following = self._queue[0]
            reserved = sum(asked.most_tokens for asked, _ in self._running.values())
            if budget is not None and self._spent + reserved + following.most_tokens > budget:
                if not self._running:  # those that run may take less than they may
                    self._end(
                        f"the budget of {budget:,} tokens allows no more: {self._spent:,} are used, and one more "
                        f"passage may take {following.most_tokens:,}. {len(self._queue):,} passages are "
                        "left for a larger one"
                    )
                return
            self._queue.popleft()
            writer = self._writers[0]
            self._writers.rotate(-1)
            self._running[writer.write.remote(following.name, following.question)] = (following, writer)

    def _never_worked(self) -> bool:
        """Ends what is wrong from the beginning."""
        if len(self._unproven) >= self._enough_failures:
            reason = f"no reply to the first {len(self._unproven)} passages: {self._unproven[-1].error}"
            self._fail(ConfigError(f"{reason}; mend that and run the same command again"))
            return True
        if self._answered_at is None and self._missed is not None:
            self._fail_to_reach()
            return True
        return False

    def _may_ask_again(self) -> bool:
        """What worked before may come back, and is asked now and then for some time."""
        now = time.monotonic()
        if self._answered_at is not None and now - self._answered_at > self._patience_s:
            self._fail_to_reach()
            return False
        if self._resume_at is None:
            self._resume_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._pauses)
            self._pauses += 1
        if now < self._resume_at:
            return False
        self._resume_at = None
        return True

    def _fail_to_reach(self) -> None:
        reason, error = self._missed or ("", None)
        where = f"the endpoint {self._settings.llm_url} does not answer ({reason})"
        kept = f"{len(self.done):,} passages are done and kept: run the same command again when it is up"
        self._fail(error or FtmetaError(f"{where}; {kept}"))

    def _most_tokens(self, question: Question) -> int:
        """What a passage can take: attempts at full length. Models need more than three bytes for a token."""
        texts = (message["content"] for message in self._prompt.messages(question.text, question.pairs))
        prompt_tokens = math.ceil(sum(len(text.encode("utf-8")) for text in texts) / 3) + 32
        return ATTEMPTS * (prompt_tokens + self._limits.reply_tokens)

    def _is_down(self) -> bool:
        return self._in_a_row >= self._down_after

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def _take(self, reference: Any) -> None:
        import ray

        asked, writer = self._running.pop(reference)
        try:
            found: Generated | Failure | FtmetaError = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._bury(writer, error)
            self._ask_again(asked, counts=False)
            return
        self._deaths = 0
        if isinstance(found, Generated):
            self._answer(found)
        elif isinstance(found, Failure):
            self._miss(asked, found.reason, is_load=found.because_of == "load")
        else:
            if self._answered_at is None:  # the first contact: a wrong key, a model that cannot be loaded
                self._in_a_row = self._down_after
            self._miss(asked, str(found), found)

    def _answer(self, generated: Generated) -> None:
        self._answered_at, self._in_a_row, self._pauses = time.monotonic(), 0, 0
        self._spent += generated.prompt_tokens + generated.completion_tokens
        self._proven = self._proven or generated.outcome != "failed"
        self._unproven.append(generated)
        if self._proven:
            for one in self._unproven:
                self._journal.put(one)
                self.done[one.key] = one
                self._pairs += len(one.pairs)
            self._unproven.clear()

    def _miss(self, asked: _Asked, reason: str, error: FtmetaError | None = None, *, is_load: bool = False) -> None:
        self._missed = (reason, error)
        self._ask_again(asked, counts=not is_load and not self._is_down())
        self._in_a_row += 1

    def _ask_again(self, asked: _Asked, *, counts: bool) -> None:
        self._tries[asked.name] += counts
        if self._tries[asked.name] < _TRIES:
            self._queue.append(asked)

    # --- writers ------------------------------------------------------------------------------------------------------

    def _bury(self, writer: Any, error: Exception) -> None:
        """A writer's process is gone: out of memory, or with its node. Its first request to say so replaces it."""
        if writer not in self._writers:
            return
        self._writers.remove(writer)
        self._deaths += 1
        if self._deaths < MOST_DEATHS:
            self._writers.append(self._new_writer())
        else:
            said = " ".join(str(error).split())[:500]
            self._fail(
                FtmetaError(f"{MOST_DEATHS} workers with the language model died ({said}); what is done is kept")
            )

    def _new_writer(self) -> Any:
        import ray

        settings = self._settings
        cpus, gpus = _resources(settings)
        actor: Any = ray.remote(_Writer)
        actor = actor.options(
            num_cpus=cpus, num_gpus=gpus, max_concurrency=settings.concurrency, scheduling_strategy="SPREAD"
        )
        return actor.remote(settings, self._prompt, self._key, self._limits, cpus)

    def _writer_count(self, pending: int) -> int:
        if self._settings.llm_url is None:
            return min(self._settings.local_models or 1, pending)
        return math.ceil(min(self._settings.concurrency, pending) / _CALLS_PER_WRITER)


def require_room(settings: Synthesis) -> None:
    """Raises ConfigError where no node of the cluster has what a local model is to get: Ray would wait for ever."""
    import ray

    if settings.llm_url is not None or settings.local_models is not None:
        return
    cpus, gpus = _resources(settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        found = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes[:8])
        raise ConfigError(
            f"the model is to get {cpus:g} CPU and {gpus:g} GPU, and no node has them (CPU and GPU of the nodes: "
            f"{found}); take device cpu or a larger machine, lower cpus_per_model or gpus_per_model, or say "
            "`local_models:` for a cluster that grows"
        )


def _resources(settings: Synthesis) -> tuple[float, float]:
    """CPU and GPU of a writer; those that ask an endpoint wait most of the time."""
    import ray

    if settings.llm_url is not None:
        return 0.0, 0.0
    gpus = float(settings.device != "cpu") if settings.gpus_per_model is None else settings.gpus_per_model
    if settings.cpus_per_model is not None:
        return settings.cpus_per_model, gpus
    return max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), gpus
