"""What the service answers, without HTTP: the selector in use, which can be switched at any time, and its metrics.

A request is served by one selector from beginning to end, also while another one takes over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ftmeta.models import models_here
from ftmeta.schema import BaseModelInfo
from ftmeta.selector import Selector
from ftmeta.serving.answering import Answering, Canary
from ftmeta.serving.metrics import Metrics
from ftmeta.serving.models import ExportRequest, Question, RecommendationRequest, SuggestionRequest
from ftmeta.serving.remembered import Answer

log = logging.getLogger("ftmeta.serving")


class Service:
    """Answers with the selector in use."""

    def __init__(
        self, selector: Selector, metrics: Metrics, base_models: Sequence[BaseModelInfo] | None = None
    ) -> None:
        """`base_models` None: those that lie on this machine."""
        self._metrics = metrics
        self._base_models = models_here() if base_models is None else base_models
        self._refused = False
        self.answering = Answering(selector, self._base_models)
        metrics.show_selector(self.name, self.version)

    @property
    def name(self) -> str:
        return self.answering.selector.name

    @property
    def version(self) -> str:
        return self.answering.selector.version

    @property
    def canary(self) -> Canary:
        return self.answering.canary

    def recommend(self, request: RecommendationRequest) -> bytes:
        """JSON without the request's id, as of all three. Raises FieldError."""

        def answer(answering: Answering) -> Answer:
            found = answering.recommend(request)
            return _answer(found, found["recommendations"][0]["score"])

        return self._counted(request, answer)

    def suggest(self, request: SuggestionRequest) -> bytes:
        def answer(answering: Answering) -> Answer:
            found = answering.suggest(request)
            return _answer(found, found["score"])

        return self._counted(request, answer)

    def export(self, request: ExportRequest) -> bytes:
        return _answer(self.answering.export(request)).json

    def _counted(self, request: Question, answer: Callable[[Answering], Answer]) -> bytes:
        answering = self.answering  # of this request from beginning to end
        question = None
        if request.dataset.records is None:
            question = f"{type(request).__name__} {request.model_dump_json()}"
        found = None if question is None else answering.remembered.get(question)
        if found is None:
            found = answer(answering)
            if question is not None:
                answering.remembered.put(question, found)
        self._metrics.count(found.score, found.warnings)
        return found.json

    def describe(self) -> dict[str, Any]:
        """What GET /v1/selector answers; `switch_refused`: the last attempt to switch kept the old selector."""
        return {**self.answering.describe(), "switch_refused": self._refused}

    def switch(self, selector: Selector) -> None:
        """Takes over `selector` once it has answered its canary; raises FtmetaError and keeps the old one otherwise."""
        self.answering = Answering(selector, self._base_models)
        self._refused = False
        self._metrics.show_selector(self.name, self.version)
        log.info(json.dumps({"event": "selector", "name": self.name, "version": self.version}))

    def refuse(self, reason: str) -> None:
        """Records that another selector could not take over; the one in use goes on."""
        self._refused = True
        self._metrics.refused.inc()
        log.error(json.dumps({"event": "selector refused", "reason": reason, "in_use": self.version}))

    def check(self) -> None:
        self.answering.check()


def _answer(document: dict[str, Any], score: float | None = None) -> Answer:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Answer(text.encode(), score, tuple(document.get("warnings", ())))
